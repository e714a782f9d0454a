"""MMEngine hooks, one a file."""

from mmseg_daft.engine.hooks.bn_conversion_hook import BNConversionHook
from mmseg_daft.engine.hooks.bn_test_mode_hook import BNTestModeHook
from mmseg_daft.engine.hooks.checkpoint_on_signal_hook import CheckpointOnSignalHook
from mmseg_daft.engine.hooks.divergence_hook import DivergenceHook
from mmseg_daft.engine.hooks.effective_batch_hook import EffectiveBatchHook
from mmseg_daft.engine.hooks.exact_resume_hook import ExactResumeHook
from mmseg_daft.engine.hooks.feature_distortion_hook import FeatureDistortionHook
from mmseg_daft.engine.hooks.final_evaluation_hook import FinalEvaluationHook
from mmseg_daft.engine.hooks.pretrained_weights_hook import PretrainedWeightsHook

__all__ = ['BNConversionHook', 'BNTestModeHook', 'CheckpointOnSignalHook', 'DivergenceHook', 'EffectiveBatchHook',
           'ExactResumeHook', 'FeatureDistortionHook', 'FinalEvaluationHook', 'PretrainedWeightsHook']
