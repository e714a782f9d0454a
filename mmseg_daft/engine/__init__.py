"""Adapters that let an MMEngine runner use the method: hooks, an optimizer-wrapper constructor, an initialiser."""

from mmseg_daft.engine.bn_conversion_hook import BNConversionHook
from mmseg_daft.engine.bn_test_mode_hook import BNTestModeHook
from mmseg_daft.engine.checkpoint_on_signal_hook import CheckpointOnSignalHook
from mmseg_daft.engine.cpu_distributed import CPUDistributedDataParallel
from mmseg_daft.engine.divergence_hook import DivergenceHook
from mmseg_daft.engine.effective_batch_hook import EffectiveBatchHook
from mmseg_daft.engine.exact_resume_hook import ExactResumeHook
from mmseg_daft.engine.feature_distortion_hook import FeatureDistortionHook
from mmseg_daft.engine.final_evaluation_hook import FinalEvaluationHook
from mmseg_daft.engine.optim_wrapper_constructor import DAFTOptimWrapperConstructor
from mmseg_daft.engine.pretrained_weights_hook import PretrainedWeightsHook
from mmseg_daft.engine.zero_head import ZeroHead

__all__ = ['BNConversionHook', 'BNTestModeHook', 'CPUDistributedDataParallel', 'CheckpointOnSignalHook',
           'DAFTOptimWrapperConstructor', 'DivergenceHook', 'EffectiveBatchHook', 'ExactResumeHook',
           'FeatureDistortionHook', 'FinalEvaluationHook', 'PretrainedWeightsHook', 'ZeroHead']
