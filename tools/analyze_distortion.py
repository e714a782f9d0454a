from _command import start

start('analyze')
