"""Files that are there as a whole, whenever a process is killed, and the note of the last checkpoint."""

import multiprocessing
import os
import signal
import time

import numpy as np
import pytest
import torch
from mmengine.fileio import get_file_backend
from mmengine.runner import save_checkpoint

from mmseg_daft.engine.checkpoints import BACKEND
from mmseg_daft.files import mend_last_checkpoint, refuse_unwritable, write_atomically


def write_for_ever(path, sizes):
    while True:
        for value, size in enumerate(sizes):
            write_atomically(path, bytes([value]) * size)


def wait_for_replacement(path):
    """Return after the file was replaced once, however slow the disk is."""
    def version():
        status = path.stat() if path.exists() else None
        return status and (status.st_ino, status.st_mtime_ns)
    before, deadline = version(), time.monotonic() + 600
    while version() == before:
        assert time.monotonic() < deadline, 'the writer writes nothing'
        time.sleep(0.0005)


def mend_for_ever(folder):
    while True:
        mend_last_checkpoint(folder)


def test_a_rank_may_check_the_folder_that_another_one_tidies_up(tmp_path):
    """At a resume the first rank removes what is half-written, while others see whether they can write there."""
    process = multiprocessing.get_context('fork').Process(target=mend_for_ever, args=(tmp_path,))
    process.start()
    try:
        for _ in range(2000):
            refuse_unwritable(tmp_path / 'last_checkpoint')
    finally:
        process.kill()
        process.join()
    assert not [*tmp_path.iterdir()]


def test_a_killed_writer_leaves_a_whole_file(tmp_path):
    path, sizes = tmp_path / 'file', [3_000_000, 5_000_000]
    rng = np.random.default_rng(0)
    seen, left = set(), 0
    for _ in range(20):
        process = multiprocessing.get_context('fork').Process(
            target=write_for_ever, args=(path, sizes), daemon=True)
        process.start()
        wait_for_replacement(path)
        start = time.monotonic()
        wait_for_replacement(path)
        time.sleep(rng.uniform(0, 2) * (time.monotonic() - start))  # within the next two writes
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        content = path.read_bytes()
        assert len(content) == sizes[content[0]] and content == content[:1] * len(content)
        seen.add(content[0])
        left = max(left, len(list(tmp_path.iterdir())) - 1)
    assert seen == {0, 1} and left > 0  # some were killed in the midst of writing


def write(path, value=0.0):
    save_checkpoint({'state_dict': {'a': torch.full((1000,), value)}}, str(path), backend_args=dict(backend=BACKEND))
    return path


def test_mmengine_writes_through_the_backend(tmp_path):
    path = write(tmp_path / 'new' / 'iter_1.pth', 1.0)
    write(path, 2.0)
    assert torch.load(path)['state_dict']['a'][0] == 2
    assert [file.name for file in path.parent.iterdir()] == ['iter_1.pth']
    assert get_file_backend(backend_args=dict(backend=BACKEND)).isfile(path)


def test_a_writer_that_fails_leaves_what_was_there(tmp_path, monkeypatch):
    write_atomically(tmp_path / 'file', 'before')

    def full(*_):
        raise OSError('No space left on device')

    monkeypatch.setattr(os, 'fsync', full)
    with pytest.raises(OSError, match='No space left'):
        write_atomically(tmp_path / 'file', 'after')
    assert [path.read_text() for path in tmp_path.iterdir()] == ['before']


@pytest.mark.parametrize('content, written', [
    (b'bytes', b'bytes'), ('tëxt', 'tëxt'.encode()), (dict(a=[1]), b'{\n "a": [\n  1\n ]\n}\n')], ids=str)
def test_bytes_text_and_anything_else_as_json(tmp_path, content, written):
    write_atomically(tmp_path / 'new' / 'file', content)
    assert (tmp_path / 'new' / 'file').read_bytes() == written


@pytest.fixture
def run(tmp_path):
    for iteration in (2, 10):
        write(tmp_path / f'iter_{iteration}.pth')
    (tmp_path / 'best_mIoU_iter_12.pth').write_bytes((tmp_path / 'iter_2.pth').read_bytes())
    (tmp_path / 'last_checkpoint').write_text(str(tmp_path / 'iter_10.pth'))
    return tmp_path


def truncate(path):
    path.write_bytes(path.read_bytes()[:-100])


def test_a_good_note_is_left_and_leftovers_go(run):
    (run / 'iter_12.pth.77.unfinished').write_bytes(b'half')
    assert mend_last_checkpoint(run, run) is None
    assert (run / 'last_checkpoint').read_text() == str(run / 'iter_10.pth')
    assert not list(run.glob('*unfinished'))


@pytest.mark.parametrize('harm', ['emptied', 'removed', 'truncated'])
def test_the_last_whole_checkpoint_is_found(run, harm):
    last = run / 'iter_12.pth'
    (run / 'last_checkpoint').write_text('' if harm == 'emptied' else str(last))
    if harm == 'truncated':
        truncate(write(last))
    assert 'iter_10.pth is the last that is whole' in mend_last_checkpoint(run, run)
    assert (run / 'last_checkpoint').read_text() == str(run / 'iter_10.pth')


@pytest.mark.parametrize('folder', [None, 'models'])
@pytest.mark.parametrize('name', ['on_signal.pth', 'step_00012.pth', 'iter_2.pth'])
def test_in_a_folder_that_was_moved_the_same_name_is_found(run, name, folder):
    """Also one that tells no iteration: CheckpointOnSignalHook's, or a filename_tmpl of one's own."""
    write(run / name)
    (run / 'last_checkpoint').write_text(f'/gone/run/{name}')
    assert f'{name} is the last that is whole' in mend_last_checkpoint(run, folder and run / folder)
    assert (run / 'last_checkpoint').read_text() == str(run / name)


def test_without_any_whole_checkpoint_the_run_starts_over(run):
    for path in run.glob('iter_*.pth'):
        truncate(path)
    assert 'starts over' in mend_last_checkpoint(run, run)
    assert not (run / 'last_checkpoint').exists()
    assert mend_last_checkpoint(run, run) is None
