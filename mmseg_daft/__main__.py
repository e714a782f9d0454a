"""``python -m mmseg_daft``: the command line without an installed script."""

from mmseg_daft.cli import main

if __name__ == '__main__':
    raise SystemExit(main())
