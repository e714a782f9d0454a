"""A conversion that is undone and raises where it changed what the model computes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmseg_daft.core.batch_norm import BatchNorm
from mmseg_daft.core.conversion import convert, write
from mmseg_daft.core.conversion_variant import ConversionVariant
from mmseg_daft.core.statistics import LayerStatistics
from mmseg_daft.engine.model_forward import ModelForward
from mmseg_daft.engine.output_change import largest_change, test_outputs


def checked_conversion(
    layers: Mapping[str, BatchNorm],
    statistics: Mapping[str, LayerStatistics],
    variant: ConversionVariant,
    forward: ModelForward,
    sample: Any,
    tolerance: float,
) -> float:
    """Convert and return the change of the test-mode output; undo it and raise where that is no noise.

    Args:
        layers: The layers, by name.
        statistics: Their target statistics, by the same name.
        variant: What is replaced.
        forward: The model.
        sample: A prepared mini-batch to compare outputs on; ``None`` on a rank that has none.
        tolerance: The largest relative change that passes; nothing is held to it without compensation.

    Raises:
        ValueError: A layer cannot be converted.
        RuntimeError: The output changed by more.
    """
    before = test_outputs(forward, sample)
    source = convert(layers, statistics, variant)
    try:
        change = largest_change(before, test_outputs(forward, sample))
        if variant.compensate and not change <= tolerance:  # NaN is past it, too
            raise RuntimeError(
                f'The conversion changed the test-mode output by {change:.1e} of its largest value, past '
                f'the tolerance of {tolerance:g}, so it was undone. Either the model uses its batch-norm '
                'tensors in another way than batch norm does, or it computes in low precision: then raise '
                'BNConversionHook(tolerance=...).')
    except BaseException:
        write(layers, source)
        raise
    return change
