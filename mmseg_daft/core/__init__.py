"""The method itself, in PyTorch alone: statistics, conversion, parameter groups.

Nothing here knows of MMEngine or MMSegmentation; ``mmseg_daft.engine`` adapts it.
"""

from mmseg_daft.core.algorithm import ConversionReport, convert_batch_norm
from mmseg_daft.core.parameter_groups import parameter_groups
from mmseg_daft.core.ranks import Ranks
from mmseg_daft.core.stop_rule import StopRule
from mmseg_daft.core.variant import ConversionVariant

__all__ = ['ConversionReport', 'ConversionVariant', 'Ranks', 'StopRule', 'convert_batch_norm', 'parameter_groups']
