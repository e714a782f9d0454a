from _command import start

start('sweep')
