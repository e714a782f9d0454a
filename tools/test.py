"""``mmseg-daft test``, where users of mmseg look for it."""

from _command import start

start('test')
