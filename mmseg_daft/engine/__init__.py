"""Adapters that let an MMEngine runner use the method: hooks, an optimizer-wrapper constructor, an initializer."""

from mmseg_daft.engine.cpu_distributed import CPUDistributedDataParallel
from mmseg_daft.engine.hooks import (
    BNConversionHook,
    BNTestModeHook,
    CheckpointOnSignalHook,
    DivergenceHook,
    EffectiveBatchHook,
    ExactResumeHook,
    FeatureDistortionHook,
    FinalEvaluationHook,
    PretrainedWeightsHook,
)
from mmseg_daft.engine.optim_wrapper_constructor import DAFTOptimWrapperConstructor
from mmseg_daft.engine.zero_head import ZeroHead

__all__ = ['BNConversionHook', 'BNTestModeHook', 'CPUDistributedDataParallel', 'CheckpointOnSignalHook',
           'DAFTOptimWrapperConstructor', 'DivergenceHook', 'EffectiveBatchHook', 'ExactResumeHook',
           'FeatureDistortionHook', 'FinalEvaluationHook', 'PretrainedWeightsHook', 'ZeroHead']
