"""Whether the files that a model starts from are there, and match it."""

import os
import urllib.request
from collections.abc import Collection, Generator, Iterable, Mapping
from dataclasses import replace
from urllib.parse import urlparse

import torch
from mmengine.config import Config
from mmengine.runner import checkpoint as mmengine_checkpoint
from torch import Tensor, nn

from mmseg_daft.doctor.finding import Finding, Problem, Verdict, describe, fail, ok, some, warn
from mmseg_daft.engine.checkpoints import read_checkpoint
from mmseg_daft.engine.configs import hook_of
from mmseg_daft.engine.pretrained_weights import WeightMatch, match_weights, pretrained_starts, self_loaded
from mmseg_daft.models import efficientnet_lite
from mmseg_daft.models.torchscript import SCHEME, is_address, local_archive

TIMEOUT = 10  # seconds


def check_weights(cfg: Config, model: nn.Module, full: bool) -> Generator[Finding, None, set[str]]:
    """Check every ``init_cfg`` and ``load_from``; only ``full`` downloads what is not on this machine.

    Returns:
        The names of the model's tensors that files fill; all of a part where that is unknown before the start.
    """
    hook = hook_of(cfg, 'PretrainedWeightsHook')
    min_share = None if hook is None else hook.get('min_share', 0.95)
    load_from = None if cfg.get('resume') else cfg.get('load_from')
    starts, filled = list(pretrained_starts(model)), set()
    for start in starts:
        what = f'{start.name or "model"} from {start.checkpoint}' + (f', prefix {start.prefix}' if start.prefix else '')
        if start.own_loading:
            yield warn(f'{what}: the module reads it with code of its own, so it was not compared.',
                       'Watch for its warnings when the training starts.')
            continue
        state = start.module.state_dict()
        finding, names = _check_file(what, state, start.checkpoint, start.prefix, min_share, full)
        filled.update(f'{start.name}.{name}'.lstrip('.') for name in names)
        if load_from and finding.verdict is Verdict.FAIL and os.path.exists(locate(start.checkpoint)[1]):
            finding = replace(finding, verdict=Verdict.WARN, found=f'{finding.found} load_from replaces them.')
        yield finding
    if load_from:
        state = model.state_dict()
        state = {name: tensor for name, tensor in state.items() if name.startswith('backbone.')} or state
        yield _check_file(f'load_from {load_from}', state, load_from, None, min_share, full)[0]
    elif own := self_loaded(model):
        for name, problem in own.items():
            what = f'{name} loads its weights itself when it is built'
            yield fail(f'{what}: {problem}.', 'Correct its file.') if problem else warn(
                f'{what}, so they were not compared.', 'Make sure that they are the pre-trained ones.')
    elif not starts and hook_of(cfg, 'BNConversionHook'):
        yield fail('The model starts from no pre-trained file, and BNConversionHook needs one.',
                   "Set model.backbone.init_cfg=dict(type='Pretrained', checkpoint=…) or load_from.")
    elif not starts:
        yield warn('The model starts from no pre-trained file: it is trained from scratch.',
                   "If that is not meant: model.backbone.init_cfg=dict(type='Pretrained', checkpoint=…).")
    unknown = cfg.get('load_from') or not starts or any(start.own_loading for start in starts)
    return {*model.state_dict()} if unknown else filled


def locate(checkpoint: str) -> tuple[str, str]:
    """Return the path or URL behind a checkpoint or a scheme, and its path on this machine, once it is downloaded.

    Raises:
        Problem: MMEngine knows no model of this name, or its package is not installed.
    """
    if checkpoint.startswith(SCHEME):
        address = checkpoint.removeprefix(SCHEME)
        return address, str(local_archive(address)[0])
    if checkpoint.startswith(efficientnet_lite.SCHEME):
        try:
            path = efficientnet_lite.installed_file(checkpoint.removeprefix(efficientnet_lite.SCHEME))
        except ValueError as error:
            raise Problem(str(error)) from None
        return str(path), str(path)
    scheme, _, name = checkpoint.rpartition('://')
    urls = {name: checkpoint}
    if scheme in ('torchvision', 'modelzoo'):
        urls = mmengine_checkpoint.get_torchvision_models()
    elif scheme in ('open-mmlab', 'openmmlab'):
        urls = mmengine_checkpoint.get_external_models()
        name = mmengine_checkpoint.get_deprecated_model_names().get(name, name)
    if name not in urls:
        raise Problem(f'{checkpoint}: MMEngine knows no such model.', 'Give a path or a URL.')
    address = urls[name]
    downloaded = os.path.join(torch.hub.get_dir(), 'checkpoints', os.path.basename(urlparse(address).path))
    return address, downloaded if is_address(address) else address


