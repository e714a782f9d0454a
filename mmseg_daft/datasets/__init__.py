"""Data sets and transforms that MMSegmentation lacks, registered with it."""

from mmseg_daft.datasets.segmentation import CamVidDataset, ShapesDataset
from mmseg_daft.datasets.transforms import RandomScale, TorchvisionColorJitter

__all__ = ['CamVidDataset', 'RandomScale', 'ShapesDataset', 'TorchvisionColorJitter']
