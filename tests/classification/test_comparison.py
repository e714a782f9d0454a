"""``mmseg-daft evaluate`` and ``analyze`` of classifiers: MMPretrain's accuracies, corruption error, distortion."""

import csv

import cv2
import numpy as np
import pytest
import torch
from mmengine.registry import DATASETS, MODELS, init_default_scope
from mmengine.runner import Runner
from support.classification import DAFT_CIFAR, small_classifier, write_classifier_start
from support.small_runs import train

from mmseg_daft import cli
from mmseg_daft.analysis import report as analysis
from mmseg_daft.engine.convert_model import CONVERTED
from mmseg_daft.evaluation import report
from mmseg_daft.evaluation.corruptions import GROUPS

DIGITS = 'classification/daft_linear_efficientnet-lite0_b64-5e_digits-64x64.py'


@pytest.fixture(autouse=True)
def figures(monkeypatch):
    """Draw figures without writing them, which takes most of the time; their names."""
    names = []
    for module in (report, analysis):
        monkeypatch.setattr(module, 'report_figures', lambda *args, draw=module.report_figures: names.extend(
            draw(*args)) or {})
    return names


@pytest.fixture
def evaluate(tmp_path, capsys):
    """Run the command on a config; return the rows of its numbers and what it said."""

    def run(cfg, *words, code=0, workers=0):
        cfg.pop('experiment_name', None)
        cfg.dump(tmp_path / 'config.py')
        out = ['--out', str(tmp_path / 'out'), '--workers', str(workers)]
        result = cli.main(['evaluate', str(tmp_path / 'config.py'), *map(str, words), *out])
        said = capsys.readouterr()
        assert result == code, said.out + said.err
        said = ' '.join((said.out + said.err).split())
        return said if code else (list(csv.DictReader((tmp_path / 'out' / 'numbers.csv').open())), said)

    return run


def value(rows, **where):
    [row] = [row for row in rows if all(row[key] == it for key, it in where.items())]
    return float(row['value'])


@pytest.fixture(scope='module')
def digits(tasks, tmp_path_factory):
    """A config with 20 images in each set, and checkpoints: DAFT after two iterations, and its classes moved."""
    folder = tmp_path_factory.mktemp('digits')
    train(small_classifier(DIGITS, folder / 'daft', tasks))
    content = torch.load(folder / 'daft' / 'epoch_1.pth', weights_only=False)
    content['state_dict']['head.fc.weight'] = content['state_dict']['head.fc.weight'].roll(1, 0)
    torch.save(content, folder / 'moved.pth')
    runs = dict(moved=str(folder / 'moved.pth'), DAFT=str(folder / 'daft' / 'epoch_1.pth'))

    def config():
        cfg = small_classifier(DIGITS, folder / 'unused', tasks)
        for dataset in (cfg.test_dataloader.dataset, *cfg.test_cfg.domains.values()):
            dataset.indices = list(range(0, 1000, 50))
        return cfg

    return config, runs


def own_test(cfg, checkpoint, folder):
    """What MMPretrain's own test finds, as shares."""
    cfg.load_from, cfg.work_dir = str(checkpoint), str(folder)
    cfg.experiment_name = cfg.visualizer.name = str(folder).replace('/', '_')
    return {name.replace('accuracy/top1', '').rstrip('/') or 'test': share / 100
            for name, share in Runner.from_cfg(cfg).test().items()}


