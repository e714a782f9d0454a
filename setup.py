"""Packaging. What was tested is pinned in ``constraints/``; these bounds are what can work."""

import runpy
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent

setup(
    name='mmseg-daft',
    version=runpy.run_path(str(ROOT / 'mmseg_daft' / 'version.py'))['__version__'],
    description='Domain-Aware Fine-Tuning (AAAI 2024) for MMSegmentation',
    long_description=(ROOT / 'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    packages=find_packages(include=['mmseg_daft', 'mmseg_daft.*']),
    package_data={'mmseg_daft': ['py.typed', 'analysis/*.j2']},
    python_requires='>=3.10',
    # mmengine, mmcv and mmsegmentation stay out: whoever has them has them under one of several names
    # (mmcv or mmcv-lite, the onedl-* fork), and a second copy would overwrite the first.
    install_requires=['torch>=2.1', 'torchvision', 'numpy', 'packaging', 'rich', 'safetensors>=0.4', 'jinja2',
                      'matplotlib'],
    extras_require={
        # ftfy and regex: mmsegmentation 1.2.2 imports them without declaring them.
        'lite': ['mmengine>=0.10.7', 'mmcv-lite>=2.1,<2.2', 'mmsegmentation>=1.2.2', 'ftfy', 'regex'],
        'bench': ['fvcore'],  # benchmarks/: what its update_bn_stats costs beside the pass
        'sweep': ['submitit'],  # tools/sweep.py: Slurm arrays, requeueing, local processes
        # selenium: drives the browser that opens the report. xdist: two tests at a time. tensorboard: reads what a hook
        # wrote for it.
        'test': ['pytest', 'pytest-xdist', 'hypothesis', 'selenium', 'submitit', 'tensorboard'],
        'dev': ['pytest', 'pytest-xdist', 'hypothesis', 'selenium', 'submitit', 'tensorboard', 'ruff', 'pre-commit'],
    },
    classifiers=[
        'License :: OSI Approved :: Apache Software License',
        'Programming Language :: Python :: 3',
        'Topic :: Scientific/Engineering :: Artificial Intelligence',
    ],
)
