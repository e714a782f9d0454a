"""``convert`` on a small source model: what it writes serves mmseg's own tools."""

import re
import subprocess
import sys
from pathlib import Path

import mmseg
import pytest
import torch
from mmengine.config import Config
from mmseg.registry import MODELS
from support.pretrained_files import trained_state
from support.small_runs import small, train

from mmseg_daft.analysis.runs import load_run
from mmseg_daft.cli import main
from mmseg_daft.engine.checkpoints import pretrained_model
from mmseg_daft.engine.convert_model import RECORD

MMSEG = Path(mmseg.__file__).parent / '.mim' / 'tools'
DAFT = 'daft/daft_deeplabv3plus_r18-day_b8-200_camvid-dusk-160x160.py'


def convert(*words):
    """Run the command in this process; a refusal is the text of its SystemExit."""
    try:
        return main(['convert', *map(str, words)])
    except SystemExit as refusal:
        return str(refusal)


@pytest.fixture
def source(camvid_layout, tmp_path):
    """A config on the target, and a source model's checkpoint as a training leaves it."""
    cfg = small(DAFT, tmp_path / 'run', camvid_layout, iters=1)
    cfg.model.backbone.init_cfg = None
    state = trained_state(dict(cfg.model))
    torch.save(dict(meta=dict(iter=7, seed=3, dataset_meta=dict(classes=('a',))), state_dict=state,
                    optimizer=dict(state={}), message_hub={}), tmp_path / 'source.pth')
    cfg.load_from = str(tmp_path / 'source.pth')
    cfg.pop('experiment_name')
    cfg.dump(tmp_path / 'config.py')
    return tmp_path / 'config.py', tmp_path / 'source.pth'


