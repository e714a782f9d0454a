"""Data sets and transforms that MMSegmentation lacks, registered with it."""

from mmseg_daft.datasets.camvid import CamVidDataset
from mmseg_daft.datasets.shapes import ShapesDataset
from mmseg_daft.datasets.transforms import RandomScale, TorchvisionColorJitter

__all__ = ['CamVidDataset', 'RandomScale', 'ShapesDataset', 'TorchvisionColorJitter']