def size_at(url: str) -> int | None:
    """Ask a server for a file's size in bytes, without downloading it; ``None`` if the server does not say."""
    request = urllib.request.Request(url, headers={'Range': 'bytes=0-0'})  # some servers refuse HEAD
    with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
        whole = answer.headers.get('Content-Range')
        size = whole.rpartition('/')[2] if whole else answer.headers.get('Content-Length', '')
    return int(size) if size.isdigit() else None


def _check_file(
    what: str, state: Mapping[str, Tensor], checkpoint: str, prefix: str | None, min_share: float | None, full: bool,
) -> tuple[Finding, Collection[str]]:
    """Return what is found of a file, and the names in ``state`` that it fills: all where it is not read."""
    file = _read_file(what, checkpoint, full)
    if isinstance(file, Finding):
        return file, state
    matched = match_weights(state, file, prefix)
    return _judge_match(what, matched, file, prefix, min_share), matched.matched


def _read_file(what: str, checkpoint: str, full: bool) -> Finding | Mapping[str, Tensor]:
    """Return a file's tensors, or what is found where it is not read."""
    address, path = locate(checkpoint)
    if not os.path.isfile(path):
        if '://' not in address:
            return fail(f'{what}: there is no such file.', 'Put it there, train the model that writes it, or correct '
                        'the path; a relative one starts at the folder that you train from.')
        if not full and not is_address(address):
            return warn(f'{what}: not checked, as only --full reads from such an address.', 'Use --full.')
        if not full:
            try:
                size = size_at(address)
            except (OSError, ValueError) as error:
                return fail(f'{what}: cannot be reached from here. {describe(error)}', 'Download it where there is a '
                            f'network and put it at {path}, or set checkpoint to its path.')
            return ok(f'{what}: reachable' + (f', {size / 1e6:.0f} MB' if size else '')
                      + '; not downloaded yet (--full downloads and compares it)')
    try:
        return read_checkpoint(checkpoint)[0]
    except Exception as error:
        return fail(f'{what}: cannot be read. {describe(error)}',
                    f'If it is damaged, remove {path}, and it is downloaded again.' if is_address(address) else '')


def _judge_match(
    what: str, matched: WeightMatch, file: Mapping[str, Tensor], prefix: str | None, min_share: float | None,
) -> Finding:
    problem = matched.problem(0.95 if min_share is None else min_share)
    # No hook refuses them, and a backbone may have parts that are new: DDRNet's pooling.
    new = min_share is None and matched.share > 0.5 and not matched.lost
    if problem and not new:
        return fail(f'{what} does not match: {problem}',
                    'Correct prefix or the file; MMEngine would only warn, and train from random weights.')
    if bad := _impossible(file, matched.matched, prefix):
        return fail(f'{what}: {some(bad)}, so the network it is of diverged, or the file is damaged.',
                    'Take an earlier checkpoint of that training, or get the file again.')
    if problem:
        return warn(f'{what}: {len(matched.matched)} tensors match ({matched.share:.0%}); the file has nothing of '
                    f'{some(matched.new_parts)}, which starts from random weights.',
                    'If that is not meant, correct prefix or the file.')
    rest = some([*matched.missing, *matched.misshapen])
    return ok(f'{what}: {len(matched.matched)} tensors match ({matched.share:.0%})' + (f', not {rest}' if rest else ''))


def _impossible(file: Mapping[str, Tensor], names: Iterable[str], prefix: str | None) -> list[str]:
    """Return what no trained network holds: numbers that are not finite, and negative variances."""
    start = f'{prefix.rstrip(".")}.' if prefix else ''
    found = []
    for name in names:
        tensor = file.get(start + name, file.get(f'module.{name}'))
        if tensor is None or not tensor.is_floating_point():
            continue
        if not torch.isfinite(tensor).all():
            found.append(f'{start}{name} holds NaN or infinite values')
        elif name.endswith('running_var') and bool((tensor < 0).any()):
            found.append(f'{start}{name} holds negative variances')
    return found
