"""``mmseg-daft probe``: scikit-learn's logistic regression as the head of a network, from which LP-FT starts."""

import numpy as np
import pytest
import torch
from mmengine.registry import DATASETS, MODELS
from support.classification import small_classifier, write_classifier_start
from support.small_runs import train

from mmseg_daft import cli
from mmseg_daft.offline.probe import fit_probe

STEM = 'linear_r50-swav_b64-20e_cifar10-224x224.py'


def best_regression(images, labels, val_images, val_labels):
    """The sweep, on features that are normalized; return what scikit-learn predicts for the second ones."""
    from sklearn.linear_model import LogisticRegression

    regression, scores = LogisticRegression(max_iter=200, warm_start=True), {}
    for strength in np.logspace(-7, 2, 50):
        regression.C = strength
        regression.fit((images - images.mean()) / images.std(), labels)
        predicted = regression.predict_proba((val_images - images.mean()) / images.std())
        scores.setdefault((regression.classes_[predicted.argmax(1)] == val_labels).mean(), (strength, predicted))
    return scores[max(scores)], max(scores)


@pytest.mark.filterwarnings('ignore:lbfgs failed')
def test_the_network_predicts_what_scikit_learn_does_and_lpft_starts_there(tasks, tmp_path, capsys):
    cfg = small_classifier(f'classification/lp_{STEM}', tmp_path / 'run', tasks)
    for transform in cfg.train_dataloader.dataset.pipeline:
        if transform.type == 'RandomFlip':
            transform.prob = 0.0  # features that an own computation can have, too
    cfg.train_dataloader.dataset.indices = 20
    write_classifier_start(cfg, tmp_path)
    cfg.pop('experiment_name')
    cfg.dump(tmp_path / 'config.py')
    assert cli.main(['probe', str(tmp_path / 'config.py'), '--work-dir', str(tmp_path / 'lp')]) == 0
    said = capsys.readouterr().out
    content = torch.load(tmp_path / 'lp' / 'probe.pth')
    model = MODELS.build(cfg.model)
    model.load_state_dict(content['state_dict'])
    model.eval()

    def read(loader):
        dataset = DATASETS.build(loader.dataset)
        images = torch.stack([dataset[i]['inputs'] for i in range(len(dataset))]).float()
        mean, std = (torch.tensor(cfg.model.data_preprocessor[key]).view(-1, 1, 1) for key in ('mean', 'std'))
        return (images - mean) / std, dataset.get_gt_labels()

    (images, labels), (val_images, val_labels) = read(cfg.train_dataloader), read(cfg.val_dataloader)
    with torch.no_grad():
        found, val_found = (model.backbone(x)[-1].mean((2, 3)).numpy() for x in (images, val_images))
        logits = model(val_images)
    (strength, probabilities), accuracy = best_regression(found, labels, val_found, val_labels)
    assert content['meta']['probe'] == dict(strength=strength, accuracy=100 * accuracy)
    assert f'C={strength:.3g}, accuracy on the validation images {100 * accuracy:.2f} %' in said
    classes = np.unique(labels)
    np.testing.assert_allclose(logits.softmax(1).numpy()[:, classes], probabilities, atol=2e-3)
    np.testing.assert_array_equal(logits.argmax(1).numpy(), classes[probabilities.argmax(1)])

    second = small_classifier(f'classification/lpft_{STEM}', tmp_path / 'lpft', tasks)
    second.model.init_cfg.checkpoint = str(tmp_path / 'lp' / 'probe.pth')
    starts = []
    train(second, lambda runner, batch: starts.append({n: t.clone() for n, t in runner.model.state_dict().items()}))
    assert all(torch.equal(starts[0][name], tensor) for name, tensor in content['state_dict'].items())


@pytest.mark.parametrize('classes', [[0, 1], [1, 4, 5]])
@pytest.mark.filterwarnings('ignore:lbfgs failed')
def test_classes_without_images_are_never_predicted(classes):
    rng = np.random.default_rng(0)
    labels, val_labels = (rng.choice(classes, 60) for _ in range(2))
    images, val_images = (3 + 2 * rng.normal(size=(60, 8)) + np.eye(8)[x] for x in (labels, val_labels))
    probe = fit_probe((images, labels), (val_images, val_labels), 7)
    (strength, probabilities), accuracy = best_regression(images, labels, val_images, val_labels)
    logits = torch.from_numpy(val_images @ probe.weight.T + probe.bias)
    assert (probe.strength, probe.accuracy) == (strength, 100 * accuracy)
    np.testing.assert_allclose(logits.softmax(1).numpy()[:, classes], probabilities, atol=1e-9)
    assert set(logits.argmax(1).tolist()) <= set(classes)


def test_labels_that_the_head_lacks_are_refused():
    images = np.zeros((4, 3))
    for labels in ([0, 1, 2, 3], [1, 1, 1, 1]):
        with pytest.raises(ValueError, match=r'the head has 3 classes.*model\.head\.num_classes'):
            fit_probe((images, np.array(labels)), (images, np.array(labels)), 3)


def test_a_segmentor_is_refused(tmp_path, camvid_layout):
    from support.small_runs import SMALL, small

    cfg = small(SMALL / 'ft.py', tmp_path / 'run')
    cfg.model.backbone.init_cfg = None
    cfg.dump(tmp_path / 'config.py')
    with pytest.raises(SystemExit, match="a probe needs MMPretrain's ImageClassifier with a LinearClsHead"):
        cli.main(['probe', str(tmp_path / 'config.py'), '--work-dir', str(tmp_path)])
