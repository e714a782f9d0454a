"""``mmseg-daft analyze``, where users of mmseg look for it."""

from _command import start

start('analyze')
