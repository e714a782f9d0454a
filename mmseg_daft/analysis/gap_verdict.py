"""What a domain gap means for the conversion, in a sentence, with the evidence that there is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any, NamedTuple

from mmseg_daft.core.shift import LayerGap

LARGE = 0.15
"""Median divergence in nats from which a gap is called large: between 0.07 (day to day) and 0.37 (day to dusk)."""
POOR_HEAD = 0.25
"""Accuracy above chance, relative to the most there could be, under which a source decoder fails on the target:
between 0.05 (day to dusk) and 0.55 (day to day)."""
HELPFUL_ADAPTATION = 0.03
"""Accuracy that adapted statistics have to gain to be called better: both cases lie within 0.02."""


class Competence(NamedTuple):
    """How well features serve the target's labels (see ``linear_probe``).

    Attributes:
        source: Accuracy of a linear read-out of the features that the source's function, which the conversion keeps,
            computes.
        adapted: Likewise, with the target's statistics and without compensation: what training-mode batch norm
            starts from where nothing is converted.
        head: Accuracy of the checkpoint's own decoder, or ``None`` where it has none that fits.
        classes: Number of classes; chance is one in so many.
    """

    source: float
    adapted: float
    head: float | None
    classes: int


def layer_rows(gaps: Mapping[str, LayerGap]) -> list[dict[str, Any]]:
    """Return a row of plain numbers for each layer, in the model's order."""
    return [dict(layer=name, stage=stage_of(name), **gap.numbers()) for name, gap in gaps.items()]


def stage_of(layer: str) -> str:
    """Return the stage of a ResNet's layer, ``'stem'`` before the first; of another module its first two names."""
    part = layer.removeprefix('backbone.').split('.')[0]
    if part.startswith('layer') and part[5:].isdigit():
        return part[5:]
    return 'stem' if layer.startswith('backbone.') else '.'.join(layer.split('.')[:2])


def verdict(rows: Sequence[Mapping[str, Any]], competence: Competence | None) -> str:
    """Say how large the gap is, of which kind and where, and what to expect of a conversion.

    The conversion does two things. It spares the network the jump of its batch-norm statistics in the first
    iterations; that matters the more the larger the gap. And it keeps the source's function; that helps on the target
    as far as that function serves there, which the competence measures. The thresholds lie between two cases that
    were measured, CamVid's day to dusk and day to other images of the day (``docs/camvid_domain_gap.md``); two points
    are no law.
    """
    typical = median(row['divergence'] for row in rows)
    means, variances = (sum(row[part] for row in rows) for part in ('mean_divergence', 'var_divergence'))
    share = means / (means + variances) if means + variances else 0.5
    kind = 'of means' if share > 2 / 3 else 'of variances' if share < 1 / 3 else 'of means and variances alike'
    stages = {row['stage']: median(r['divergence'] for r in rows if r['stage'] == row['stage']) for row in rows}
    farthest = max(stages, key=stages.__getitem__)
    size = 'large' if typical >= LARGE else 'small'
    words = [f'The gap is {size} (median divergence {typical:.2f} nats; in CamVid 0.07 from day to day, 0.37 from '
             f'day to dusk), a matter {kind} ({share:.0%} of it by means), and largest in stage {farthest} '
             f'({stages[farthest]:.2f}).']
    words.append('Training without conversion starts with a jump of the batch-norm statistics: a conversion is likely '
                 'to cut distortion.' if size == 'large' else
                 'Batch-norm statistics hardly jump at the start of training: a conversion is likely to change little.')
    if competence is None:
        words.append('Whether the function that it keeps is good for the target was not measured.')
    else:
        words.append(_on_competence(competence, size == 'large'))
    words.append('(Thresholds rest on two cases of one data set and one small model: two points are no law.)')
    return ' '.join(words)


def _on_competence(measured: Competence, large: bool) -> str:
    chance = 1 / measured.classes
    gain = measured.adapted - measured.source
    told = (f'A linear read-out of the source features tells {measured.source:.0%} of the target\'s pixels right '
            f'(balanced; chance {chance:.0%}), with adapted statistics {measured.adapted:.0%}')
    head = f', and the source decoder {measured.head:.0%}.' if measured.head is not None else '.'
    poor = measured.head is not None and (measured.head - chance) / (1 - chance) < POOR_HEAD
    if gain > HELPFUL_ADAPTATION:
        expected = ('Adapted statistics serve better than the function that the conversion keeps: do not expect more '
                    'target accuracy from keeping it; try the ablation compensate=False, too.')
    elif poor:
        expected = ('The source function all but fails on the target, so that keeping it keeps poor features: expect '
                    'less distortion, but target accuracy no better than level with plain fine-tuning, and sweep the '
                    'backbone\'s rate upwards.')
    elif measured.head is None:
        expected = ('Adapted statistics serve no better than the function that the conversion keeps; how good that is, '
                    'only a decoder of the same classes could tell.')
    elif large:
        expected = 'The source function serves on the target: keeping it, as in the paper\'s cases, should help.'
    else:
        expected = 'The source function serves on the target, and fine-tuning is likely to keep it either way.'
    return f'{told}{head} {expected}'
