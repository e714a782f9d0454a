"""Adapters that let an MMEngine runner use the method: one hook, one optimizer-wrapper constructor."""

from mmseg_daft.engine.bn_conversion_hook import BNConversionHook
from mmseg_daft.engine.cpu_distributed import CPUDistributedDataParallel
from mmseg_daft.engine.optim_wrapper_constructor import DAFTOptimWrapperConstructor

__all__ = ['BNConversionHook', 'CPUDistributedDataParallel', 'DAFTOptimWrapperConstructor']
