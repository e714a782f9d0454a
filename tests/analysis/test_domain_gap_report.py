"""The probe against what must come out, and the verdict on cases with known answers."""

import json
import struct
from pathlib import Path
from statistics import median

import pytest
import torch

from mmseg_daft.analysis.gap_picture import draw_gap
from mmseg_daft.analysis.gap_verdict import Competence, stage_of, verdict
from mmseg_daft.analysis.linear_probe import balanced_accuracy, probe_accuracy, sample_pixels


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


def rows(divergence, mean_share=0.5, far='2'):
    return [dict(layer=f'backbone.layer{stage}.0.bn1', stage=stage, divergence=divergence * (1 + (stage == far)),
                 mean_divergence=divergence * mean_share, var_divergence=divergence * (1 - mean_share))
            for stage in '1234']


def test_the_verdict_says_size_kind_and_stage():
    text = verdict(rows(0.5, mean_share=0.9, far='3'), None)
    assert 'gap is large' in text and 'a matter of means (90%' in text and 'largest in stage 3' in text
    assert 'was not measured' in text and 'no law' in text
    assert 'a matter of variances (10%' in verdict(rows(0.01, mean_share=0.1), None)
    assert 'likely to change little' in verdict(rows(0.01), None)
    assert 'nats' in verdict(rows(0.0), None)


@pytest.mark.parametrize('competence, expected', [
    (Competence(0.47, 0.49, 0.14, 11), 'no better than level with plain fine-tuning'),  # CamVid, day to dusk
    (Competence(0.72, 0.72, 0.59, 11), 'should help'),
    (Competence(0.40, 0.60, 0.50, 11), 'try the ablation compensate=False'),
    (Competence(0.71, 0.70, None, 11), 'only a decoder of the same classes could tell'),
])
def test_the_verdict_on_what_the_source_is_worth(competence, expected):
    assert expected in verdict(rows(0.37), competence)


def test_the_page_of_camvid_s_two_gaps_is_what_is_said_of_them():
    docs = Path(__file__).parents[2] / 'docs'
    cases = json.loads((docs / 'camvid_domain_gap.json').read_text())
    page = (docs / 'camvid_domain_gap.md').read_text()
    for case in cases.values():
        measured = Competence(**case['competence'])
        assert verdict(case['layers'], measured) == case['verdict']
    medians = [f'{median(row["divergence"] for row in case["layers"]):.2f}' for case in cases.values()]
    assert f'nats | {" | ".join(medians)} |' in page
    assert all(f'{value} from day to day' in case['verdict'] for case in cases.values() for value in medians[1:])
    for name, label in (('source', '9 %)'), ('adapted', 'with adapted statistics'), ('head', 'by the source decoder')):
        shares = [f'{100 * case["competence"][name]:.0f} %' for case in cases.values()]
        assert f'{label} | {" | ".join(shares)} |' in page


def test_stages():
    assert [stage_of(name) for name in (
        'backbone.bn1', 'backbone.layer2.0.bn1', 'decode_head.convs.0.bn')] == ['stem', '2', 'decode_head.convs']


@pytest.mark.parametrize('competence', [None, Competence(0.4, 0.5, None, 3), Competence(0.4, 0.5, 0.1, 3)])
def test_the_figure_is_drawn(tmp_path, competence):
    draw_gap(rows(0.3), competence, tmp_path / 'gap.png', rows(0.0))
    content = (tmp_path / 'gap.png').read_bytes()
    assert content[:4] == b'\x89PNG' and min(struct.unpack('>II', content[16:24])) > 400
