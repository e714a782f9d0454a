"""The demo: an ImageNet model fine-tuned to rendered images, the ways to do so compared."""

NAMES = {'lp': 'LP', 'ft': 'FT', 'lpft': 'LP-FT', 'daft': 'DAFT'}
METHODS = tuple(NAMES)
SETS = {'day': 'daylight', 'night': 'night', 'corrupted': 'corrupted daylight'}
"""What is evaluated on, by its folder; only the training images of the first are trained on."""
EVALUATIONS = 10  # along a run
