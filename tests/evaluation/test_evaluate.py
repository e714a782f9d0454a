"""The evaluation of real runs: as mmseg tests, the same for any processes and after kills, and what it refuses."""

import csv
import os
import random
import resource
import signal
import time
import tracemalloc
from contextlib import redirect_stderr, redirect_stdout

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner
from mmseg.evaluation import IoUMetric
from support.distortion_case import IMAGES, rows
from support.ranks import on_ranks

from mmseg_daft.cli import main
from mmseg_daft.evaluation import cells, report
from mmseg_daft.evaluation.confusion import class_iou, mean_iou
from mmseg_daft.evaluation.store import read_areas, read_confusion, written_cell

CLASSES = ['ground', 'disc', 'square', 'triangle', 'ring', 'cross']


@pytest.fixture(autouse=True)
def in_blocks_without_figures(monkeypatch):
    """Seven images in four blocks; figures would take most of the time."""
    monkeypatch.setattr(cells, 'BLOCK', 2)
    monkeypatch.setattr(report, 'report_figures', lambda *args: {})


@pytest.fixture
def evaluate(case, tmp_path, capsys):
    """Run the command in this process; return where it wrote and what it said."""

    def run(*words, out=None, code=0, workers=0):
        out = out or tmp_path / f'out{len(list(tmp_path.iterdir()))}'
        result = main(['evaluate', str(case.config), *map(str, words), '--out', str(out), '--workers', str(workers)])
        said = capsys.readouterr()
        assert result == code, said.err
        return out, said.out + said.err

    return run


def on_rank(rank, world_size, words):
    return main([*words, '--workers', str(rank % 2)])


def both(case):
    return [f'FT={case.folder / "ft"}', f'DAFT={case.checkpoint("daft")}']


def written(out):
    """The bytes of all files of an evaluation, by name."""
    return {str(path.relative_to(out)): path.read_bytes() for path in out.rglob('*') if path.is_file()}


def number(out, **where):
    [row] = rows(out / 'numbers.csv', **where)
    return float(row['value'])


def test_the_numbers_are_those_of_mmseg_s_own_test(case, evaluate):
    out, said = evaluate(*both(case))
    assert 'mIoU in %' in said and 'Against FT' in said
    cfg = Config.fromfile(case.config)
    cfg.load_from, cfg.work_dir = str(case.checkpoint('ft')), str(out / 'tested')
    metrics = Runner.from_cfg(cfg).test()
    assert round(100 * number(out, run='FT', measure='mIoU'), 2) == metrics['mIoU']
    assert round(100 * number(out, run='FT', measure='pixel_accuracy'), 2) == metrics['aAcc']


def test_iou_is_mmseg_s_to_the_last_digit_also_of_absent_classes():
    rng = np.random.default_rng(0)
    truth, told = rng.integers(0, 7, (2, 3, 40, 50))
    truth[truth > 4], told[told == 3] = 255, 5  # 3 is never told, 5 only told, 6 neither
    told[told == 6] = 0
    metric = [IoUMetric.intersect_and_union(torch.tensor(p), torch.tensor(t), 7, 255) for p, t in zip(told, truth)]
    its = IoUMetric.total_area_to_metrics(*(sum(a).double() for a in zip(*metric)), metrics=['mIoU'])
    inside = truth != 255
    areas = np.stack([np.bincount(x, minlength=7) for x in (
        truth[inside & (truth == told)], truth[inside], told[inside])])
    assert np.array_equal(class_iou(areas), its['IoU'], equal_nan=True) and np.isnan(its['IoU'][6])
    assert mean_iou(areas) == np.nanmean(its['IoU'])


@pytest.mark.slow
def test_neither_workers_nor_ranks_nor_order_change_a_byte(case, evaluate, tmp_path):
    words = [*both(case), '--corruptions', 'gaussian_noise', '--severities', '2', '4-5']
    one = written(evaluate(*words)[0])
    assert len([name for name in one if name.startswith('cells')]) == 2 * 4 and 'report.html' in one
    assert written(evaluate(*words, workers=2)[0]) == one
    for ranks in (2, 4):
        out = tmp_path / f'{ranks} ranks'
        asked = ['evaluate', str(case.config), *words, '--out', str(out)]
        assert on_ranks(ranks, on_rank, tmp_path / f'meeting {ranks}', asked) == [0] * ranks
        assert written(out) == one
    alone = tmp_path / 'bit by bit'
    evaluate(words[1], '--corruptions', 'gaussian_noise', '--severities', '5', out=alone)
    evaluate(words[1], words[0], '--corruptions', 'gaussian_noise', '--severities', '3-4', out=alone)
    evaluate(*words, out=alone)
    cells_of_one = {name: content for name, content in one.items() if not name.startswith('cells')}
    assert cells_of_one.items() <= written(alone).items()