@pytest.mark.slow
def test_the_numbers_are_those_of_mmpretrains_own_test(digits, evaluate, figures, tmp_path):
    config, runs = digits
    words = [*map('='.join, runs.items()), '--corruptions', 'fog', 'contrast', '--severities', '3']
    rows, said = evaluate(config(), *words)
    assert figures == ['sets', 'differences', 'corruptions', 'classes']
    assert 'accuracy in %' in said and 'corruption error' in said and 'mIoU' not in said + str(rows)
    assert 'mIoU' not in (tmp_path / 'out' / 'report.html').read_text()
    own = own_test(config(), runs['DAFT'], tmp_path / 'own')
    assert list(own) == ['test', 'rendered', 'noisy']
    for set_, accuracy in own.items():
        assert value(rows, measure='accuracy', run='DAFT', set=set_, corruption='') == pytest.approx(accuracy, abs=1e-6)
        difference = accuracy - value(rows, measure='accuracy', run='moved', set=set_, corruption='')
        assert value(rows, measure='accuracy_difference', set=set_) == pytest.approx(difference, abs=1e-6)
    cfg = config()
    cfg.test_dataloader.dataset.pipeline.insert(1, dict(type='mmseg.Corrupt', name='fog', severity=3))
    cfg.test_cfg.only = []
    fog = own_test(cfg, runs['DAFT'], tmp_path / 'fog')['test']
    fog_error, error = (value(rows, measure='corruption_error', run='DAFT', corruption=name) for name in ('fog', 'all'))
    contrast = value(rows, measure='accuracy', run='DAFT', corruption='contrast')
    assert fog_error == pytest.approx(1 - fog, abs=1e-6) and error == pytest.approx(1 - (fog + contrast) / 2, abs=1e-6)

    times = {path: path.stat().st_mtime_ns for path in (tmp_path / 'out' / 'cells').iterdir()}
    assert len(times) == 2 * 5
    list(times)[3].unlink()
    again, _ = evaluate(config(), *words, workers=1)
    assert again == rows
    assert {path: path.stat().st_mtime_ns for path in times}.items() - times.items() == {
        (list(times)[3], list(times)[3].stat().st_mtime_ns)}


@pytest.mark.slow
def test_cifar10_c_is_read_from_its_files(tasks, tmp_path, evaluate):
    cfg = small_classifier(DAFT_CIFAR, tmp_path / 'run', tasks)
    write_classifier_start(cfg, tmp_path)
    model = MODELS.build(cfg.model)
    model.init_weights()
    model.eval()
    mean, std = (torch.tensor(cfg.model.data_preprocessor[key]).view(-1, 1, 1) for key in ('mean', 'std'))

    def logits(images):
        with torch.no_grad():
            return model((torch.from_numpy(images).permute(0, 3, 1, 2).float() - mean) / std)

    files = {name: np.load(tasks / 'CIFAR-10-C' / f'{name}.npy') for name in GROUPS['weather']}
    torch.nn.init.normal_(model.head.fc.weight)
    model.head.fc.bias.data = -logits(files['fog']).mean(0)  # or all would be of one class
    torch.save(dict(state_dict=model.state_dict()), tmp_path / 'model.pth')
    rows, _ = evaluate(cfg, f'FT={tmp_path / "model.pth"}', '--corruptions', 'weather', '--severities', '2', '5')
    labels, errors = np.load(tasks / 'CIFAR-10-C' / 'labels.npy'), []
    for name, images in files.items():
        wrong = (logits(images).argmax(1).numpy() != labels).reshape(5, 8)
        for severity in (2, 5):
            found = value(rows, measure='accuracy', corruption=name, severity=str(severity))
            assert found == 1 - wrong[severity - 1].mean()
        errors.append(wrong[[1, 4]].mean())
        assert value(rows, measure='corruption_error', corruption=name) == pytest.approx(errors[-1])
    assert 0 < np.mean(errors) < 1
    assert value(rows, measure='corruption_error', corruption='all') == pytest.approx(np.mean(errors))
    assert {row['set'] for row in rows} == {'test', 'cifar10_1', 'stl10'}


