"""Draw ``docs/conversion.png``: what the batch-norm conversion does to a small network.

    python -m docs.draw_conversion

Pre-trains a network on the demo's scenes by day (source), converts it to those at night (target), and compares its
features of night images with the pre-trained network's. All numbers are measured. Takes about a minute on a CPU.
"""

from __future__ import annotations

import copy
from io import BytesIO
from pathlib import Path

import matplotlib
import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor, nn

from demo.render import CLASSES, photograph, render_scene
from mmseg_daft.core import convert_batch_norm

PICTURE = Path(__file__).with_name('conversion.png')
DAY, NIGHT = '#0072B2', '#D55E00'
LAYER = 4  # whose input is drawn: the second batch norm


class Segmentor(nn.Module):
    """Five convolutions, each with batch norm, and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs, outputs, stride in ((3, 16, 1), (16, 32, 2), (32, 32, 1), (32, 64, 2), (64, 64, 1)):
            layers += [nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
        self.backbone = nn.Sequential(*layers[:-1])
        self.classifier = nn.Conv2d(64, len(CLASSES), 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return class scores ``(N, 6, H / 4, W / 4)``."""
        return self.classifier(self.backbone(x).relu())


def render(domain: str, count: int, size: int = 64) -> tuple[Tensor, Tensor]:
    """Render a domain: images ``(N, 3, H, W)`` in [0, 1] and class ids ``(N, H, W)``."""
    images, labels = [], []
    for i in range(count):
        rng = np.random.default_rng([i, domain == 'night'])
        scene, ids = render_scene(rng, size)
        images.append(photograph(scene, domain, rng))
        labels.append(ids)
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2) / 255, torch.from_numpy(np.stack(labels)).long()


def pretrain(model: nn.Module, images: Tensor, labels: Tensor, iterations: int = 400) -> None:
    """Train a model on images and labels, in place."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    schedule = torch.optim.lr_scheduler.PolynomialLR(optimizer, iterations, 0.9)
    for _ in range(iterations):
        batch = torch.randint(len(images), (16,))
        loss = F.cross_entropy(F.interpolate(model(images[batch]), scale_factor=4.0), labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()


@torch.no_grad()
def features(model: Segmentor, images: Tensor, training: bool = False) -> Tensor:
    """Return the backbone's output in train or eval mode, and leave the model as it is."""
    return copy.deepcopy(model).train(training).backbone(images)


@torch.no_grad()
def draw_statistics(axis: Axes, before: Segmentor, after: Segmentor, source: Tensor, target: Tensor) -> None:
    """Draw what a batch norm gets in both domains, with its running statistics, in the channel that differs most."""
    norm, converted = before.backbone[LAYER], after.backbone[LAYER]
    channel = int(((converted.running_mean - norm.running_mean).abs() / norm.running_var.sqrt()).argmax())
    inputs = {color: before.backbone[:LAYER](images)[:, channel].flatten().numpy()
              for color, images in ((DAY, source), (NIGHT, target))}
    bins = np.linspace(*np.quantile(np.concatenate(list(inputs.values())), (0.001, 0.999)), 70)
    top = max(axis.hist(values, bins, density=True, color=color, alpha=0.5)[0].max()
              for color, values in inputs.items())
    for layer, color, level, name in ((norm, DAY, 1.45, 'as pre-trained'), (converted, NIGHT, 1.17, 'converted')):
        mean, std = float(layer.running_mean[channel]), float(layer.running_var[channel].sqrt())
        axis.errorbar(mean, level * top, xerr=std, color=color, fmt='o', markersize=6, linewidth=2.5, capsize=5)
        axis.text(mean, (level + 0.06) * top, name, color=color, ha='center', va='bottom')
    axis.set(xlim=(bins[0], bins[-1]), ylim=(0, 1.65 * top), yticks=[])
    axis.set_title('input of a batch-norm layer (a channel),\nwith its running mean ± std')


def draw_features(axis: Axes, reference: Tensor, values: Tensor, color: str) -> None:
    """Draw features against the pre-trained network's, and how much they differ."""
    chosen = torch.randperm(reference.numel(), generator=torch.Generator().manual_seed(0))[:2500]
    limits = (-2.8, 2.2)
    axis.plot(limits, limits, color='black', linewidth=0.8, zorder=0)
    axis.scatter(reference.flatten()[chosen], values.flatten()[chosen], s=4, color=color, alpha=0.4, linewidths=0)
    axis.set(xlim=limits, ylim=limits, aspect='equal', xticks=[], yticks=[], xlabel='pre-trained network')
    difference = float((values - reference).norm() / reference.norm())
    text = f'{100 * difference:.0f} %' if difference > 1e-3 else f'{100 * difference:.5f} %'
    axis.text(0.04, 0.97, f'differ by\n{text}', color=color, va='top', transform=axis.transAxes, fontweight='bold')


def draw(before: Segmentor, after: Segmentor, source: Tensor, target: Tensor, path: Path) -> None:
    """Draw the picture.

    Args:
        before: The pre-trained network, in eval mode.
        after: The same, converted to the target domain.
        source: Images of the source domain.
        target: Images of the target domain.
        path: Where to write the PNG.
    """
    style = {'font.size': 9, 'axes.titlesize': 9, 'axes.spines.top': False, 'axes.spines.right': False}
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(10.4, 3.4), layout='constrained')
        left, right = figure.subfigures(1, 2, width_ratios=(4.2, 6.2), wspace=0.04)
        for part, title in ((left, 'In a new domain, layers get other inputs'),
                            (right, "Features of night images, against the pre-trained network's")):
            part.suptitle(title, fontsize=11, fontweight='bold')
        axes = left.subplot_mosaic([['day', 'statistics'], ['night', 'statistics']], width_ratios=(1, 2.1))
        for domain, title, color in (('day', 'source: day', DAY), ('night', 'target: night', NIGHT)):
            rng = np.random.default_rng(9)
            axes[domain].imshow(photograph(render_scene(rng, 160)[0], domain, rng)[..., ::-1])
            axes[domain].set_axis_off()
            axes[domain].set_title(title, color=color, fontweight='bold')
        draw_statistics(axes['statistics'], before, after, source, target)
        reference = features(before, target)
        columns = (('Fine-tuning starts here:', 'not converted, train mode', before, True, '#B22222'),
                   ('DAFT starts here:', 'converted, train mode', after, True, '#00805E'),
                   ('The function is the same:', 'converted, eval mode', after, False, '#00805E'))
        for axis, (title, model_and_mode, model, training, color) in zip(right.subplots(1, 3), columns, strict=True):
            draw_features(axis, reference, features(model, target, training), color)
            axis.set_title(f'{title}\n{model_and_mode}', color=color)
        right.axes[0].set_ylabel('this network')
        pixels = BytesIO()
        figure.savefig(pixels, dpi=110)
        Image.open(pixels).convert('RGB').quantize(256).save(path, optimize=True)


def main() -> None:
    """Pre-train, convert and draw."""
    torch.manual_seed(0)
    source, labels = render('day', 160)
    target, _ = render('night', 160)
    before = Segmentor()
    pretrain(before, source, labels)
    after = copy.deepcopy(before)
    print(convert_batch_norm(after, target.split(16), modules=('backbone',)).summary())
    draw(before.eval(), after, source[:64], target[:64], PICTURE)


if __name__ == '__main__':
    main()
