"""mmseg's own tools/test.py, found in the installed package.

    python tools/test.py CONFIG CHECKPOINT [--out DIR] [--cfg-options KEY=VALUE ...]
"""

import mmseg_daft  # noqa: F401  mmseg can be imported with mmcv-lite after it
from mmseg_daft.launch.mmseg_script import run

if __name__ == '__main__':
    run('test.py')
