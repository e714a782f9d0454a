from _command import start

start('test')
