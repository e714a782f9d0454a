"""Convert a source model's batch norm to a target domain, from checkpoint to checkpoint, without training.

    mmseg-daft convert CONFIG CHECKPOINT OUT [--overwrite] [--num-batches N] ...

CONFIG is a training config on the target domain: its training data and, if it has one, its BNConversionHook say what is
done. CHECKPOINT is a segmentor's. OUT is a checkpoint that computes the same in eval mode; fine-tune from it with
load_from=OUT, or init_cfg=dict(type='Pretrained', checkpoint=OUT, prefix='backbone'), and without BNConversionHook. It
keeps weights and meta; its conversion is described in meta['bn_conversion'].
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmseg_daft import offline
from mmseg_daft.files import refuse_unwritable

if TYPE_CHECKING:
    from mmseg_daft.engine.convert_model import ConversionRecord
    from mmseg_daft.offline.start import Start


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument('config', help='a training config on the target domain')
    parser.add_argument('checkpoint', help="the source model, a segmentor's checkpoint")
    parser.add_argument('out', type=Path, help='the converted checkpoint')
    parser.add_argument('--overwrite', action='store_true', help='replace OUT where it exists')
    offline.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Convert; refuse in a sentence what cannot be."""
    try:
        _convert(args)
    except (ValueError, RuntimeError, OSError) as error:
        raise SystemExit(f'mmseg-daft convert: {error}') from error
    return 0


def _convert(args: argparse.Namespace) -> None:
    refuse_unwritable(args.out)
    if args.out.exists() and not args.overwrite:
        raise SystemExit(f'{args.out} exists; name another file, or replace it with --overwrite.')
    import mmseg_daft

    mmseg_daft.register()
    from mmseg_daft.engine.checkpoints import read_checkpoint, write_checkpoint
    from mmseg_daft.engine.convert_model import RECORD
    from mmseg_daft.offline.start import read_start

    start = read_start(args, args.checkpoint)
    content = read_checkpoint(args.checkpoint)[1]
    runtime = content.get('message_hub', {}).get('runtime_info', {})
    if RECORD in content.get('meta', {}) or RECORD in runtime:
        raise SystemExit(f'{args.checkpoint} was converted already; convert the source model instead.')
    record = start.convert()
    write_checkpoint(args.out, converted_content(content, start, record))
    print(record.summary())
    print(f'Written to {args.out}. Fine-tune from it with --cfg-options load_from={args.out} and without '
          'BNConversionHook.')


def converted_content(content: dict[str, Any], start: Start, record: ConversionRecord) -> dict[str, Any]:
    """Return a checkpoint with the layers' new tensors; what belongs to the source's training is left out."""
    from mmseg_daft.engine.convert_model import RECORD, state_of

    state = dict(content.get('state_dict', content))
    prefix = 'module.' if all(name.startswith('module.') for name in state) else ''
    for name, tensor in state_of(start.model, record.shifts).items():
        state[prefix + name] = tensor  # in the precision that was checked, whatever the source's: float16 ends at 65504
    meta = dict(content.get('meta', {})) if 'state_dict' in content else {}
    return dict(meta={**meta, RECORD: record.as_dict()}, state_dict=state)
