"""IoU of the images in one folder, where several sets are evaluated together."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmseg.evaluation import IoUMetric
from mmseg.registry import METRICS


@METRICS.register_module()
class FolderIoU(IoUMetric):
    """mmseg's ``IoUMetric`` of the images below one folder; its metrics are named ``FOLDER/mIoU`` and so on.

    Args:
        folder: The folder; the other images of the evaluated data set are left out.
        **options: Those of ``IoUMetric``.
    """

    def __init__(self, folder: str, **options: Any) -> None:
        super().__init__(prefix=Path(folder).name, **options)
        self.folder = Path(folder)

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Add the images of a batch that are in the folder."""
        super().process(data_batch, [sample for sample in data_samples
                                     if self.folder in Path(sample['img_path']).parents])
