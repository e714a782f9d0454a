"""Whether the files that a model starts from are there, and match it."""

from __future__ import annotations

import os
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from urllib.parse import urlparse

import torch
from mmengine.config import Config
from mmengine.runner import checkpoint as mmengine_checkpoint
from torch import nn

from mmseg_daft.doctor.config import hook_of
from mmseg_daft.doctor.finding import Finding, Problem, Verdict, describe, fail, ok, some, warn
from mmseg_daft.engine.pretrained_weights import WeightMatch, match_file, match_start, pretrained_starts
from mmseg_daft.models.torchscript import SCHEME, local_archive

TIMEOUT = 10  # seconds


def check_weights(cfg: Config, model: nn.Module, full: bool) -> Iterator[Finding]:
    """Check every ``init_cfg`` and ``load_from``; download what is not here with ``full`` only."""
    hook = hook_of(cfg, 'PretrainedWeightsHook') or {}
    min_share = hook.get('min_share', 0.95)
    load_from = None if cfg.get('resume') else cfg.get('load_from')
    starts = list(pretrained_starts(model))
    for start in starts:
        what = f'{start.name or "model"} from {start.checkpoint}' + (f', prefix {start.prefix}' if start.prefix else '')
        if start.own_loading:
            yield warn('weights', f'{what}: the module reads it by code of its own, so it was not compared.',
                       'Look for its warnings when the training starts.')
            continue
        for finding in _check_file(what, start.checkpoint, lambda start=start: match_start(start), min_share, full):
            if load_from and finding.verdict is Verdict.FAIL and os.path.exists(local_file(start.checkpoint)):
                finding = warn('weights', f'{finding.found} load_from replaces them.', finding.fix)
            yield finding
    if load_from:
        state = model.state_dict()
        state = {name: tensor for name, tensor in state.items() if name.startswith('backbone.')} or state
        what = f'load_from {load_from}'
        yield from _check_file(what, load_from, lambda: match_file(state, load_from), min_share, full)
    if not starts and not load_from:
        if hook_of(cfg, 'BNConversionHook'):
            yield fail('weights', 'The model starts from no pre-trained file, and BNConversionHook needs one.',
                       "Set model.backbone.init_cfg=dict(type='Pretrained', checkpoint=…) or load_from.")
        else:
            yield warn('weights', 'The model starts from no pre-trained file: it is trained from scratch.',
                       "If that is not meant: model.backbone.init_cfg=dict(type='Pretrained', checkpoint=…).")


def local_file(checkpoint: str) -> str:
    """Return where a checkpoint lies on this machine, once it was downloaded.

    Raises:
        Problem: MMEngine knows no model of this name.
    """
    if checkpoint.startswith(SCHEME):
        return str(local_archive(checkpoint.removeprefix(SCHEME))[0])
    address = resolve(checkpoint)
    if is_url(address):
        return os.path.join(torch.hub.get_dir(), 'checkpoints', os.path.basename(urlparse(address).path))
    return address


def resolve(checkpoint: str) -> str:
    """Return the path or URL behind ``torchscript://…``, ``torchvision://…`` and ``open-mmlab://…``.

    Raises:
        Problem: MMEngine knows no model of this name.
    """
    if checkpoint.startswith(SCHEME):
        return checkpoint.removeprefix(SCHEME)
    scheme, _, name = checkpoint.rpartition('://')
    if scheme not in ('torchvision', 'modelzoo', 'open-mmlab', 'openmmlab'):
        return checkpoint
    if scheme in ('torchvision', 'modelzoo'):
        urls = mmengine_checkpoint.get_torchvision_models()
    else:
        urls = mmengine_checkpoint.get_external_models()
        name = mmengine_checkpoint.get_deprecated_model_names().get(name, name)
    if name not in urls:
        raise Problem(f'{checkpoint}: MMEngine knows no such model.', 'Give a path or a URL.')
    return urls[name]


def is_url(address: str) -> bool:
    """Return whether an address is one that ``urllib`` can ask for."""
    return address.startswith(('http://', 'https://'))


def size_at(url: str) -> int | None:
    """Ask a server for a file's size in bytes, without the file; ``None`` where it does not say.

    Raises:
        OSError: The server or the file cannot be reached.
    """
    try:
        request = urllib.request.Request(url, method='HEAD')
        with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
            size = answer.headers.get('Content-Length')
    except urllib.error.HTTPError as error:
        if error.code not in (403, 405, 501):
            raise
        # Some servers refuse HEAD: ask for the first byte.
        request = urllib.request.Request(url, headers={'Range': 'bytes=0-0'})
        with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
            size = answer.headers.get('Content-Range', '').rpartition('/')[2]
    return int(size) if size and size.isdigit() else None


def _check_file(
    what: str, checkpoint: str, match: Callable[[], WeightMatch], min_share: float, full: bool,
) -> Iterator[Finding]:
    address = resolve(checkpoint)
    path = local_file(checkpoint)
    if not is_url(address) and '://' in address:
        if not full:
            yield warn('weights', f'{what}: not checked, as its scheme is read by --full alone.', 'Use --full.')
            return
    elif not os.path.isfile(path) and not is_url(address):
        yield fail('weights', f'{what}: there is no such file.', 'Put it there, train the model that writes it, or '
                   'correct the path; a relative one starts at the folder that you train from.')
        return
    elif not os.path.isfile(path) and not full:
        yield _reach(what, address, path)
        return
    try:
        matched = match()
    except Exception as error:
        yield fail('weights', f'{what}: cannot be read. {describe(error)}',
                   f'Remove {path} and get it again.' if is_url(address) else 'Write or download the file again.')
        return
    problem = matched.problem(min_share)
    if problem:
        yield fail('weights', f'{what} does not match: {problem}',
                   'Correct prefix or the file; MMEngine would only warn, and train from random weights.')
    else:
        rest = [*matched.missing, *matched.misshapen]
        yield ok('weights', f'{what}: {len(matched.matched)} tensors match ({matched.share:.0%})'
                 + (f', not {some(rest)}' if rest else ''))


def _reach(what: str, url: str, path: str) -> Finding:
    try:
        size = size_at(url)
    except (OSError, ValueError) as error:
        return fail('weights', f'{what}: cannot be reached from here. {describe(error)}',
                    f'Download it where there is a network and put it at {path}, or set checkpoint to its path.')
    return ok('weights', f'{what}: reachable' + (f', {size / 1e6:.0f} MB' if size else '')
              + '; not downloaded yet (--full downloads and compares it)')
