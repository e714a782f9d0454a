"""What the paper's classification tasks need and MMPretrain lacks: data sets, tests on several domains, CLIP's pooling.

A config imports it beside the package, which itself needs no MMPretrain::

    custom_imports = dict(imports=['mmseg_daft', 'mmseg_daft.classification'])
"""

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.evaluator import Evaluator
from mmengine.model import BaseModule
from mmengine.registry import LOOPS
from mmengine.runner import Runner, TestLoop
from mmpretrain.datasets import BaseDataset
from mmpretrain.registry import DATASETS, MODELS
from torch import Tensor, nn
from torch.utils.data import DataLoader

from mmseg_daft.engine.configs import further_domains

_CIFAR10 = ('airplane', 'automobile', 'bird', 'cat', 'deer', 'dog', 'frog', 'horse', 'ship', 'truck')


@DATASETS.register_module()
class CIFARArrays(BaseDataset):
    """CIFAR-10's classes in two NumPy files, as CIFAR-10.1 comes.

    Images are RGB, (N, 32, 32, 3), as MMPretrain's ``CIFAR10`` has them; they stay on disk until they are asked for.

    Source: Recht, Roelofs, Schmidt, Shankar, arXiv 1806.00451 (github.com/modestyachts/CIFAR-10.1).

    Args:
        data_root: The folder of both files.
        images, labels: Their names.

    Raises:
        ValueError: They do not hold as many images as labels.
    """

    METAINFO = dict(classes=_CIFAR10)

    def __init__(self, data_root: str, images: str, labels: str, **kwargs: Any) -> None:
        self.files = [str(Path(data_root).expanduser() / name) for name in (images, labels)]
        super().__init__(ann_file='', data_root=data_root, **kwargs)

    def read(self) -> tuple[np.ndarray, np.ndarray]:
        """Return images and labels; a label below 0 marks an image to be left out."""
        images, labels = (np.load(file, mmap_mode='r') for file in self.files)
        return images, labels

    def load_data_list(self) -> list[dict]:
        """Return a sample for each image: its number and its label."""
        self.images, labels = self.read()
        if len(self.images) != len(labels):
            raise ValueError(f'{self.files[0]} holds {len(self.images)} images and {self.files[1]} {len(labels)} '
                             'labels. Download both again.')
        return [dict(number=number, gt_label=int(label)) for number, label in enumerate(labels) if label >= 0]

    def get_data_info(self, idx: int) -> dict:
        """Return a sample with its image."""
        info = super().get_data_info(idx)
        return dict(info, img=np.array(self.images[info['number']]))


@DATASETS.register_module()
class CIFAR10C(CIFARArrays):
    """CIFAR-10's test images under a corruption, as CIFAR-10-C has them: all at severity 1, then all at 2, up to 5.

    Source: Hendrycks, Dietterich, ICLR 2019 (zenodo.org/record/2535967).

    Args:
        data_root: The folder of the unpacked files.
        corruption: Its name, such as ``'fog'``.
        severity: From 1 to 5; ``None`` for all, one after the other.
    """

    def __init__(self, data_root: str, corruption: str, severity: int | None = None, **kwargs: Any) -> None:
        self.severity = severity
        super().__init__(data_root, f'{corruption}.npy', 'labels.npy', **kwargs)

    def read(self) -> tuple[np.ndarray, np.ndarray]:
        """Return images and labels of the severity."""
        images, labels = super().read()
        number = len(labels) // 5
        rows = slice(None) if self.severity is None else slice((self.severity - 1) * number, self.severity * number)
        return images[rows], labels[rows]


@DATASETS.register_module()
class STL10AsCIFAR(CIFARArrays):
    """STL-10 with the labels of CIFAR-10, without the monkeys, for which CIFAR-10 has no class (and STL-10 no frogs).

    Images are RGB, 96x96. ``data_root`` is the unpacked ``stl10_binary``.

    Source: Coates, Ng, Lee, AISTATS 2011 (cs.stanford.edu/~acoates/stl10).
    """

    LABELS = np.array([0, 2, 1, 3, 4, 5, 7, -1, 8, 9])
    """CIFAR-10's label of STL-10's airplane, bird, car, cat, deer, dog, horse, monkey, ship, truck."""

    def __init__(self, data_root: str, images: str = 'test_X.bin', labels: str = 'test_y.bin', **kwargs: Any) -> None:
        super().__init__(data_root, images, labels, **kwargs)

    def read(self) -> tuple[np.ndarray, np.ndarray]:
        """Return images, stored by columns in the file, and labels, which it counts from 1."""
        images = np.memmap(self.files[0], np.uint8, 'r').reshape(-1, 3, 96, 96).transpose(0, 3, 2, 1)
        return images, self.LABELS[np.fromfile(self.files[1], np.uint8) - 1]


