"""Fit a linear probe on a classifier's features: logistic regression, its strength chosen on the validation images.

    mmseg-daft probe CONFIG [--work-dir DIR]
    mmseg-daft test CONFIG work_dirs/CONFIG/probe.pth

CONFIG is an image classifier's for MMPretrain, with a pre-trained start and a linear head. The features are those of
the training images through the training pipeline, each image once, with the network in eval mode. L2-regularized
logistic regressions of 50 strengths from 1e-7 to 100 (scikit-learn's C) are fitted to them; the one that is best on the
validation images becomes the head of DIR/probe.pth, by default in work_dirs/CONFIG. LP-FT starts from that file.
"""

from __future__ import annotations

import argparse
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from mmseg_daft.files import refuse_unwritable
from mmseg_daft.options import add_cfg_options
from mmseg_daft.run_output import PROBE

if TYPE_CHECKING:
    import numpy as np
    from torch import nn


class Probe(NamedTuple):
    """A linear classifier: of features, and how it was chosen.

    Attributes:
        weight, bias: Of shape (classes, channels) and (classes,).
        strength: scikit-learn's C, the inverse of the regularization.
        accuracy: On the validation images, in per cent.
    """

    weight: np.ndarray
    bias: np.ndarray
    strength: float
    accuracy: float


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument('config', metavar='CONFIG', help='such as configs/classification/lp_…')
    parser.add_argument('--work-dir', metavar='DIR', type=Path, help='for probe.pth (default: work_dirs/CONFIG)')
    add_cfg_options(parser)


def run(args: argparse.Namespace) -> int:
    """Fit the probe and write the checkpoint.

    Raises:
        ConfigError: The config or an option is wrong.
        UnwritableError: The checkpoint cannot be written.
        SystemExit: The model has no linear head, or as ``fit_probe``.
    """
    out = (args.work_dir or Path('work_dirs') / Path(args.config).stem) / PROBE
    refuse_unwritable(out)
    import torch
    from mmengine.runner import Runner

    import mmseg_daft

    mmseg_daft.register()
    from mmseg_daft.core.random_state import seed_everything
    from mmseg_daft.engine.checkpoints import pretrained_model, write_checkpoint
    from mmseg_daft.engine.configs import read_config
    from mmseg_daft.engine.training_data import TargetLoader

    cfg = read_config(args.config, args.cfg_options, needs=('model', 'train_dataloader', 'val_dataloader'))
    seed = cfg.get('randomness', {}).get('seed') or 0
    seed_everything(seed)
    model = pretrained_model(cfg, cfg.get('load_from')).to('cuda' if torch.cuda.is_available() else 'cpu')
    model.eval()
    head = getattr(getattr(model, 'head', None), 'fc', None)
    if not isinstance(head, torch.nn.Linear) or not hasattr(model, 'extract_feat'):
        raise SystemExit(f"{args.config}: a probe needs MMPretrain's ImageClassifier with a LinearClsHead.")
    train, val = (Runner.build_dataloader(dict(cfg[name], persistent_workers=False), seed=seed)
                  for name in ('train_dataloader', 'val_dataloader'))
    try:
        probe = fit_probe(features(model, TargetLoader(train, seed)), features(model, val), head.out_features)
    except ValueError as error:
        raise SystemExit(f'mmseg-daft probe: {error}') from error
    with torch.no_grad():
        head.weight.copy_(torch.from_numpy(probe.weight))
        head.bias.copy_(torch.from_numpy(probe.bias))
    meta = dict(probe=dict(strength=probe.strength, accuracy=probe.accuracy))
    state = {name: tensor.cpu() for name, tensor in model.state_dict().items()}
    write_checkpoint(out, dict(meta=meta, state_dict=state))
    print(f'Best of 50 strengths: C={probe.strength:.3g}, accuracy on the validation images {probe.accuracy:.2f} %.')
    print(f'Written to {out}. Test it: mmseg-daft test {args.config} {out}')
    return 0


def features(model: nn.Module, loader: Collection[Any]) -> tuple[np.ndarray, np.ndarray]:
    """Return what a classifier's head gets of all images, (N, channels), and their labels, (N,)."""
    import numpy as np
    import torch
    from rich.progress import track

    found, labels = [], []
    with torch.no_grad():
        for batch in track(loader, 'Features', total=len(loader), transient=True):
            data = model.data_preprocessor(batch)
            found.append(model.extract_feat(data['inputs'], stage='pre_logits').cpu().numpy())
            labels += [int(sample.gt_label) for sample in data['data_samples']]
    return np.concatenate(found), np.array(labels)


def fit_probe(
    train: tuple[np.ndarray, np.ndarray], val: tuple[np.ndarray, np.ndarray], num_classes: int,
) -> Probe:
    """Fit logistic regressions of 50 strengths on features and labels, and return the best on the second pair.

    Features are normalized by one mean and one deviation of all; the probe takes them as they are. Of equal ones the
    strongest regularization wins. This is the paper's probe (Kumar et al., ICLR 2022, and the authors' code), except
    that a class without training images is never predicted.

    Raises:
        ValueError: There are less than two classes, or a label is none of the head's.
    """
    import warnings

    import numpy as np
    from rich.progress import track
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    (images, labels), (val_images, val_labels) = train, val
    if len(np.unique(labels)) < 2 or labels.min() < 0 or labels.max() >= num_classes:
        raise ValueError(f'The training labels go from {labels.min()} to {labels.max()}, and the head has '
                         f'{num_classes} classes. A probe needs two classes at least; set model.head.num_classes.')
    mean, std = images.mean(), images.std()
    regression, best = LogisticRegression(max_iter=200, warm_start=True), None
    for strength in track(np.logspace(-7, 2, 50), 'Strengths', transient=True):
        with warnings.catch_warnings():
            warnings.simplefilter('ignore', ConvergenceWarning)  # 200 steps are the authors', too
            regression.set_params(C=strength).fit((images - mean) / std, labels)
        accuracy = 100 * regression.score((val_images - mean) / std, val_labels)
        if best is None or accuracy > best.accuracy:
            coefficients, intercepts = regression.coef_, regression.intercept_
            if len(coefficients) == 1:  # of two classes scikit-learn keeps the difference
                coefficients, intercepts = (np.concatenate([-x, x]) / 2 for x in (coefficients, intercepts))
            weight, bias = np.zeros((num_classes, images.shape[1])), np.full(num_classes, -1e4)
            weight[regression.classes_] = coefficients / std
            bias[regression.classes_] = intercepts - coefficients.sum(1) * mean / std
            best = Probe(weight, bias, float(strength), accuracy)
    return best
