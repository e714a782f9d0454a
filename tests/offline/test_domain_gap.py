"""The linear read-outs against what must come out, and the command on a small source model."""

import csv
import json
import shutil
import struct
from pathlib import Path
from statistics import fmean, median

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from support.pretrained_files import trained_state
from support.small_runs import small

from mmseg_daft.analysis.figures import save_figure
from mmseg_daft.cli import main
from mmseg_daft.offline.gap import (
    Accuracies,
    balanced_accuracy,
    draw_gap,
    probe_accuracy,
    sample_pixels,
    summary,
    verdict,
)

DAFT = 'daft/daft_deeplabv3plus_r18-day_b8-200_camvid-dusk-160x160.py'


def blobs(distance, pixels=400, classes=4, channels=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes, (pixels,), generator=generator)
    centres = distance * torch.eye(classes, channels, dtype=torch.float64)
    return centres[labels] + torch.randn(pixels, channels, generator=generator, dtype=torch.float64), labels


def parts(distance):
    return [blobs(distance, seed=seed) for seed in range(4)]


def test_separable_classes_are_told_and_noise_is_chance():
    assert probe_accuracy(parts(20.0)) == 1.0
    assert probe_accuracy(parts(0.0)) == pytest.approx(0.25, abs=0.06)
    assert 0.5 < probe_accuracy(parts(2.0)) < 1.0


def test_the_probe_does_not_judge_what_it_was_fitted_to():
    """More channels than pixels fit anything, and tell nothing of other pixels."""
    wide = [blobs(0.0, pixels=30, channels=300, seed=seed) for seed in range(2)]
    assert probe_accuracy(wide) < 0.5


def test_the_probe_does_not_depend_on_scale_and_offset():
    moved = [(100 * features - 7, labels) for features, labels in parts(2.0)]
    assert probe_accuracy(moved) == pytest.approx(probe_accuracy(parts(2.0)), abs=1e-9)


def test_rare_classes_count_as_much():
    labels = torch.tensor([0] * 9 + [1])
    assert balanced_accuracy(torch.zeros(10).long(), labels) == 0.5


def test_one_group_is_refused():
    with pytest.raises(ValueError, match='at least two groups'):
        probe_accuracy(parts(1.0)[:1])


def test_pixels_keep_their_labels_and_ignored_ones_are_left():
    labels = torch.arange(16).view(1, 4, 4).repeat_interleave(2, 1).repeat_interleave(2, 2).repeat(2, 1, 1)
    labels[0, :4] = 255
    features = torch.arange(16.0).view(1, 1, 4, 4).repeat(2, 1, 1, 1)
    values, told = sample_pixels(features, labels, 10, seed=0)
    assert len(told) == 8 + 10
    assert torch.equal(values[:, 0].long(), told)


def layer_rows(divergence, mean_share=0.5, far='2'):
    return [dict(layer=f'backbone.layer{stage}.0.bn1', stage=stage, divergence=divergence * (1 + (stage == far)),
                 mean_divergence=divergence * mean_share, var_divergence=divergence * (1 - mean_share))
            for stage in '1234']


def test_the_summary_is_one_line_of_facts():
    assert summary(layer_rows(0.5, mean_share=0.9, far='3'), Accuracies(0.47, 0.49, 0.14, 11)) == (
        'Median divergence 0.50 nats over 4 layers, 90% of it from means; largest in stage 3 (1.00). Balanced accuracy '
        'on target pixels (chance 9%): linear read-out of source features 47%, with adapted statistics 49%, source '
        'decoder 14%.')
    assert summary(layer_rows(0.5), Accuracies(0.4, 0.5, None, 4)).endswith('with adapted statistics 50%.')
    assert summary(layer_rows(0.0), None).endswith(
        'No read-outs: they need pixels labelled with two classes, in two mini-batches.')


def test_the_verdict_quotes_the_study_of_shifts(monkeypatch):
    root = Path(__file__).parents[2]
    monkeypatch.syspath_prepend(root / 'benchmarks')
    import shifts

    cases = shifts.read_cases(root / 'docs' / 'shifts.csv')
    key, good, poor = 'difference of the read-outs', Accuracies(0.5, 0.4, None, 4), Accuracies(0.4, 0.4, 0.9, 4)
    better = [case.brings('seen') for case in cases if case.foretells[key] > 0]
    worse = [case.brings('seen') for case in cases if case.foretells[key] <= 0]
    assert f'On {sum(gain > 0 for gain in better)} of {len(better)} such shifts' in verdict(good)
    assert f'by {fmean(better):.1f} mIoU on average over all {len(better)} ' in verdict(good)
    assert len(worse) == 2 and f'it cost {-fmean(worse):.1f} mIoU' in verdict(poor)
    page = (root / 'docs' / 'shifts.md').read_text()
    assert shifts.table_of_cases(cases) in page and shifts.table_of_rules(cases) in page
    assert shifts.table_of_rules([case for case in cases if case.half == 2]) in page


