from _command import start

start('doctor')
