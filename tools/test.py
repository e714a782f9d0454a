"""mmseg's own tools/test.py, found in the installed package.

    python tools/test.py CONFIG CHECKPOINT [--out DIR] [--cfg-options KEY=VALUE ...]
"""

from mmseg_script import run

import mmseg_daft  # noqa: F401  mmseg can be imported with mmcv-lite after it

if __name__ == '__main__':
    run('test.py')
