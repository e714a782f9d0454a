from _command import start

start('lpft')
