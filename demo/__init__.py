"""The demo: two rendered domains, a model of the first fine-tuned to the second, the ways to do so compared."""

NAMES = {'source': 'source model', 'lp': 'LP', 'ft': 'FT', 'lpft': 'LP-FT', 'daft': 'DAFT'}
METHODS = tuple(NAMES)[1:]
DOMAINS = ('target', 'source')
