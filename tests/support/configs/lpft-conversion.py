_base_ = 'lpft.py'
custom_hooks = [dict(type='BNConversionHook')]
