from _command import start

start('probe')
