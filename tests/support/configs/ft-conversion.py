_base_ = 'ft.py'
custom_hooks = [dict(type='BNConversionHook')]
