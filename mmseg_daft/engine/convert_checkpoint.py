"""Convert a source model's batch norm to a target domain, from checkpoint to checkpoint, without training.

    python tools/convert_checkpoint.py CONFIG CHECKPOINT OUT [--overwrite] [--num-batches N] [--cache-dir DIR] ...

CONFIG is a training config on the target domain: its training data and, if it has one, its BNConversionHook say what is
done. CHECKPOINT is a segmentor's. OUT is one like it that computes the same in test mode; fine-tune from it with
load_from=OUT, or init_cfg=dict(type='Pretrained', checkpoint=OUT, prefix='backbone'), and without BNConversionHook. It
keeps weights and meta, and tells of its conversion in meta['bn_conversion'].
"""

from __future__ import annotations

import argparse
import io
import time
from pathlib import Path
from typing import Any

from mmseg_daft.engine.offline import OfflinePass, add_arguments, prepare

# isort: split
import torch
from mmengine.runner import CheckpointLoader

from mmseg_daft.core.batch_norm import why_not_convertible
from mmseg_daft.core.shift import domain_shift
from mmseg_daft.engine.convert_model import ConversionReport, checked_conversion, describe_dataset
from mmseg_daft.engine.hooks.bn_conversion_hook import RECORD
from mmseg_daft.files import write_atomically


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='a training config on the target domain')
    parser.add_argument('checkpoint', help="the source model, a segmentor's checkpoint")
    parser.add_argument('out', type=Path, help='the converted checkpoint')
    parser.add_argument('--overwrite', action='store_true', help='replace OUT where it exists')
    add_arguments(parser)
    return parser.parse_args()


def read_checkpoint(path: str) -> dict[str, Any]:
    """Read a checkpoint whole.

    Raises:
        SystemExit: It was converted before.
    """
    content = CheckpointLoader.load_checkpoint(path, map_location='cpu', logger=None)
    runtime = content.get('message_hub', {}).get('runtime_info', {})
    if RECORD in content.get('meta', {}) or RECORD in runtime:
        raise SystemExit(f'{path} tells that it was converted already; convert the source model instead.')
    return content


def convert_model(offline: OfflinePass) -> ConversionReport:
    """Make the pass and convert the model in place, as ``BNConversionHook`` does before training."""
    start = time.perf_counter()
    hook = offline.hook
    result = offline.run()
    shifts = {name: domain_shift(layer, result.statistics[name]) for name, layer in offline.layers.items()}
    change = checked_conversion(
        offline.layers, result.statistics, hook.variant, offline.forward, result.sample, hook.tolerance)
    return ConversionReport(
        modules=hook.modules, variant=hook.variant, dataset=describe_dataset(offline.loader.dataset),
        **result.facts(), seed=offline.settings.seed, seconds=time.perf_counter() - start, output_change=change,
        shifts=shifts,
        left={name: why_not_convertible(layer) for name, layer in offline.found.items()
              if name not in offline.layers})


def converted_content(content: dict[str, Any], offline: OfflinePass, report: ConversionReport) -> dict[str, Any]:
    """Return a checkpoint with the layers' new tensors; what belongs to the source's training is left out."""
    state = dict(content.get('state_dict', content))
    whole = offline.model.state_dict()
    prefix = 'module.' if all(name.startswith('module.') for name in state) else ''
    for layer in offline.layers:
        for tensor in ('weight', 'bias', 'running_mean', 'running_var'):
            name = f'{prefix}{layer}.{tensor}'
            state[name] = whole[f'{layer}.{tensor}'].cpu().to(state[name].dtype).clone()
    meta = dict(content.get('meta', {})) if 'state_dict' in content else {}
    return dict(meta={**meta, RECORD: report.record()}, state_dict=state)


def main() -> None:
    """Convert."""
    args = parse_args()
    if args.out.exists() and not args.overwrite:
        raise SystemExit(f'{args.out} exists; name another file, or replace it with --overwrite.')
    offline = prepare(args, args.config, args.checkpoint)
    content = read_checkpoint(args.checkpoint)
    report = convert_model(offline)
    buffer = io.BytesIO()
    torch.save(converted_content(content, offline, report), buffer)
    write_atomically(args.out, buffer.getvalue())
    print(report.summary(offline.hook.tolerance if offline.hook.variant.compensate else None))
    print(f'Written to {args.out}. Fine-tune from it with --cfg-options load_from={args.out} and without '
          'BNConversionHook.')


if __name__ == '__main__':
    main()
