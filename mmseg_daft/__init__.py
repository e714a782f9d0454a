"""Domain-Aware Fine-Tuning (Ha, Jeong, Lee, AAAI 2024) for MMSegmentation.

Importing this package registers ``BNConversionHook``, ``DAFTOptimWrapperConstructor``, the data sets and
transforms with MMEngine and MMSegmentation, after the repairs of ``mmseg_daft.compat`` where the installed
versions need them. In a config: ``custom_imports = dict(imports=['mmseg_daft'])``.
"""

from mmseg_daft.compat import repair

repair()  # before anything imports mmseg

from mmseg_daft import datasets, engine, models  # noqa: E402
from mmseg_daft.engine import BNConversionHook, DAFTOptimWrapperConstructor  # noqa: E402
from mmseg_daft.version import __version__  # noqa: E402

__all__ = ['BNConversionHook', 'DAFTOptimWrapperConstructor', '__version__', 'datasets', 'engine', 'models']
