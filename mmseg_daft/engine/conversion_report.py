"""What a conversion did: for the log in five lines, and for the checkpoint as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import exp
from statistics import fmean
from typing import Any

from mmseg_daft.core.conversion_variant import ConversionVariant
from mmseg_daft.core.domain_shift import DomainShift


@dataclass(frozen=True)
class ConversionReport:
    """The facts of one conversion.

    Attributes:
        modules: The scope that was asked for.
        variant: What was replaced in a layer.
        dataset: The training data: class, length and where it lies.
        num_batches: Mini-batches that the statistics are means of, all ranks together.
        all_batches: Mini-batches of the whole pass, from which an early stop keeps some.
        num_images: Images in those taken.
        seed: Of the pass's shuffling and augmentation.
        seconds: Wall time of the pass and the conversion.
        pass_seconds: Wall time of the pass; ``None`` where its statistics were in a file.
        waited: Seconds of it in which this process had nothing to do until the next mini-batch was loaded.
        output_change: The largest change of the test-mode output on a real mini-batch, relative to
            the largest output.
        shifts: How far the domain moved each converted layer, by name.
        left: Layers in scope that cannot be converted, with the reason.
    """

    modules: tuple[str, ...]
    variant: ConversionVariant
    dataset: str
    num_batches: int
    all_batches: int
    num_images: int
    seed: int
    seconds: float
    pass_seconds: float | None
    waited: float
    output_change: float
    shifts: Mapping[str, DomainShift]
    left: Mapping[str, str]

    def summary(self, tolerance: float | None) -> str:
        """Return the summary for the log.

        Args:
            tolerance: For the change of the output; ``None`` where it was meant to change.
        """
        farthest = max(self.shifts, key=lambda name: self.shifts[name].mean_shift)
        mean_shift = fmean(shift.mean_shift for shift in self.shifts.values())
        var_ratio = exp(fmean(shift.log_var_ratio for shift in self.shifts.values()))
        batches = str(self.num_batches) if self.num_batches == self.all_batches else (
            f'{self.num_batches} of {self.all_batches}')
        if self.pass_seconds is None:
            timing = 'no pass: its statistics were in a file'
        else:
            bottleneck = 'data loading, see num_workers' if 2 * self.waited > self.pass_seconds else 'computing'
            timing = (f'time of the pass: {self.waited:.1f} of {self.pass_seconds:.1f} s waiting for data; '
                      f'the bottleneck was {bottleneck}')
        variant = f' ({self.variant.differences})' if self.variant.differences else ''
        lines = [
            f'BN conversion of {", ".join(self.modules)}: {len(self.shifts) + len(self.left)} layers found, '
            f'{len(self.shifts)} converted{variant}, 0 never reached, {len(self.left)} left as they are',
            *(f'  left: {name}: {reason}' for name, reason in self.left.items()),
            f'  target data: {self.num_images} images in {batches} mini-batches of {self.dataset}, '
            f'{self.seconds:.1f} s',
            f'  {timing}',
            f'  test-mode output: changed by {self.output_change:.1e} of its largest value '
            f'({"as asked for" if tolerance is None else f"tolerance {tolerance:.0e}"})',
            f'  domain: means moved by {mean_shift:.2f} source standard deviations on average, most in {farthest} '
            f'({self.shifts[farthest].mean_shift:.2f}); variances by a factor of {var_ratio:.2f}']
        return '\n'.join(lines)

    def record(self) -> dict[str, Any]:
        """Return the report as plain numbers, strings, lists and dictionaries."""
        return dict(asdict(self), modules=list(self.modules), left=dict(self.left),
                    shifts={name: list(shift) for name, shift in self.shifts.items()})


def describe_dataset(dataset: Any) -> str:
    """Return the data set's class, length and place in a few words."""
    parts = getattr(dataset, 'datasets', None) or [getattr(dataset, 'dataset', None)]
    if parts != [None]:
        return f'{type(dataset).__name__}[{", ".join(map(describe_dataset, parts))}]'
    prefix = getattr(dataset, 'data_prefix', None)
    places = (getattr(dataset, 'ann_file', None), prefix.get('img_path') if isinstance(prefix, dict) else prefix,
              getattr(dataset, 'data_root', None))
    return f'{type(dataset).__name__}({len(dataset)} images, {next(filter(None, places), "place unknown")})'
