from _command import start

start('train')