@pytest.mark.slow
def test_what_does_not_fit_is_refused(digits, tasks, tmp_path, evaluate, capsys):
    config, runs = digits
    run = f'DAFT={runs["DAFT"]}'

    def refused(says, *words, cfg=None, **options):
        cfg = cfg or config()
        cfg.merge_from_dict(options)
        said = evaluate(cfg, run, *words, code=1)
        assert says in said and 'Traceback' not in said and not (tmp_path / 'out' / 'cells').exists()

    refused("A classifier's further sets are in its config: test_cfg.domains", '--sets', 'camvid')
    refused("test_cfg.only names ['foggy'], and test_cfg.domains has ['noisy', ", **{'test_cfg.only': ['foggy']})
    for number in (*range(4), *range(5, 10)):
        path = tmp_path / 'few' / str(number) / '1.png'
        path.parent.mkdir(parents=True)
        cv2.imwrite(str(path), np.zeros((32, 32), np.uint8))
    few = dict(config().test_cfg.domains.noisy, data_root=str(tmp_path), data_prefix='few', indices=None)
    refused('The classes of the set few are 0, 1, 2, 3, 5, 6, 7, 8, 9, and not those of the own', **{
        'test_cfg.domains.few': few})
    assert cli.main(['interpolate', str(tmp_path / 'config.py'), 'config', runs['DAFT']]) == 1
    assert 'is of a classifier, and interpolate is for segmentation' in ' '.join(capsys.readouterr().err.split())

    init_default_scope('mmpretrain')
    cfg = small_classifier(DAFT_CIFAR, tmp_path / 'run', tasks)
    torch.save(dict(state_dict=MODELS.build(dict(cfg.model, backbone=dict(
        cfg.model.backbone, init_cfg=None))).state_dict()), tmp_path / 'cifar.pth')
    run = f'FT={tmp_path / "cifar.pth"}'
    refused('The config has no corrupted images of spatter, only of ', '--corruptions', 'spatter', cfg=cfg)
    cfg.test_dataloader.dataset.indices = 7
    refused('The corrupted images test, fog 1 have other labels than the test set', '--corruptions', 'fog', cfg=cfg)


def test_the_distortion_is_that_of_the_features_in_plain_pytorch(digits, figures, tmp_path, capsys):
    """Also with a map of one position, whose image still stands for its class."""
    config, runs = digits
    cfg = config()
    cfg.pop('experiment_name')
    cfg.model.backbone.out_indices = (1, 4)
    cfg.dump(tmp_path / 'config.py')
    assert cli.main(['analyze', str(tmp_path / 'config.py'), f'DAFT={runs["DAFT"]}', '--out', str(tmp_path / 'out'),
                     '--workers', '0', '--batch-size', '4']) == 0
    assert 'after the conversion' in capsys.readouterr().out
    assert {'figure_1_images', 'figure_2_parameters', 'classes', 'sheet_daft_least', 'sheet_daft_most'} <= {*figures}
    with (tmp_path / 'out' / 'numbers.csv').open() as file:
        rows = list(csv.DictReader(file))
    start, end = MODELS.build(cfg.model), MODELS.build(cfg.model)
    start.init_weights()
    content = torch.load(runs['DAFT'], weights_only=False)
    end.load_state_dict(content['state_dict'])
    dataset = DATASETS.build(cfg.test_dataloader.dataset)
    images = torch.stack([dataset[i]['inputs'] for i in range(len(dataset))]).flip(1).sub(127.).div(128.)
    with torch.no_grad():
        before, after = ([maps.double().mean((2, 3)) for maps in model.eval().backbone(images)]
                         for model in (start, end))
    for stage, x, y in zip(dict.fromkeys(row['stage'] for row in rows if row['measure'] == 'cka'), before, after):
        for measure, expected in (('cosine_similarity', torch.cosine_similarity(x, y)),
                                  ('l2_distance', (x - y).norm(dim=1))):
            found = [float(row['value']) for row in rows if (row['level'], row['measure'], row['stage'], row[
                'statistic']) == ('image', measure, stage, 'value')]
            np.testing.assert_allclose(found, expected, rtol=1e-4)
    labels = dataset.get_gt_labels().tolist()
    assert {row['class']: float(row['value']) for row in rows if (row['statistic'], row['stage']) == (
        'pixels', stage)} == {str(i): labels.count(i) for i in set(labels)}  # of one position each
    changes = {f'{row["layer"]}.running_mean': float(row['value']) for row in rows
               if row['measure'] == 'relative_change_bn_mean'}
    converted = content['message_hub']['runtime_info'][CONVERTED]
    assert len(changes) == 48
    for name, change in changes.items():
        before, after = converted[name].double(), content['state_dict'][name].double()
        assert change == pytest.approx(float((after - before).norm() / before.norm()), rel=1e-6) and change > 0
