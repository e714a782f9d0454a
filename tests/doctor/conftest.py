"""A small sound config to break, and doctor's checks of a config in this process."""

import argparse
import copy
import gc
import shutil

import cv2
import pytest
from support.data_layouts import write_voc
from support.pretrained_files import write_start
from support.small_runs import DAFT_VOC, small

from mmseg_daft.console import quiet
from mmseg_daft.doctor import command
from mmseg_daft.doctor.finding import Examination, Verdict
from mmseg_daft.engine.training_data import leaf_datasets


class Findings(Examination):
    """An examination that can be asked for the text of what it found."""

    def text(self, check, verdict):
        return '\n'.join(f'{finding.found} {finding.fix}' for finding in self.findings
                         if finding.check == check and finding.verdict is verdict)

    @property
    def problems(self):
        return sum(finding.verdict is Verdict.FAIL for finding in self.findings)


class Case:
    """A small sound config with data and weights of its own, to be broken."""

    def __init__(self, cfg, folder):
        self.cfg, self.folder, self.root = cfg, folder, folder / 'voc'
        self.weights = folder / cfg.model.backbone.init_cfg.checkpoint.rsplit('/', 1)[-1]
        self.label = self.root / 'SegmentationClass' / '2007_train0003.png'
        self.image = self.root / 'JPEGImages' / '2007_train0003.jpg'
        cfg.model.backbone.init_cfg.checkpoint = str(self.weights)
        for part in [*self.parts, cfg.test_dataloader.dataset]:
            part.data_root = str(self.root)

    @property
    def parts(self):
        return [part for loader in (self.cfg.train_dataloader, self.cfg.val_dataloader)
                for part in leaf_datasets(loader.dataset)]

    def write(self):
        # Like Config.dump, without its formatting, which takes longer than the checks.
        lines = [f'{key} = {value!r}' for key, value in self.cfg.to_dict().items()]
        (self.folder / 'config.py').write_text('\n'.join(lines))
        return self.folder / 'config.py'

    def put(self, value):
        label = cv2.imread(str(self.label), cv2.IMREAD_UNCHANGED)
        label[:5, :5] = value
        cv2.imwrite(str(self.label), label)


@pytest.fixture
def examine():
    """Run all checks as the command does, and return what they found."""
    def run(config, *options):
        parser = argparse.ArgumentParser()
        command.add_arguments(parser)
        exam = Findings()
        with quiet():
            command.examine(parser.parse_args([str(config), *map(str, options)]), exam)
        return exam
    return run


@pytest.fixture(scope='session')
def sound(tmp_path_factory):
    """The config that cases start from and the folder of its files, made once."""
    folder = tmp_path_factory.mktemp('sound')
    cfg = small(DAFT_VOC, folder / 'run', write_voc(folder / 'voc'), iters=10)
    cfg.pop('experiment_name')
    write_start(cfg, folder)
    return cfg, folder


@pytest.fixture
def case(sound, tmp_path):
    """A copy of the sound config and its files."""
    cfg, folder = sound
    shutil.copytree(folder, tmp_path / 'case')
    return Case(copy.deepcopy(cfg), tmp_path / 'case')


@pytest.fixture(scope='module', autouse=True)
def thaw():
    """Let what the examinations kept out of garbage collection be collected again."""
    yield
    gc.unfreeze()
