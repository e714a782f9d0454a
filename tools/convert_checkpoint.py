from _command import start

start('convert')