def forked(words, said, before=lambda: None):
    """Run the command in a process of its own, which begins as a copy of this one; return its id."""
    if pid := os.fork():
        return pid
    code = 3
    try:
        before()
        with open(said, 'w') as file, redirect_stdout(file), redirect_stderr(file):
            code = main(['evaluate', *map(str, words)])
    finally:
        os._exit(code)


@pytest.mark.slow
def test_after_twenty_kills_nothing_is_lost_done_twice_or_different(case, evaluate, tmp_path):
    words = [*both(case), '--corruptions', 'shot_noise', '--severities', '3', '5']
    start = time.monotonic()
    whole = written(evaluate(*words)[0])
    length = time.monotonic() - start
    out, random_ = tmp_path / 'killed', random.Random(0)
    finished, kills = {}, 0
    while kills < 20:
        pid = forked([case.config, *words, '--out', out, '--workers', '0'], tmp_path / 'said')
        time.sleep(random_.uniform(0, length / 4 if kills < 15 else length))
        os.kill(pid, signal.SIGKILL)
        kills += os.waitpid(pid, 0)[1] == signal.SIGKILL
        for path in (out / 'cells').glob('*.gz'):
            assert finished.setdefault(path.name, path.stat().st_mtime_ns) == path.stat().st_mtime_ns
        if (out / 'report.html').exists():
            (out / 'report.html').unlink()
            name = sorted(finished)[kills % len(finished)]
            (out / 'cells' / name).unlink()
            del finished[name]
    evaluate(*words, out=out)
    now = written(out)
    assert {name: now[name] for name in whole} == whole
    assert not [name for name in now if 'unfinished' in name and name.startswith('cells')]


def test_on_a_full_disk_it_says_so_and_goes_on_where_there_is_room(case, evaluate, tmp_path):
    """A limit for files stands for a full disk: the config, which MMEngine copies, is below it, the report is above."""
    out, limit = tmp_path / 'full', case.config.stat().st_size
    words = [*both(case), '--corruptions', 'brightness', '--severities', '1-2']
    pid = forked([case.config, *words, '--out', out, '--workers', '0'], tmp_path / 'said',
                 lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)))
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 1
    said = (tmp_path / 'said').read_text()
    assert f"File too large: '{out}/" in said and 'What is finished is kept' in said and 'Traceback' not in said
    kept = {path: path.stat().st_mtime_ns for path in (out / 'cells').iterdir()}
    assert len(kept) == 2 * 3 and not (out / 'report.html').exists()
    evaluate(*words, out=out)
    assert kept == {path: path.stat().st_mtime_ns for path in (out / 'cells').iterdir()}


def test_a_cell_that_cannot_be_written_leaves_nothing_behind(tmp_path):
    if (pid := os.fork()) == 0:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
        try:
            with written_cell(tmp_path / 'cell.gz', {}) as write:
                write(np.random.default_rng(0).integers(0, 2 ** 31, (4000, 4)))
        except OSError as error:
            os._exit(7 if error.filename == str(tmp_path / 'cell.gz') else 8)
        os._exit(9)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7 and not list(tmp_path.iterdir())


def test_only_what_is_new_is_counted(case, evaluate, tmp_path):
    out, _ = evaluate(both(case)[0], out=tmp_path / 'out')
    before = {path: path.stat().st_mtime_ns for path in (out / 'cells').iterdir()}
    evaluate(*both(case), f'again={case.checkpoint("ft")}', out=out)
    after = {path: path.stat().st_mtime_ns for path in (out / 'cells').iterdir()}
    assert len(before) == 1 and len(after) == 2 and before.items() <= after.items()
    assert number(out, run='again', measure='mIoU') == number(out, run='FT', measure='mIoU')
    assert {row['verdict'] for row in rows(out / 'numbers.csv', run='again', against='FT')} == {'level'}
    label = next((case.root / 'SegmentationClass').glob('*val*'))
    content = label.read_bytes()
    try:
        cv2.imwrite(str(label), np.zeros((60, 80), np.uint8))
        evaluate(both(case)[0], out=out)  # other labels, other cells
    finally:
        label.write_bytes(content)
    assert len(list((out / 'cells').iterdir())) == 3
    fog = [both(case)[0], '--corruptions', 'fog', '--severities', '1']
    evaluate(*fog, out=out)
    evaluate(*fog, '--cache', tmp_path / 'corrupted', out=out)  # where images are kept does not change them
    assert len(list((out / 'cells').iterdir())) == 4 and not (tmp_path / 'corrupted').exists()


