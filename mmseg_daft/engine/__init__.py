"""Adapters that let an MMEngine runner use the method; importing this package registers them."""

from mmseg_daft.engine import cpu_distributed, zero_head  # noqa: F401
from mmseg_daft.engine.hooks import (  # noqa: F401
    bn_test_mode_hook,
    checkpoint_on_signal_hook,
    divergence_hook,
    effective_batch_hook,
    exact_resume_hook,
    feature_distortion_hook,
    final_evaluation_hook,
    pretrained_weights_hook,
    start_penalty_hook,
    weight_averaging_hook,
)
from mmseg_daft.engine.hooks.bn_conversion_hook import BNConversionHook
from mmseg_daft.engine.optim_wrapper_constructor import DAFTOptimWrapperConstructor

__all__ = ['BNConversionHook', 'DAFTOptimWrapperConstructor']