def test_the_page_of_camvid_s_two_gaps_is_what_is_said_of_them():
    docs = Path(__file__).parents[2] / 'docs'
    cases = json.loads((docs / 'camvid_domain_gap.json').read_text())
    page = (docs / 'camvid_domain_gap.md').read_text()
    for case in cases.values():
        assert summary(case['layers'], Accuracies(**case['accuracies'])) == case['summary']
    medians = [f'{median(row["divergence"] for row in case["layers"]):.2f}' for case in cases.values()]
    assert f'nats | {" | ".join(medians)} |' in page
    labels = dict(source='9 %)', adapted='with adapted statistics', head="by the source model's own decoder")
    for name, label in labels.items():
        shares = [f'{100 * case["accuracies"][name]:.0f} %' for case in cases.values()]
        assert f'{label} | {" | ".join(shares)} |' in page


@pytest.mark.parametrize('accuracies', [None, Accuracies(0.4, 0.5, None, 3), Accuracies(0.4, 0.5, 0.1, 3)])
def test_the_figure_is_drawn(tmp_path, accuracies):
    save_figure(draw_gap(layer_rows(0.3), accuracies, layer_rows(0.0)), tmp_path, 'gap', ['png'])
    content = (tmp_path / 'gap.png').read_bytes()
    assert content[:4] == b'\x89PNG' and min(struct.unpack('>II', content[16:24])) > 400


@pytest.fixture(scope='module')
def source(camvid_layout, tmp_path_factory):
    """A config on the target, and a source model's checkpoint as a training leaves it."""
    folder = tmp_path_factory.mktemp('source')
    cfg = small(DAFT, folder / 'run', camvid_layout, iters=1)
    cfg.model.backbone.init_cfg = None
    state = trained_state(dict(cfg.model))
    torch.save(dict(meta=dict(iter=7, seed=3), state_dict=state, optimizer=dict(state={}), message_hub={}),
               folder / 'source.pth')
    cfg.pop('experiment_name')
    cfg.dump(folder / 'config.py')
    return folder / 'config.py', folder / 'source.pth'


@pytest.fixture
def domain_gap(capsys):
    """Run the command in this process and return what it said."""

    def run(*words, code=0):
        result = main(['domain-gap', *map(str, words)])
        said = capsys.readouterr()
        assert result == code, said.err
        return said.out + said.err

    return run


def test_the_report(source, domain_gap, tmp_path):
    config, checkpoint = source
    words = [config, checkpoint, '--statistics', tmp_path / 'statistics.safetensors']
    said = domain_gap(*words, '--out', tmp_path / 'gap')
    assert 'Domain gap by layer' in said and 'Median divergence' in said and 'Balanced accuracy' in said
    with open(tmp_path / 'gap' / 'gap.csv', newline='') as file:
        rows = list(csv.DictReader(file))
    report = json.loads((tmp_path / 'gap' / 'gap.json').read_text())
    assert len(rows) == len(report['layers']) == 20 and report['num_images'] == 6
    assert [row['layer'] for row in rows] == [row['layer'] for row in report['layers']]
    assert all(float(row['divergence']) >= 0 for row in rows)
    assert [row['stage'] for row in rows] == ['stem', *'1111', *'22222', *'33333', *'44444']
    ranked = sorted(report['layers'], key=lambda row: -row['divergence'])
    names = [row['layer'].removeprefix('backbone.') for row in ranked]
    assert said.index(f'\n{names[0]} ') < said.index(f'\n{names[-1]} ')
    assert 0 <= report['accuracies']['head'] <= 1 and 0 < report['accuracies']['source'] <= 1
    assert report['summary'] in ' '.join(said.split()) and report['verdict'] in ' '.join(said.split())
    assert (tmp_path / 'gap' / 'gap.png').stat().st_size > 10_000
    assert (tmp_path / 'statistics.safetensors').is_file()
    written = (tmp_path / 'gap' / 'gap.csv').read_bytes()
    domain_gap(*words, '--out', tmp_path / 'again', '--compare', tmp_path / 'gap' / 'gap.json')
    assert (tmp_path / 'again' / 'gap.csv').read_bytes() == written


def test_from_the_config_s_own_start_the_output_is_whole_and_short(source, domain_gap, tmp_path, monkeypatch):
    """MMEngine reports its loading parameter by parameter."""
    monkeypatch.delenv('COLUMNS', raising=False)
    config, checkpoint = source
    cfg = Config.fromfile(config)
    cfg.model.backbone.init_cfg = dict(type='Pretrained', checkpoint=str(checkpoint), prefix='backbone')
    cfg.dump(tmp_path / 'started.py')
    monkeypatch.chdir(tmp_path)
    said = domain_gap('started.py')
    assert len(said.splitlines()) < 40 and max(map(len, said.splitlines())) <= 100
    for row in json.loads((tmp_path / 'work_dirs' / 'domain_gap' / 'started' / 'gap.json').read_text())['layers']:
        assert f'{row["layer"].removeprefix("backbone.")} ' in said