BREEDS = {'living17': (5, 4, 'n00004258'), 'entity30': (4, 8, None)}
"""Of each task: the depth of its classes, how many of ImageNet's classes each has, and under which node all lie."""


def breeds_classes(name: str, hierarchy: Path) -> list[tuple[str, list[str], list[str]]]:
    """Return a BREEDS task's classes in order: name, and ImageNet's classes of its source and of its target domain.

    Source: Santurkar, Tsipras, Madry, ICLR 2021. The split is their random one, seed 2, from the files in
    ``imagenet_class_hierarchy/modified`` of github.com/MadryLab/BREEDS-Benchmarks.

    Raises:
        ValueError: There is no such task.
        OSError: A file is missing.
    """
    if name not in BREEDS:
        raise ValueError(f'name={name!r}: there are {" and ".join(BREEDS)}.')
    depth, size, ancestor = BREEDS[name]
    leaves = {wnid for _, wnid, _ in json.loads((hierarchy / 'dataset_class_info.json').read_text())}
    edges = [line.split() for line in (hierarchy / 'class_hierarchy.txt').read_text().splitlines() if line.strip()]
    names = dict(line.split('\t')[:2] for line in (hierarchy / 'node_names.txt').read_text().splitlines() if line)
    children: dict[str, list[str]] = {}
    for parent, child in edges:
        children.setdefault(parent, []).append(child)
    below: dict[str, set[str]] = {}

    def under(node: str) -> set[str]:
        """Return ImageNet's classes at or under a node."""
        if node not in below:
            below[node] = {node} if node in leaves else set().union(*map(under, children.get(node, [])))
        return below[node]

    # The depth of a node is that of the longest path to it, over nodes with classes below.
    depths, level = {}, {'n00001740'}
    while level:
        depths.update(dict.fromkeys(level, 1 + max(depths.values(), default=-1)))
        level = {child for node in level for child in children.get(node, []) if under(child)}
    inside, todo = set(), [ancestor] if ancestor else list(depths)
    while todo:
        inside.add(node := todo.pop())
        todo += [child for child in children.get(node, []) if child not in inside]
    generator, classes = np.random.RandomState(2), []
    for node in sorted(node for node in inside if depths.get(node) == depth and len(under(node)) >= size):
        top = node
        while len(parts := [child for child in children[top] if under(child)]) == 1:
            top = parts[0]
        chosen = generator.choice(sorted(leaf for part in parts for leaf in under(part)), size, replace=False).tolist()
        classes.append((names.get(node, node), chosen[:size // 2], chosen[size // 2:]))
    return classes


@DATASETS.register_module()
class BREEDSDataset(BaseDataset):
    """Living-17 or Entity-30: classes of ImageNet's classes, other ones of these in the source and the target domain.

    Args:
        data_root: ImageNet's folder, with ``train`` and ``val``, each with a folder per class (``n01440764``).
        hierarchy: The folder ``imagenet_class_hierarchy/modified``, see ``breeds_classes``.
        name: ``'living17'`` or ``'entity30'``.
        domain: ``'source'`` or ``'target'``.
        split: ``'train'`` or ``'val'``.

    Raises:
        ValueError: As ``breeds_classes``, or there is no such domain, or one of ImageNet's classes has no images.
    """

    def __init__(
        self, data_root: str, hierarchy: str, name: str, domain: str = 'source', split: str = 'train', **kwargs: Any,
    ) -> None:
        if domain not in ('source', 'target'):
            raise ValueError(f'domain={domain!r}: there are source and target.')
        self.folder = Path(data_root).expanduser() / split
        self.tasks = breeds_classes(name, Path(hierarchy).expanduser())
        self.domain = domain
        super().__init__(ann_file='', data_root=data_root, classes=[task[0] for task in self.tasks], **kwargs)

    def load_data_list(self) -> list[dict]:
        """Return a sample for each image."""
        samples = []
        for label, (_, source, target) in enumerate(self.tasks):
            for wnid in source if self.domain == 'source' else target:
                paths = sorted(self.folder.joinpath(wnid).glob('*'))
                if not paths:
                    raise ValueError(f'{self.folder / wnid} holds no images. data_root has to be ImageNet, with a '
                                     'folder per class in train and in val.')
                samples += [dict(img_path=str(path), gt_label=label) for path in paths]
        return samples


@DATASETS.register_module()
class FMoWDataset(BaseDataset):
    """Functional Map of the World as WILDS has it (``fmow_v1.1``): satellite images of 62 kinds of places, 224x224.

    ``train`` and ``id_val`` are of the years before 2013, ``val`` of 2013 to 2015.

    Source: Christie, Fendley, Wilson, Mukherjee, CVPR 2018; Koh et al., WILDS, ICML 2021 (wilds.stanford.edu).

    Args:
        data_root: The folder with ``rgb_metadata.csv``, ``country_code_mapping.csv`` and ``images``.
        split: ``'train'``, ``'id_val'`` or ``'val'``.
        regions: Of Asia, Europe, Africa, Americas, Oceania, those that are taken.

    Raises:
        ValueError: There is no such split.
    """

    YEARS = {'train': ('train', 0, 2013), 'id_val': ('val', 0, 2013), 'val': ('val', 2013, 2016)}
    """Of each split, the file's name of it, the first year and the one behind the last."""

    def __init__(self, data_root: str, split: str, regions: Sequence[str], **kwargs: Any) -> None:
        if split not in self.YEARS:
            raise ValueError(f'split={split!r}: there are {", ".join(self.YEARS)}.')
        self.folder, self.split, self.regions = Path(data_root).expanduser(), split, set(regions)
        super().__init__(ann_file='', data_root=data_root, **kwargs)

    def load_data_list(self) -> list[dict]:
        """Return a sample for each image; the classes are the categories in alphabetical order."""
        with open(self.folder / 'country_code_mapping.csv', newline='', encoding='utf-8') as file:
            region = {row['alpha-3']: row['region'] for row in csv.DictReader(file)}
        with open(self.folder / 'rgb_metadata.csv', newline='', encoding='utf-8') as file:
            rows = list(csv.DictReader(file))
        classes = sorted({row['category'] for row in rows})
        self._metainfo['classes'] = tuple(classes)
        label = {category: number for number, category in enumerate(classes)}
        split, first, end = self.YEARS[self.split]
        return [dict(img_path=str(self.folder / 'images' / f'rgb_img_{number}.png'), gt_label=label[row['category']])
                for number, row in enumerate(rows)
                if row['split'] == split and first <= int(row['timestamp'][:4]) < end
                and region.get(row['country_code'], 'Other') in self.regions]


@LOOPS.register_module()
class DomainsTestLoop(TestLoop):
    """Test a model on further domains, too; a metric's name then begins with the domain's: ``stl10/accuracy/top1``.

    Args:
        domains: The data set of each further domain, by name.
        only: Those of them that are tested; ``None`` for all.
        Others are ``TestLoop``'s.

    Raises:
        ConfigError: ``only`` names a domain that is not there.
    """

    def __init__(
        self, runner: Runner, dataloader: DataLoader | dict, evaluator: Evaluator | dict | list,
        domains: dict[str, dict], only: Sequence[str] | None = None, fp16: bool = False,
    ) -> None:
        loaders = {name: runner.build_dataloader(dict(dataloader, dataset=domain))
                   for name, domain in further_domains(dict(domains=domains, only=only)).items()}
        super().__init__(runner, dataloader, evaluator, fp16)
        self.loaders = {'': self.dataloader, **loaders}

    def run(self) -> dict:
        """Test on one domain after the other, and return all metrics."""
        self.runner.call_hook('before_test')
        self.runner.call_hook('before_test_epoch')
        self.runner.model.eval()
        metrics = {}
        for domain, loader in self.loaders.items():
            self.dataloader = loader  # hooks read it
            for number, batch in enumerate(loader):
                self.run_iter(number, batch)
            found = self.evaluator.evaluate(len(loader.dataset))
            metrics.update({f'{domain}/{name}'.lstrip('/'): value for name, value in found.items()})
        self.runner.call_hook('after_test_epoch', metrics=metrics)
        self.runner.call_hook('after_test')
        return metrics


@MODELS.register_module()
class CLIPAttentionPool(BaseModule):
    """The pooling by which CLIP's ResNets make an image's features of their last map, with the names of CLIP's files.

    Source: Radford et al., ICML 2021 (github.com/openai/CLIP, ``AttentionPool2d``).

    Args:
        in_channels, out_channels: Of the map, and of the features.
        size: Height and width of the map.
        num_heads: Attention heads.
        init_cfg: The initialization, as in MMEngine.
    """

    def __init__(
        self, in_channels: int = 2048, out_channels: int = 1024, size: int = 7, num_heads: int = 32,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        self.num_heads = num_heads
        self.positional_embedding = nn.Parameter(torch.randn(size ** 2 + 1, in_channels) / in_channels ** 0.5)
        self.k_proj, self.q_proj, self.v_proj = (nn.Linear(in_channels, in_channels) for _ in range(3))
        self.c_proj = nn.Linear(in_channels, out_channels)

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor]:
        """Return the features, (N, ``out_channels``), of the last of the maps, (N, ``in_channels``, H, W)."""
        places = maps[-1].flatten(2).transpose(1, 2)
        places = torch.cat([places.mean(1, keepdim=True), places], 1) + self.positional_embedding
        query, key, value = (layer(part).unflatten(2, (self.num_heads, -1)).transpose(1, 2) for layer, part in (
            (self.q_proj, places[:, :1]), (self.k_proj, places), (self.v_proj, places)))
        pooled = F.scaled_dot_product_attention(query, key, value)
        return (self.c_proj(pooled.transpose(1, 2).flatten(1)),)
