"""The analysis of real runs: its numbers against an own computation, its properties, and what it refuses."""

import math
import pickle
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from support.distortion_case import IMAGES, rows

# isort: split
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.registry import init_default_scope
from mmseg.registry import DATASETS, MODELS

from mmseg_daft.analysis import report
from mmseg_daft.analysis.measure import picture
from mmseg_daft.analysis.runs import load_start
from mmseg_daft.cli import main
from mmseg_daft.engine.convert_model import CONVERTED

ROOT = Path(__file__).parents[2]


@pytest.fixture
def case(distortion_case):
    return distortion_case


@pytest.fixture
def analyze(case, tmp_path, capsys, monkeypatch):
    """Run the command in this process; return where it wrote and what it said. Figures take most of the time."""

    def run(*words, config=None, code=0, figures=False):
        words = [*words, *([] if '--out' in words else ['--out', tmp_path / f'out{len(list(tmp_path.iterdir()))}'])]
        with monkeypatch.context() as patch:
            if not figures:
                patch.setattr(report, 'report_figures', lambda findings: {})
                words.append('--no-sheets')
            result = main(['analyze', str(config or case.config), *map(str, words), '--workers', '0'])
        said = capsys.readouterr()
        assert result == code, said.err
        return words[words.index('--out') + 1], said.out + said.err

    return run


def features(case, checkpoint):
    """Stage 4 of every validation image by plain PyTorch: a list of (C, H, W) in float64."""
    cfg = Config.fromfile(case.config)
    init_default_scope('mmseg')
    cfg.model.backbone.init_cfg = None
    model = MODELS.build(cfg.model)
    model.load_state_dict(torch.load(checkpoint, weights_only=False)['state_dict'])
    model.eval()
    dataset = DATASETS.build(cfg.val_dataloader.dataset)
    maps, labels = [], []
    with torch.no_grad():
        for i in range(len(dataset)):
            data = model.data_preprocessor(pseudo_collate([dataset[i]]), False)
            maps.append(model.backbone(data['inputs'])[3][0].double().numpy())
            labels.append(data['data_samples'][0].gt_sem_seg.data[0].numpy())
    return maps, labels, dataset