def test_the_table_fits_a_terminal_of_80_columns(source, domain_gap, tmp_path, monkeypatch):
    monkeypatch.setenv('COLUMNS', '80')
    said = domain_gap(*source, '--out', tmp_path / 'gap')
    assert '…' not in said and max(map(len, said.split('Report:')[0].splitlines())) <= 80
    for row in json.loads((tmp_path / 'gap' / 'gap.json').read_text())['layers']:
        assert f'{row["layer"].removeprefix("backbone.")} ' in said
        assert all(f'{row[key]:.3f}' in said for key in ('mean_shift', 'divergence', 'var_divergence'))


def test_a_report_of_something_else_is_not_overwritten(source, domain_gap, tmp_path):
    config, checkpoint = source
    words = ['--out', tmp_path / 'gap', '--num-batches', '1', '--probe-batches', '2']
    domain_gap(config, checkpoint, *words)
    written = (tmp_path / 'gap' / 'gap.json').read_bytes()
    (tmp_path / 'other.pth').write_bytes(checkpoint.read_bytes())
    (tmp_path / 'other.py').write_text(config.read_text())
    others = {'config': [tmp_path / 'other.py', checkpoint], 'checkpoint': [config, tmp_path / 'other.pth'],
              'cfg-options': [config, checkpoint, '--cfg-options', 'randomness.seed=3']}
    for what, asked in others.items():
        said = domain_gap(*asked, *words, code=1)
        assert f'holds another report: it differs in {what}. Name' in said and '--out' in said
    assert (tmp_path / 'gap' / 'gap.json').read_bytes() == written
    (tmp_path / 'gap' / 'made_from.json').unlink()  # as earlier versions left it
    assert 'differs in config, checkpoint, cfg-options' in domain_gap(config, checkpoint, *words, code=1)


def folder(out):
    (out / 'gap.png').mkdir(parents=True)
    return out


def test_load_from_is_the_start_as_a_named_checkpoint_is(source, domain_gap, tmp_path):
    config, checkpoint = source
    named, loaded = tmp_path / 'named', tmp_path / 'loaded'
    domain_gap(config, checkpoint, '--out', named)
    domain_gap(config, '--out', loaded, '--cfg-options', f'load_from={checkpoint}')
    reports = [json.loads((out / 'gap.json').read_text()) for out in (named, loaded)]
    assert reports[0]['layers'] == reports[1]['layers'] and reports[0]['accuracies'] == reports[1]['accuracies']
    assert reports[0]['accuracies']['head'] is not None


def test_labels_that_the_decoder_ignores_are_no_class(source, domain_gap, tmp_path):
    classes = []
    for ignored in (255, 3):
        domain_gap(*source, '--out', tmp_path / str(ignored), '--cfg-options',
                   f'model.decode_head.ignore_index={ignored}')
        report = json.loads((tmp_path / str(ignored) / 'gap.json').read_text())
        classes.append(report['accuracies']['classes'])
    assert classes[1] == classes[0] - 1


def test_without_two_classes_the_layers_are_reported_all_the_same(source, domain_gap, tmp_path, camvid_layout):
    config, checkpoint = source
    shutil.copytree(camvid_layout, tmp_path / 'data')
    for label in (tmp_path / 'data' / 'dusk' / 'labels' / 'train').iterdir():
        cv2.imwrite(str(label), np.ones((48, 64), np.uint8))
    said = domain_gap(config, checkpoint, '--out', tmp_path / 'gap', '--cfg-options',
                      f'train_dataloader.dataset.data_root={tmp_path / "data" / "dusk"}')
    assert 'No read-outs: they need pixels labelled with two classes' in ' '.join(said.split())
    assert len(json.loads((tmp_path / 'gap' / 'gap.json').read_text())['layers']) == 20


def test_bad_input_is_named(source, domain_gap, tmp_path):
    config, checkpoint = source
    (tmp_path / 'texts.json').write_text('{"layers": [{"layer": "a", "divergence": "large"}]}')
    assert 'is not the gap.json' in domain_gap(config, checkpoint, '--compare', tmp_path / 'texts.json', code=1)
    assert f'{tmp_path} cannot be written: it is a folder' in domain_gap(
        config, checkpoint, '--statistics', tmp_path, code=1)
    assert '--device nonsense: ' in domain_gap(config, checkpoint, '--device', 'nonsense', code=1)
    assert 'gap.png cannot be written: it is a folder' in domain_gap(
        config, checkpoint, '--out', folder(tmp_path / 'taken'), code=1)
    assert 'nowhere.json' in domain_gap(config, checkpoint, '--compare', tmp_path / 'nowhere.json', code=1)
    (tmp_path / 'empty.json').write_text('{}')
    assert 'is not the gap.json' in domain_gap(config, checkpoint, '--compare', tmp_path / 'empty.json', code=1)
    with pytest.raises(SystemExit, match='There is no checkpoint'):
        domain_gap(config, tmp_path / 'nowhere.pth')
