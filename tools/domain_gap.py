from _command import start

start('domain-gap')