def test_all_numbers_equal_an_own_computation(case, analyze):
    out, said = analyze(f'FT={case.folder / "ft"}', f'DAFT={case.checkpoint("daft")}')
    assert 'Feature distortion' in said and 'report.html' in said and len(said.splitlines()) < 60
    numbers = out / 'numbers.csv'
    before, labels, dataset = features(case, case.start)
    for method in ('ft', 'daft'):
        after, *_ = features(case, case.checkpoint(method))
        where = dict(method=method.upper(), stage='4')
        x, y = (np.stack([m.mean((1, 2)) for m in maps]) for maps in (before, after))
        cosine = (x * y).sum(1) / np.sqrt((x * x).sum(1) * (y * y).sum(1))
        distance = np.sqrt(((x - y) ** 2).sum(1))
        per_image = rows(numbers, level='image', measure='cosine_similarity', statistic='value', **where)
        assert [row['image'] for row in per_image] == [Path(dataset.get_data_info(i)['img_path']).name
                                                       for i in range(IMAGES)]
        np.testing.assert_allclose([float(row['value']) for row in per_image], cosine, rtol=1e-9)
        per_image = rows(numbers, level='image', measure='l2_distance', statistic='value', **where)
        np.testing.assert_allclose([float(row['value']) for row in per_image], distance, rtol=1e-6)
        median = rows(numbers, level='image', measure='cosine_similarity', statistic='median', **where)
        assert float(median[0]['value']) == pytest.approx(np.median(cosine), rel=1e-9)

        pixels = [(a * b).sum(0) / np.sqrt((a * a).sum(0) * (b * b).sum(0)) for a, b in zip(before, after)]
        median = rows(numbers, level='pixel', measure='cosine_similarity', statistic='median', **where)
        everything = np.sort(np.concatenate([p.ravel() for p in pixels]))
        middle = everything[[len(everything) // 2 - 1, len(everything) // 2]]
        assert middle[0] - 0.0005 <= float(median[0]['value']) <= middle[1] + 0.0005
        counts = rows(numbers, level='pixel', measure='cosine_similarity', statistic='count', **where)
        assert sum(int(row['value']) for row in counts) == len(everything)

        h, w = pixels[0].shape
        middles = [np.ix_(np.floor((np.arange(h) + 0.5) * m.shape[0] / h).astype(int),
                          np.floor((np.arange(w) + 0.5) * m.shape[1] / w).astype(int)) for m in labels]
        for number, name in enumerate(dataset.metainfo['classes']):
            inside = [p[m[middle] == number] for p, m, middle in zip(pixels, labels, middles)]
            found = rows(numbers, level='class', measure='image_mean_cosine_similarity', statistic='value',
                         **{'class': name}, **where)
            np.testing.assert_allclose([float(row['value']) for row in found], [p.mean() for p in inside if len(p)],
                                       rtol=1e-9)
        xc, yc = x - x.mean(0), y - y.mean(0)
        cka = np.linalg.norm(xc.T @ yc) ** 2 / np.linalg.norm(xc.T @ xc) / np.linalg.norm(yc.T @ yc)
        assert float(rows(numbers, measure='cka', **where)[0]['value']) == pytest.approx(cka, rel=1e-6)

    check_equation_6(case, numbers)


def check_equation_6(case, numbers):
    """FT against the start; DAFT against the converted start, in the order of the network."""
    start = torch.load(case.start, weights_only=False)['state_dict']
    for method in ('ft', 'daft'):
        content = torch.load(case.checkpoint(method), weights_only=False)
        kept = content['message_hub']['runtime_info'].get(CONVERTED, {})
        assert bool(kept) == (method == 'daft')
        w = {**start, **kept}
        for kind, tensor in (('conv_weight', 'weight'), ('bn_weight', 'weight'), ('bn_bias', 'bias'),
                             ('bn_mean', 'running_mean'), ('bn_variance', 'running_var')):
            found = rows(numbers, measure=f'relative_change_{kind}', method=method.upper())
            assert len(found) == 20
            for row in found:
                name = f'{row["layer"]}.{tensor}'
                a, b = w[name].double().numpy(), content['state_dict'][name].double().numpy()
                assert float(row['value']) == pytest.approx(np.linalg.norm(b - a) / np.linalg.norm(a), rel=1e-9)


@pytest.mark.slow
def test_all_figures_are_written_in_all_formats_and_in_the_report(case, analyze):
    out, _ = analyze(f'FT={case.folder / "ft"}', f'DAFT={case.checkpoint("daft")}', '--stages', '3', '4', figures=True)
    figures = {path.name for path in (out / 'figures').iterdir()}
    names = {name.rsplit('.', 1)[0] for name in figures}
    assert figures == {f'{name}.{suffix}' for name in names for suffix in ('png', 'pdf', 'svg')}
    assert names == {'figure_1_images', 'figure_1_pixels', 'figure_2_parameters', 'bn_drift', 'cka', 'classes',
                     'sheet_ft_least', 'sheet_ft_most', 'sheet_daft_least', 'sheet_daft_most'}
    text = (out / 'report.html').read_text()
    assert len(re.findall(r'<img\b[^>]* src="data:image/', text)) == len(names)
    assert 'http' not in text.replace('http://www.w3.org', '')


def test_a_model_that_did_not_change_is_undistorted_to_the_last_digit(case, analyze):
    out, _ = analyze(f'FT={case.start}', '--stages', '2', '--formats', 'png', figures=True)
    summary = {(row['level'], row['measure']): float(row['value']) for row in rows(out / 'numbers.csv', stage='2')
               if row['statistic'] in ('median', 'value') and not row['image']}
    assert summary['image', 'cosine_similarity'] == summary['pixel', 'cosine_similarity'] == 1
    assert summary['image', 'l2_distance'] == summary['pixel', 'l2_distance'] == 0
    assert summary['stage', 'cka'] == pytest.approx(1, abs=1e-9)
    assert summary['stage', 'debiased_cka'] == pytest.approx(1, abs=1e-6)
    changes = [float(row['value']) for row in rows(out / 'numbers.csv', level='layer')]
    assert len(changes) == 5 * 20 + 2 * 20 and set(changes) == {0}


def test_a_converted_but_untrained_model_has_no_distortion_though_its_tensors_differ(case, analyze):
    start = torch.load(case.start, weights_only=False)['state_dict']

    def untrain(content):
        kept = content['message_hub']['runtime_info'][CONVERTED]
        assert min(float((kept[n] - start[n]).norm() / start[n].norm()) for n in kept if 'running' in n) > 0.01
        content['state_dict'].update({**{n: start[n] for n in start if n.startswith('backbone')}, **kept})

    out, _ = analyze(f'DAFT={case.changed("untrained.pth", case.checkpoint("daft"), untrain)}')
    numbers = out / 'numbers.csv'
    for row in rows(numbers, level='image', measure='cosine_similarity', statistic='value'):
        assert float(row['value']) > 1 - 1e-6
    for stage in '1234':
        found = rows(numbers, measure='l2_distance', statistic='value', stage=stage)
        assert found and max(float(row['value']) for row in found) < 1e-3
        assert float(rows(numbers, measure='cka', stage=stage)[0]['value']) == pytest.approx(1, abs=1e-4)
    assert {float(row['value']) for row in rows(numbers, level='layer')} == {0}


def values(path):
    """All rows of a tidy file but bins, whose edges a rounding may cross."""
    return {tuple(v for k, v in row.items() if k != 'value'): float(row['value'])
            for row in rows(path) if row['statistic'] != 'count'}


@pytest.mark.slow
def test_neither_batches_nor_processes_matter(case, analyze, tmp_path):
    words = [f'FT={case.checkpoint("ft")}', '--stages', '1', '4']
    one, _ = analyze(*words)
    batched, _ = analyze(*words, '--batch-size', '4')
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        port = s.getsockname()[1]
    done = subprocess.run(
        [sys.executable, '-m', 'torch.distributed.run', '--nproc_per_node', '2', '--master_addr', '127.0.0.1',
         '--master_port', str(port), '-m', 'mmseg_daft', 'analyze', str(case.config), *words,
         '--launcher', 'pytorch', '--out', str(tmp_path / 'two'), '--formats', 'png'],
        capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count('Report:') == 1 and (tmp_path / 'two' / 'report.html').is_file()
    reference = values(one / 'numbers.csv')
    for other in (batched, tmp_path / 'two'):
        mine = values(other / 'numbers.csv')
        assert list(mine) == list(reference)
        for key, value in mine.items():
            # Convolutions round otherwise in a batch. Values on the edge of a bin fall on either side of it then; and
            # CKA is of the differences between images, of which there are hardly any between these, all noise.
            tolerance = {'pixel': dict(abs=5e-4, rel=0.01), 'class': dict(abs=5e-4, rel=0.01), 'stage': dict(abs=2e-3)}
            tolerance = tolerance.get(key[0], dict(rel=1e-5, abs=1e-6))
            assert value == pytest.approx(reference[key], nan_ok=True, **tolerance), key


def test_amp_moves_the_numbers_little_and_is_noted(case, analyze):
    words = [f'FT={case.checkpoint("ft")}', '--stages', '4']
    full, half = (analyze(*words, *more)[0] / 'numbers.csv' for more in ((), ('--amp',)))
    a, b = (float(rows(path, level='image', statistic='median', measure='cosine_similarity')[0]['value'])
            for path in (full, half))
    assert a != b and a == pytest.approx(b, abs=0.02)
    assert 'half precision' in (half.parent / 'report.html').read_text()


def test_without_ground_truth_the_other_figures_are_drawn(case, analyze, tmp_path):
    shutil.copytree(case.root, tmp_path / 'data' / 'target')
    shutil.rmtree(tmp_path / 'data' / 'target' / 'SegmentationClass')
    out, _ = analyze(f'FT={case.checkpoint("ft")}', '--stages', '4', '--formats', 'png', '--cfg-options',
                     f'test_dataloader.dataset.data_root={tmp_path / "data" / "target"}', figures=True)
    names = {path.stem for path in (out / 'figures').iterdir()}
    assert {'figure_1_images', 'figure_1_pixels', 'sheet_ft_least', 'sheet_ft_most'} <= names
    assert 'classes' not in names and not rows(out / 'numbers.csv', level='class')
    assert 'without ground truth' in (out / 'report.html').read_text()


def test_names_may_hold_any_sign_and_are_shown_as_they_are(case, analyze, tmp_path):
    (tmp_path / 'data').mkdir()
    shutil.copytree(case.root, tmp_path / 'data' / 'any')
    cfg = Config.fromfile(case.config)
    dataset = cfg.test_dataloader.dataset
    dataset.data_root = str(tmp_path / 'data' / 'any')
    names = ['_road', r'a$\nonsense$', '$x', '[bold]', 'wall_', r'\$y$']
    palette = [[40 * i, 0, 0] for i in range(6)]
    dataset.update(type='BaseSegDataset', img_suffix='.jpg', seg_map_suffix='.png',
                   metainfo=dict(classes=names, palette=palette))
    config = tmp_path / 'config.py'
    config.write_text('\n'.join(f'{key} = {value!r}' for key, value in cfg.to_dict().items()))
    methods = ['_ft', r'$\nonsense$', '[red]x[/]']
    out, said = analyze(*(f'{method}={case.checkpoint("ft")}' for method in methods), '--stages', '4', '--images', '2',
                        '--formats', 'svg', config=config, figures=True)
    assert all(method in said for method in methods)
    for figure in ('figure_1_images', 'figure_2_parameters', 'bn_drift', 'cka', 'classes'):
        text = (out / 'figures' / f'{figure}.svg').read_text()
        assert all(f'<!-- {name} -->' in text.replace('<!--  ', '<!-- ') for name in methods), figure
    assert '$\\nonsense$' in (out / 'figures' / 'sheet_--nonsense-_least.svg').read_text()
    shown = {row['class'] for row in rows(out / 'numbers.csv', level='class')}
    assert shown <= set(names) and all(f' {name} -->' in text for name in shown)


def test_numbers_are_written_before_figures(case, analyze, monkeypatch, tmp_path):
    def fail(findings):
        raise RuntimeError('a figure')
    with pytest.raises(RuntimeError, match='a figure'), monkeypatch.context() as patch:
        patch.setattr(report, 'report_figures', fail)
        main(['analyze', str(case.config), f'FT={case.checkpoint("ft")}', '--stages', '4', '--images', '1',
              '--out', str(tmp_path / 'out'), '--workers', '0', '--no-sheets'])
    assert rows(tmp_path / 'out' / 'numbers.csv', measure='cka')


def test_labels_that_the_decoder_ignores_are_no_class(case, analyze):
    words = [f'FT={case.checkpoint("ft")}', '--stages', '4', '--images', '3']
    all_, less = (analyze(*words, *more)[0] / 'numbers.csv' for more in (
        (), ('--cfg-options', 'model.decode_head.ignore_index=3')))
    shown = [{row['class'] for row in rows(path, level='class')} for path in (all_, less)]
    assert shown[0] - shown[1] == {'triangle'} and shown[1] < shown[0]


@pytest.mark.parametrize(('channels', 'dtype', 'top'), [
    (1, torch.uint8, 200), (2, torch.uint8, 200), (3, torch.uint8, 200), (4, torch.uint8, 200),
    (1, torch.float32, 65535), (3, torch.float32, 1), (3, torch.float32, 65535)])
def test_a_picture_shows_any_number_of_channels_and_any_range(case, channels, dtype, top):
    cfg = Config.fromfile(case.config)
    start = load_start(cfg, None, torch.device('cpu'))
    image = torch.linspace(0, top, 4 * 6).view(1, 4, 6).repeat(channels, 1, 1)
    image[1:] *= 0.5
    shown = picture(image.to(dtype), start.model)
    assert shown.shape == (4, 6, 3) and shown.dtype == np.uint8
    brightest = shown.reshape(-1, 3).max(0).tolist()
    high, low = (200, 100) if dtype is torch.uint8 else (255, 128)
    expected = {3: [low, low, high], 4: [high, low, low]}  # mmseg turns three channels alone from BGR to RGB
    assert brightest == expected.get(channels, [high] * 3)


def test_one_image_has_no_intervals(case, analyze):
    words = [f'FT={case.checkpoint("ft")}', '--images', '1', '--stages', '4', '--formats', 'png']
    out, said = analyze(*words, figures=True)
    assert 'With 1 image there are no intervals' in ' '.join(said.split())
    for row in rows(out / 'numbers.csv', statistic='interval_low'):
        assert math.isnan(float(row['value']))
    assert math.isnan(float(rows(out / 'numbers.csv', measure='cka')[0]['value']))


def test_a_converted_run_without_the_tensors_that_it_began_with_is_refused(case, analyze):
    older = case.changed('older.pth', case.checkpoint('daft'),
                         lambda content: content['message_hub']['runtime_info'].pop(CONVERTED))
    out, said = analyze(f'FT={case.checkpoint("ft")}', f'DAFT={older}', code=1)
    assert f'DAFT: {older} was converted and does not hold the tensors' in said and 'Train it again' in said
    assert 'Measure' not in said and not out.exists()


def test_a_report_of_something_else_is_not_overwritten(case, analyze, tmp_path):
    words = [f'FT={case.checkpoint("ft")}', '--stages', '4', '--images', '2', '--out', tmp_path / 'mine']
    analyze(*words)
    written = (tmp_path / 'mine' / 'numbers.csv').read_bytes()
    other_config = tmp_path / 'other.py'
    shutil.copy(case.config, other_config)
    others = dict(split=([*words, '--split', 'val'], None), config=(words, other_config),
                  runs=([f'DAFT={case.checkpoint("daft")}', *words[1:]], None),
                  pretrained=([*words, '--pretrained', case.start], None))
    others['cfg-options'] = [*words, '--cfg-options', 'test_dataloader.batch_size=2'], None
    for what, (asked, config) in others.items():
        _, said = analyze(*asked, config=config, code=1)
        assert f'holds another report: it differs in {what}. Name' in said and '--out' in said and 'Measure' not in said
    assert (tmp_path / 'mine' / 'numbers.csv').read_bytes() == written
    analyze(*words)  # the same again


def test_without_out_each_config_has_its_own_folder(case, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(report, 'report_figures', lambda findings: {})
    assert main(['analyze', str(case.config), f'FT={case.checkpoint("ft")}', '--no-sheets', '--workers', '0']) == 0
    assert (tmp_path / 'work_dirs' / 'analyze' / 'config' / 'report.html').is_file()


@pytest.mark.parametrize('columns', [80, None])
def test_tables_fit_and_cut_nothing(case, analyze, monkeypatch, columns):
    monkeypatch.delenv('COLUMNS', raising=False)
    if columns:
        monkeypatch.setenv('COLUMNS', str(columns))
    names = ['FT', 'DAFT', 'DAFT-without-compensation', 'LP-FT', 'fifth']
    words = [f'{name}={case.checkpoint("daft" if "DAFT" in name else "ft")}' for name in names]
    out, said = analyze(*words, '--stages', '3', '4')
    assert '…' not in said and max(map(len, said.split('Report: ')[0].splitlines())) <= (columns or 100)
    flat = re.sub(r'\s', '', said)
    assert all(name in flat for name in ('DAFT', 'LP-FT', 'fifth', 'cosinesimi-', 'debiased', 'L2distance,'))
    for row in rows(out / 'numbers.csv', statistic='median', level='image'):
        assert f'{float(row["value"]):.4f}' in said
    for row in rows(out / 'numbers.csv', measure='debiased_cka'):
        assert f'{float(row["value"]):.4f}' in said
    assert said.count('weight of conv') == 2  # four methods side by side, and one more


def test_the_start_of_the_config_and_a_named_one_are_the_same(case, analyze):
    words = [f'FT={case.checkpoint("ft")}', '--stages', '4']
    by_config, by_name = analyze(*words)[0], analyze(*words, '--pretrained', case.start)[0]
    assert values(by_config / 'numbers.csv') == values(by_name / 'numbers.csv')


def test_bad_input_is_refused_with_the_fix(case, analyze, tmp_path):
    def refused(*words, says, config=None):
        _, said = analyze(*words, config=config, code=1)
        assert says in said and 'Traceback' not in said

    ft = f'FT={case.checkpoint("ft")}'

    def poison(content):
        content['state_dict']['backbone.layer2.0.conv1.weight'][0, 0, 0, 0] = math.nan

    def widen(content):
        state = content['state_dict']
        state['backbone.layer3.0.conv1.weight'] = torch.zeros(99, 8, 3, 3)

    def other(content):
        content['message_hub']['runtime_info'][CONVERTED]['backbone.bn1.weight'] *= 1.1

    nan = case.changed('nan.pth', case.checkpoint('ft'), poison)
    refused(f'FT={nan}', says="'backbone.layer2.0.conv1.weight' holds NaN")
    wide = case.changed('wide.pth', case.checkpoint('ft'), widen)
    refused(f'FT={wide}', says='All checkpoints have to be of one arch')
    changed = case.changed('other.pth', case.checkpoint('daft'), other)
    refused(f'DAFT={changed}', says='converted from another pre-trained')
    refused('FT', says="'FT' is not NAME=RUN")
    refused(ft, ft, says='comes twice')
    refused(ft, ft.replace('FT', 'ft', 1), says="The methods 'FT' and 'ft' would both have figures named sheet_ft_*")
    refused(*(ft.replace('FT', name, 1) for name in ('FT+a', 'FT-a')), says="'FT+a' and 'FT-a' would both")
    refused('FT=nowhere', says='nowhere is neither a checkpoint nor a run folder')
    refused(ft, '--stages', '7', says='The backbone returns the stages 1, 2, 3, 4, not 7')
    refused(ft, config=tmp_path / 'none.py', says='There is no config')
    refused(ft, '--launcher', 'pytorch', says='torchrun --nproc_per_node 2 -m mmseg_daft analyze')
    refused(ft.replace('FT', 'x' * 200, 1), says='longer name than a file can have')
    (tmp_path / 'taken').write_text('')
    refused(ft, '--out', tmp_path / 'taken', says='numbers.csv cannot be written: ')
    text = {'type': 'BaseSegDataset', 'img_suffix': '.jpg', 'seg_map_suffix': '.png', 'metainfo.classes': 'road'}
    text = [f'test_dataloader.dataset.{key}={value}' for key, value in text.items()]
    refused(ft, '--cfg-options', *text, says="The classes of test_dataloader.dataset are one text, 'road'")
    refused(ft, '--cfg-options', 'nothing', says='--cfg-options nothing: not KEY=VALUE of')
    refused(ft, '--cfg-options', 'model.backbone.init_cfg=None', says='Name them by --pretrained')
    (tmp_path / 'empty.txt').write_text('')
    refused(ft, '--cfg-options', f'test_dataloader.dataset.ann_file={tmp_path / "empty.txt"}', says='found no image')


@pytest.mark.parametrize('write, says', [
    (lambda path: path.write_bytes(np.random.default_rng(0).bytes(5000)), 'PyTorch cannot read it'),
    (lambda path: path.write_bytes(b''), 'PyTorch cannot read it'),
    (lambda path: path.write_bytes(pickle.dumps([1, 2])), 'PyTorch cannot read it'),
    (lambda path: torch.save([torch.zeros(1)], path), 'it holds a list'),
    (lambda path: torch.save({'state_dict': [torch.zeros(1)]}, path), 'it holds no tensors by name'),
], ids=['random bytes', 'empty', 'a pickled list', 'a saved list', 'a list of weights'])
def test_a_file_that_is_no_checkpoint_is_named_and_refused(case, analyze, tmp_path, write, says):
    bad = tmp_path / 'bad.pth'
    write(bad)
    for words in ([f'FT={bad}'], [f'FT={case.checkpoint("ft")}', '--pretrained', bad],
                  [f'FT={case.checkpoint("ft")}', '--cfg-options', f'model.backbone.init_cfg.checkpoint={bad}'],
                  [f'FT={case.checkpoint("ft")}', '--cfg-options', f'load_from={bad}']):
        _, said = analyze(*words, code=1)
        assert f'{bad} is no checkpoint: {says}' in said and 'dictionary of tensors by name' in said
