"""Data sets and transforms that MMSegmentation lacks, registered with it."""

from mmseg_daft.datasets.camvid import CamVidDataset
from mmseg_daft.datasets.color_jitter import TorchvisionColorJitter
from mmseg_daft.datasets.random_scale import RandomScale
from mmseg_daft.datasets.shapes import ShapesDataset

__all__ = ['CamVidDataset', 'RandomScale', 'ShapesDataset', 'TorchvisionColorJitter']
