"""mmseg's own tools/train.py, found in the installed package.

    python tools/train.py CONFIG [--work-dir DIR] [--resume] [--amp] [--cfg-options KEY=VALUE ...]
    torchrun --nproc_per_node 2 tools/train.py CONFIG --launcher pytorch    # also without a GPU
"""

import signal

# A signal that comes while this process starts waits for CheckpointOnSignalHook, instead of ending the process.
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1, signal.SIGUSR2})

import mmseg_daft  # noqa: E402, F401  mmseg can be imported with mmcv-lite after it
from mmseg_daft.launch.mmseg_script import run  # noqa: E402

if __name__ == '__main__':
    run('train.py')
