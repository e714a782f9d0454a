"""One run of a sweep: what it is, and the name that is always the same for it."""

from __future__ import annotations

from dataclasses import dataclass

REPORT = 'report'


@dataclass(frozen=True)
class Run:
    """One training: a method at two rates with a seed.

    Attributes:
        method: As in ``protocols()``.
        stage: ``'step1'``, ``'step2'``, … train without the held-out images and are selected by them;
            ``'report'`` trains on all and is evaluated on the reported split.
        backbone_lr: ηθ.
        head_lr: ηw.
        seed: Of the run.
        start: The run whose final model this one starts from, if any.
    """

    method: str
    stage: str
    backbone_lr: float
    head_lr: float
    seed: int
    start: Run | None = None

    @property
    def rates(self) -> tuple[float, float]:
        """``backbone_lr`` and ``head_lr``."""
        return self.backbone_lr, self.head_lr

    @property
    def name(self) -> str:
        """The name of the run and of its folder."""
        start = f'_{self.start.method}-{self.start.head_lr:g}' if self.start else ''
        return f'{self.method}_{self.stage}_backbone-{self.backbone_lr:g}_head-{self.head_lr:g}{start}_seed-{self.seed}'
