"""What is missing where an import fails, and the extra of this package that brings it.

The standard library alone, so that it can be said where nothing else is there.
"""

EXTRAS = {'mmengine': 'lite', 'mmcv': 'lite', 'mmseg': 'lite', 'ftfy': 'lite', 'regex': 'lite', 'submitit': 'sweep',
          'mmpretrain': 'classification', 'sklearn': 'classification'}
"""The extra that holds an optional package; doctor says more about mmseg and mmcv."""


def missing_module(error: BaseException | None) -> str | None:
    """Return what is missing, or ``None``; MMEngine's error on ``custom_imports`` has it among its causes."""
    while error and not isinstance(error, ModuleNotFoundError):
        error = error.__cause__ or error.__context__
    return error.name if error else None


def installation(module: str | None) -> str:
    """Return how to install a module, to end a sentence; nothing if none of the extras holds it."""
    return f": pip install 'mmseg-daft[{EXTRAS[module]}]'" if module in EXTRAS else ''
