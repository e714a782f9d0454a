"""The method itself, written in PyTorch alone: statistics, conversion, parameter groups.

Nothing here knows of MMEngine or MMSegmentation; ``mmseg_daft.engine`` adapts it.
"""
