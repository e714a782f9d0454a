"""mmseg's own tools/train.py, found in the installed package.

    python tools/train.py CONFIG [--work-dir DIR] [--resume] [--amp] [--cfg-options KEY=VALUE ...]
    torchrun --nproc_per_node 2 tools/train.py CONFIG --launcher pytorch    # also without a GPU
"""

from mmseg_script import run

import mmseg_daft  # noqa: F401  mmseg can be imported with mmcv-lite after it

if __name__ == '__main__':
    run('train.py')
