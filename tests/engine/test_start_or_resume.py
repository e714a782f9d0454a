"""``load_from`` in a config and ``--resume`` on the command line: which is the start, and which the run's own past."""

import json
from pathlib import Path

import pytest
import torch
from mmengine.runner import Runner
from support.small_runs import small, train

from mmseg_daft.engine.checkpoints import settled_start
from mmseg_daft.engine.convert_model import RECORD

DAFT = 'daft/daft_deeplabv3plus_r18-day_b8-200_camvid-dusk-160x160.py'
FT = 'ft/ft_deeplabv3plus_r18-day_b8-200_camvid-dusk-160x160.py'
SOURCE = 'source/source_deeplabv3plus_r18_b8-1500_camvid-day-160x160.py'


@pytest.fixture(scope='module')
def source(camvid_layout, tmp_path_factory):
    """A source model that was trained for four iterations, no fewer than any run below."""
    work_dir = tmp_path_factory.mktemp('source')
    train(small(SOURCE, work_dir, camvid_layout, 4))
    return work_dir / 'iter_4.pth'


@pytest.fixture
def config(camvid_layout, source, tmp_path):
    def make(name, iters, work_dir='run', **options):
        cfg = small(name, tmp_path / work_dir, camvid_layout, iters)
        cfg.experiment_name = 'target'
        cfg.model.backbone.init_cfg = None
        cfg.load_from, cfg.resume = str(source), True
        cfg.merge_from_dict(options)
        return cfg
    return make


def iterations(cfg):
    seen = []
    runner = train(cfg, lambda runner, batch: seen.append(runner.iter))
    return runner, seen


@pytest.mark.parametrize('hooks', [[], ['BNConversionHook'], ['BNConversionHook', 'ExactResumeHook']])
def test_a_job_that_is_always_started_with_resume(config, source, hooks):
    """As Slurm's requeueing and the sweep start theirs."""
    name, hooks = DAFT if hooks else FT, [dict(type=hook) for hook in hooks]
    runner, seen = iterations(config(name, 2, custom_hooks=hooks))
    assert seen == [0, 1]
    if not hooks:  # the source's weights, and nothing else of its training
        first = []
        cfg = config(name, 1, 'other', custom_hooks=hooks)
        train(cfg, lambda runner, batch: first.append({n: t.clone() for n, t in runner.model.state_dict().items()}))
        state = torch.load(source)['state_dict']
        assert all(torch.equal(first[0][name], state[name]) for name in state)
    converted = runner.message_hub.get_info(RECORD) if hooks else None
    runner, seen = iterations(config(name, 4, custom_hooks=hooks))
    assert seen == [2, 3]
    if hooks:
        assert runner.message_hub.get_info(RECORD) == converted


def test_a_checkpoint_that_is_named_for_resuming_is_resumed(config, tmp_path):
    iterations(config(FT, 3, **{'default_hooks.checkpoint.interval': 2}))
    own = tmp_path / 'run' / 'iter_2.pth'  # not the last
    assert iterations(config(FT, 3, load_from=str(own)))[1] == [2]


def test_a_source_of_the_same_name_could_be_the_run_s_past(config, tmp_path):
    iterations(config(FT, 2))
    own = tmp_path / 'run' / 'iter_2.pth'
    with pytest.raises(ValueError, match="same name, 'target'.*copy it into the work directory.*leave out --resume"):
        iterations(config(FT, 3, 'elsewhere', load_from=str(own)))
    assert iterations(config(FT, 1, 'elsewhere', load_from=str(own), resume=False))[1] == [0]


def test_a_run_whose_checkpoints_are_all_half_written_starts_over_from_its_source(source, tmp_path):
    (tmp_path / 'iter_2.pth').write_bytes(b'PK')
    (tmp_path / 'last_checkpoint').write_text(str(tmp_path / 'iter_2.pth'))
    assert settled_start(str(source), tmp_path, 'target')[:2] == (str(source), False)
    (tmp_path / 'iter_1.pth').write_bytes(source.read_bytes())
    assert settled_start(str(source), tmp_path, 'target')[:2] == (None, True)


def test_weights_without_a_training_are_a_start(config, source, tmp_path):
    """MMEngine would end in a KeyError."""
    content = torch.load(source)
    torch.save(dict(meta={**content['meta'], 'experiment_name': 'target_20260101_000000'},
                    state_dict=content['state_dict']), tmp_path / 'weights.pth')
    assert iterations(config(FT, 1, load_from=str(tmp_path / 'weights.pth')))[1] == [0]


def results(cfg):
    lines = [json.loads(line) for file in sorted(Path(cfg.work_dir).glob('*/vis_data/scalars.json'))
             for line in file.read_text().splitlines()]
    return [(line['step'], line['mIoU']) for line in lines if 'mIoU' in line]


def test_the_final_evaluation_is_made_up_for(config):
    """A kill between the last checkpoint and its evaluation."""
    cfg = config(FT, 2, val_cfg=None, val_dataloader=None, val_evaluator=None)
    del cfg.default_hooks['visualization']
    train(cfg)
    assert not results(cfg)
    cfg = config(FT, 2)
    assert iterations(cfg)[1] == []
    assert [step for step, _ in results(cfg)] == [2]


def test_the_final_model_is_evaluated_once(config):
    cfg = config(FT, 2)
    train(cfg)
    assert len(results(cfg)) == 1


@pytest.mark.parametrize('evaluate', [Runner.val, Runner.test])
def test_an_evaluation_takes_the_checkpoint_that_it_is_given(config, source, tmp_path, evaluate):
    """With the config that MMEngine dumps of a resumed run, also elsewhere, and where there are no training data."""
    iterations(config(DAFT, 2))
    own, weights = tmp_path / 'run' / 'iter_2.pth', tmp_path / 'weights.pth'
    torch.save(dict(state_dict=torch.load(source)['state_dict']), weights)
    for work_dir, checkpoint in (('run', source), ('run', weights), ('elsewhere', own)):
        runner = Runner.from_cfg(config(DAFT, 2, work_dir, load_from=str(checkpoint), **{
            'train_dataloader.dataset.data_root': 'nowhere'}))
        evaluate(runner)
        state, given = runner.model.state_dict(), torch.load(checkpoint)['state_dict']
        assert all(torch.equal(state[name], tensor) for name, tensor in given.items())
