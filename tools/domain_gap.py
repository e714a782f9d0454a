"""``mmseg-daft domain-gap``, where users of mmseg look for it."""

from _command import start

start('domain-gap')