def mean_iou(config, checkpoint, work_dir):
    done = subprocess.run([sys.executable, *map(str, (MMSEG / 'test.py', config, checkpoint, '--work-dir', work_dir))],
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return re.findall(r'mIoU: ([\d.]+)', done.stdout)[-1]


@pytest.mark.slow
def test_a_converted_checkpoint(source, tmp_path, capsys):
    config, checkpoint = source
    out = tmp_path / 'new' / 'converted.pth'
    assert convert(config, checkpoint, out) == 0
    output = capsys.readouterr().out
    assert '20 layers found, 20 converted' in output and f'load_from={out}' in output
    before, after = torch.load(checkpoint), torch.load(out)
    assert set(after) == {'meta', 'state_dict'}
    record = after['meta'].pop(RECORD)
    assert record['num_images'] == 6 and record['output_change'] < 1e-4
    assert after['meta'] == before['meta']

    # It is what the hook makes in a training of no learning rate, to the bit, but for what the iteration adds.
    cfg = Config.fromfile(config)
    starts = []
    train(cfg, lambda runner, batch: starts.append({n: t.clone() for n, t in runner.model.state_dict().items()}))
    assert starts[0].keys() == after['state_dict'].keys()
    assert all(torch.equal(starts[0][name], tensor) for name, tensor in after['state_dict'].items())
    changed = {name.rsplit('.', 1)[1] for name, tensor in before['state_dict'].items()
               if not torch.equal(tensor, after['state_dict'][name])}
    assert changed == {'weight', 'bias', 'running_mean', 'running_var'}

    assert mean_iou(config, out, tmp_path / 'a') == mean_iou(config, checkpoint, tmp_path / 'b')

    # mmseg starts from it by load_from, and a backbone by init_cfg.
    cfg = Config.fromfile(config)
    cfg.custom_hooks, cfg.experiment_name, cfg.visualizer.name = [], 'loaded', 'loaded'
    cfg.model.backbone.init_cfg = dict(type='Pretrained', checkpoint=str(out), prefix='backbone')
    cfg.load_from = str(out)
    starts = []
    train(cfg, lambda runner, batch: starts.append({n: t.clone() for n, t in runner.model.state_dict().items()}))
    assert all(torch.equal(starts[0][name], tensor) for name, tensor in after['state_dict'].items())

    content = out.read_bytes()
    assert 'exists; name another file, or replace it with --overwrite' in convert(config, checkpoint, out)
    assert out.read_bytes() == content
    assert 'was converted already' in convert(config, out, tmp_path / 'twice.pth')
    assert not (tmp_path / 'twice.pth').exists()


def test_a_preprocessor_beside_the_model_is_the_model_s(source, tmp_path):
    """As MMPretrain's bases have it; a runner puts it into the model. Without it, images would not be normalized."""
    config, checkpoint = source
    cfg = Config.fromfile(config)
    mean = torch.tensor(cfg.model.data_preprocessor.mean)
    cfg.data_preprocessor = cfg.model.pop('data_preprocessor')
    cfg.dump(tmp_path / 'beside.py')
    assert convert(config, checkpoint, tmp_path / 'within.pth') == 0
    assert convert(tmp_path / 'beside.py', checkpoint, tmp_path / 'beside.pth') == 0
    within, beside = (torch.load(tmp_path / f'{name}.pth')['state_dict'] for name in ('within', 'beside'))
    assert all(torch.equal(within[name], beside[name]) for name in within)
    run = load_run(cfg, 'FT', checkpoint, torch.device('cpu'))
    for model in (pretrained_model(cfg, None), run.model):
        assert torch.equal(model.data_preprocessor.mean.flatten(), mean)


def test_what_is_written_is_what_was_checked_whatever_the_source_s_precision(source, tmp_path):
    """A variance of images that are not normalized is beyond float16, which ends at 65504."""
    config, checkpoint = source
    content = torch.load(checkpoint)
    content['state_dict'] = {name: t.half() if t.is_floating_point() else t for name, t in
                             content['state_dict'].items()}
    torch.save(content, checkpoint)
    loud = 'model.data_preprocessor.mean=[0,0,0]', 'model.data_preprocessor.std=[0.1,0.1,0.1]'
    assert convert(config, checkpoint, tmp_path / 'out.pth', '--cfg-options', *loud) == 0
    written = torch.load(tmp_path / 'out.pth')['state_dict']
    assert written['backbone.bn1.running_var'].max() > 65504
    cfg = Config.fromfile(config)
    model = MODELS.build(dict(cfg.model, data_preprocessor=None)).eval()
    images, outputs = 2000 * torch.rand(2, 3, 32, 32), []
    for state in (content['state_dict'], written):
        model.load_state_dict(state)
        with torch.no_grad():
            outputs.append(model.backbone(images)[-1])
    assert torch.isfinite(outputs[1]).all()
    assert (outputs[1] - outputs[0]).abs().max() < 1e-4 * outputs[0].abs().max()


def test_what_cannot_be_written_is_refused_before_the_pass(source, tmp_path):
    config, checkpoint = source
    (tmp_path / 'file').write_text('')
    (tmp_path / 'folder').mkdir()
    before = sorted(tmp_path.rglob('*'))
    for out, why in ((tmp_path / 'folder', 'it is a folder'), (tmp_path / 'file' / 'o.pth', 'file is no folder'),
                     (tmp_path / ('x' * 300), 'too long'), (Path('/proc/o.pth'), 'cannot be written')):
        said = convert(config, checkpoint, out, '--overwrite')
        assert f'{out} cannot be written' in said and why in said and 'Name another place' in said
    assert sorted(tmp_path.rglob('*')) == before


def test_a_checkpoint_that_does_not_fit_is_named(source, tmp_path):
    config, checkpoint = source
    assert convert(config, tmp_path / 'nowhere.pth', tmp_path / 'o.pth').startswith('There is no checkpoint')
    assert 'There is no config' in convert(tmp_path / 'no.py', checkpoint, tmp_path / 'o.pth')
    content = torch.load(checkpoint)
    content['state_dict'] = {f'module.encoder_q.{name}': t for name, t in content['state_dict'].items()}
    torch.save(content, tmp_path / 'other.pth')
    assert "does not fit the config's backbone" in convert(config, tmp_path / 'other.pth', tmp_path / 'o.pth')
    assert not (tmp_path / 'o.pth').exists()