def write_sets(case, tmp_path):
    path = tmp_path / 'sets.py'
    path.write_text(f'''sets = dict(other=dict(
    type='ShapesDataset', data_root={str(case.root)!r}, ann_file='ImageSets/Segmentation/val.txt',
    data_prefix=dict(img_path='JPEGImages', seg_map_path='SegmentationClass'),
    label_map={{'square': 'disc', 'cross': None}}))''')
    return path


def test_a_further_set_is_judged_by_the_classes_that_it_has(case, evaluate, tmp_path):
    out, said = evaluate(both(case)[0], '--sets', write_sets(case, tmp_path))
    assert 'other has no labels of square, cross: its mIoU is over the other 4 classes.' in ' '.join(said.split())
    matrices = [read_confusion(path, 6) for path in (out / 'cells').iterdir()]
    [own] = [m for m in matrices if m[2].any()]
    own[1] += own[2]
    own[[2, 5]] = 0
    assert any(np.array_equal(own, m) for m in matrices)
    iou = [own[c, c] / (own[c].sum() + own[:, c].sum() - own[c, c]) for c in (0, 1, 3, 4)]
    assert number(out, measure='mIoU', set='other') == pytest.approx(np.mean(iou), rel=1e-12)


def test_differences_are_paired_and_robustness_is_of_all_cells(case, evaluate):
    out, _ = evaluate(*both(case), '--corruptions', 'fog', 'contrast', '--severities', '1', '5', '--reference', 'DAFT')
    numbers = out / 'numbers.csv'
    cells_of = {run: {(row['corruption'], row['severity']): float(row['value'])
                      for row in rows(numbers, measure='mIoU', run=run)} for run in ('FT', 'DAFT')}
    mine, its = cells_of['FT'], cells_of['DAFT']
    assert list(mine) == [('', ''), ('fog', '1'), ('fog', '5'), ('contrast', '1'), ('contrast', '5')]
    mpc = np.mean([value for (corruption, _), value in mine.items() if corruption])
    assert number(out, measure='mPC', run='FT', corruption='all') == pytest.approx(mpc, rel=1e-12)
    assert number(out, measure='rPC', run='FT') == pytest.approx(mpc / mine['', ''], rel=1e-12)
    assert number(out, measure='mPC', run='FT', corruption='weather') == pytest.approx(
        (mine['fog', '1'] + mine['fog', '5']) / 2, rel=1e-12)
    cd = [sum(1 - mine[c, s] for s in '15') / sum(1 - its[c, s] for s in '15') for c in ('fog', 'contrast')]
    assert number(out, measure='CD', corruption='contrast') == pytest.approx(cd[1], rel=1e-12)
    assert number(out, measure='CD', corruption='all') == pytest.approx(np.mean(cd), rel=1e-12)
    lost = [sum(mine['', ''] - mine['fog', s] for s in '15'), sum(its['', ''] - its['fog', s] for s in '15')]
    if lost[1]:
        assert number(out, measure='rCD', corruption='fog') == pytest.approx(lost[0] / lost[1], rel=1e-9)
    [difference] = rows(numbers, measure='mIoU_difference')
    assert difference['run'] == 'FT' and difference['against'] == 'DAFT'
    counted = [read_areas(path, 6) for path in (out / 'cells').iterdir()]
    areas = {run: next(areas for areas in counted if mean_iou(areas.sum(0)) == value['', ''])
             for run, value in cells_of.items()}
    rng, drawn = np.random.default_rng(1), []
    for _ in range(2000):
        places = rng.integers(0, IMAGES, IMAGES)
        drawn.append(mean_iou(areas['FT'][places].sum(0)) - mean_iou(areas['DAFT'][places].sum(0)))
    interval = [float(difference['interval_low']), float(difference['interval_high'])]
    assert interval == pytest.approx(np.quantile(drawn, [0.025, 0.975]), abs=0.1 * (interval[1] - interval[0]))


def test_tables_fit_80_columns_and_cut_nothing(case, evaluate, monkeypatch):
    monkeypatch.setenv('COLUMNS', '80')
    names = ['FT', 'DAFT', 'DAFT-without-compensation', 'LP-FT', 'fifth']
    out, said = evaluate(*(f'{name}={case.checkpoint("daft" if "DAFT" in name else "ft")}' for name in names))
    assert '…' not in said and max(map(len, said.split('Report: ')[0].splitlines())) <= 80
    for row in rows(out / 'numbers.csv', measure='mIoU'):
        assert f'{100 * float(row["value"]):.2f}' in said
    assert csv.DictReader((out / 'numbers.csv').open()).fieldnames[:3] == ['measure', 'run', 'against']


