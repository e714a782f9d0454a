"""``mmseg-daft train``, where users of mmseg look for it."""

from _command import start

start('train')