def test_memory_does_not_grow_with_the_images(tmp_path):
    def peak(blocks):
        rng = np.random.default_rng(0)
        tracemalloc.start()
        with written_cell(tmp_path / f'{blocks}.gz', dict(images=blocks)) as write:
            for _ in range(blocks):
                write(rng.integers(0, 2 ** 20, (500, 4)))
        top = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return top

    peak(2)
    assert peak(400) < 1.2 * peak(40)


def test_bad_input_is_refused_with_the_fix_and_before_anything_is_counted(case, evaluate, tmp_path):
    def refused(*words, says, **options):
        out, said = evaluate(*words, code=1, **options)
        assert says in said and 'Traceback' not in said and 'Evaluate' not in said and not (out / 'cells').exists()

    ft = both(case)[0]

    def without_head(content):
        content['state_dict'] = {name: t for name, t in content['state_dict'].items() if name.startswith('backbone')}

    refused(f'FT={case.changed("headless.pth", case.checkpoint("ft"), without_head)}', says='has no decoder that fits')
    refused('FT=nowhere', says='nowhere is neither a checkpoint nor a run folder')
    refused('FT', says="'FT' is not NAME=RUN")
    refused(ft, '--reference', 'DAFT', says='--reference DAFT: no run has this name. Name one of FT')
    refused(ft, '--corruptions', 'fgo', says='There is no corruption fgo. Did you mean fog?')
    refused(ft, '--sets', 'nowhere', says='There is no file of test sets nowhere')
    refused(ft, '--launcher', 'pytorch', says='torchrun --nproc_per_node 2 -m mmseg_daft evaluate')
    own = 'test_dataloader.dataset'
    refused(ft, '--cfg-options', f'{own}.data_prefix.seg_map_path=Nothing', says="The set 'test' has no label ")
    refused(ft, '--cfg-options', f'{own}.pipeline.1.type=Resize', f'{own}.pipeline.1.scale=(80,60)',
            says="The pipeline of the set 'test' loads no labels")
    refused(ft, '--cfg-options', f'{own}.type=CamVidDataset', f'{own}.img_suffix=.jpg',
            says='The model tells 6 classes, but the test set has 11: sky, building')
    sets = write_sets(case, tmp_path)
    sets.write_text(sets.read_text().replace('other=', 'test='))
    refused(ft, '--sets', sets, says="A further set cannot be named 'test'")
    (tmp_path / 'taken').write_text('')
    _, said = evaluate(ft, out=tmp_path / 'taken', code=1)
    assert 'numbers.csv cannot be written: ' in said
    for severities in ('6', '0-2', '3-1', 'x'):
        with pytest.raises(SystemExit):
            main(['evaluate', str(case.config), ft, '--corruptions', 'fog', '--severities', severities])


def test_an_image_or_label_that_cannot_be_used_is_named_and_what_is_finished_is_kept(case, evaluate, tmp_path):
    label = sorted((case.root / 'SegmentationClass').glob('*val*'))[4]
    image = case.root / 'JPEGImages' / f'{label.stem}.jpg'
    contents = {path: path.read_bytes() for path in (label, image)}
    out = tmp_path / 'out'
    try:
        cv2.imwrite(str(label), np.full((60, 80), 9, np.uint8))
        _, said = evaluate(both(case)[0], out=out, code=1)
        assert f'{image} in the set \'test\' holds 9, which is neither a class (0 to 5) nor ignored (255)' in said
        label.write_bytes(contents[label])
        image.write_bytes(b'no image')
        _, said = evaluate(both(case)[0], out=out, code=1, workers=1)
        assert f'{image} of the set test cannot be used: ' in said and 'Traceback' not in said
    finally:
        for path, content in contents.items():
            path.write_bytes(content)
    assert not list((out / 'cells').iterdir())


def test_a_report_of_another_config_is_not_overwritten(case, evaluate, tmp_path):
    out, _ = evaluate(both(case)[0], out=tmp_path / 'out')
    before = written(out)
    _, said = evaluate(both(case)[0], '--cfg-options', 'test_dataloader.batch_size=2', out=out, code=1)
    assert 'holds another report: it differs in cfg-options' in said and written(out) == before


@pytest.mark.parametrize('place', ['middle', 'end'])
def test_a_damaged_cell_is_refused_by_name(tmp_path, place):
    path = tmp_path / 'cell.gz'
    with written_cell(path, dict(images=1)) as write:
        write(np.random.default_rng(0).integers(0, 5, (500, 4)))
    content = bytearray(path.read_bytes())
    content[60 if place == 'middle' else -6] ^= 0xff
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r'cell.gz is damaged .*Remove it'):
        read_confusion(path, 5)
