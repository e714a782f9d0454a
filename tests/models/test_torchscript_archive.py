"""Archives that torch.jit.save writes, read without running them; archives that attack or are damaged, refused."""

import hashlib
import io
import os
import pickle
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from mmengine.runner import CheckpointLoader
from torch import Tensor, nn

from mmseg_daft.models.torchscript import local_archive, read_tensors


class Inner(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.conv = nn.Conv2d(3, 3, 1)
        self.register_buffer('flag', torch.tensor(True))
        self.register_buffer('empty', torch.empty(0, 4))

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x))


class Outer(nn.Module):
    names: list[int]

    def __init__(self):
        super().__init__()
        self.visual = nn.Sequential(Inner(), Inner())
        self.names = [1, 2, 3]
        self.scale = 0.5
        self.logit_scale = nn.Parameter(torch.tensor(2.5))
        self.transposed = nn.Parameter(torch.randn(4, 5).t())
        self.part = nn.Parameter(torch.randn(10)[3:7])

    def forward(self, x: Tensor) -> Tensor:
        return self.visual(x) * self.logit_scale * self.scale


@pytest.fixture
def archive(tmp_path):
    torch.manual_seed(0)
    path = tmp_path / 'net.pt'
    torch.jit.script(Outer().half()).save(str(path))
    return path


def rewrite(path, change):
    """Write an archive anew, each record as ``change(name, content)`` has it."""
    with zipfile.ZipFile(path) as old:
        records = {name: old.read(name) for name in old.namelist()}
    with zipfile.ZipFile(path, 'w') as new:
        for name, content in records.items():
            new.writestr(name, change(name, content))


@pytest.mark.parametrize('by', ['script', 'trace'])
def test_all_tensors_equal_those_of_torch_jit_load(by, tmp_path):
    torch.manual_seed(0)
    net, path = Outer(), str(tmp_path / 'net.pt')
    image = torch.randn(1, 3, 4, 4)
    (torch.jit.script(net) if by == 'script' else torch.jit.trace(net.eval(), image)).half().save(path)
    tensors, expected = read_tensors(path), torch.jit.load(path).state_dict()
    assert tensors.keys() == expected.keys() and len(expected) == 21
    for name, tensor in expected.items():
        assert tensors[name].dtype == tensor.dtype and torch.equal(tensors[name], tensor), name


def test_the_program_inside_is_not_run(tmp_path):
    class Trap(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(2, 2)
            self.trap = _Trap()

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x)

    path = str(tmp_path / 'trap.pt')
    net = Trap()
    torch.jit.script(net).save(path)
    with pytest.raises(Exception, match='the program was run'):
        torch.jit.load(path)
    tensors = read_tensors(path)
    assert torch.equal(tensors['inner.weight'], net.inner.weight)


class _Trap(nn.Module):
    @torch.jit.export
    def __getstate__(self):
        return (1, self.training)

    @torch.jit.export
    def __setstate__(self, state: tuple[int, bool]):
        assert state[0] == 0, 'the program was run'
        self.training = state[1]

    def forward(self, x: Tensor) -> Tensor:
        return x


class Attack:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.system, (f'touch {self.target}',)


def test_a_pickle_that_runs_a_command_is_refused_and_runs_nothing(archive, tmp_path):
    target = tmp_path / 'attacked'
    rewrite(archive, lambda name, content: pickle.dumps(Attack(target)) if name.endswith('data.pkl') else content)
    with pytest.raises(ValueError, match=r'net.pt cannot be read.*asks for (posix|nt).system, which is refused'):
        read_tensors(archive)
    assert not target.exists()


@pytest.mark.parametrize('content, message', [
    (b'c__builtin__\neval\n(V1\ntR.', 'asks for .*eval, which is refused'),
    (b'', 'cannot be read'),
    (b'}.', 'holds no tensors'),
    (b'c__torch__\nA\n)\x81q\x00}X\x01\x00\x00\x00ah\x00sb.', 'contain one another')])
def test_a_list_of_attributes_that_is_not_one(archive, content, message):
    rewrite(archive, lambda name, old: content if name.endswith('data.pkl') else old)
    with pytest.raises(ValueError, match=message):
        read_tensors(archive)


def test_tensors_outside_of_their_storage_are_refused(archive):
    rewrite(archive, lambda name, content: content[:4] if '/data/' in name else content)
    with pytest.raises(ValueError, match='cannot be read.*bytes for'):
        read_tensors(archive)


def test_a_part_of_a_file(archive):
    archive.write_bytes(archive.read_bytes()[:-100])
    with pytest.raises(ValueError, match='only a part of one.*Download it again'):
        read_tensors(archive)


def test_a_record_that_is_damaged(archive):
    tensor = read_tensors(archive)['transposed'].t().contiguous()
    content, place = archive.read_bytes(), tensor.numpy().tobytes()
    assert content.count(place) == 1
    archive.write_bytes(content.replace(place, bytes(len(place))))
    with pytest.raises(ValueError, match='CRC'):
        read_tensors(archive)


def test_an_ordinary_checkpoint_is_told_so(tmp_path):
    torch.save({'state_dict': {}}, tmp_path / 'a.pth')
    with pytest.raises(ValueError, match='leave torchscript:// out'):
        read_tensors(tmp_path / 'a.pth')
    torch.save({'x': torch.zeros(1)}, tmp_path / 'b.pth', _use_new_zipfile_serialization=False)
    with pytest.raises(ValueError, match='no TorchScript archive'):
        read_tensors(tmp_path / 'b.pth')
    with pytest.raises(FileNotFoundError, match='nowhere'):
        read_tensors(tmp_path / 'nowhere.pt')


@pytest.fixture
def server(archive, tmp_path, monkeypatch):
    """A real server of the archive; yields its address with the digest of the file, and the requests it got."""
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'home'))
    content, requests = archive.read_bytes(), []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            requests.append(self.path)
            self.send_response(200)
            self.send_header('Content-Length', str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *args):
            pass

    with ThreadingHTTPServer(('127.0.0.1', 0), Handler) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        yield f'http://127.0.0.1:{httpd.server_address[1]}', hashlib.sha256(content).hexdigest(), requests
        httpd.shutdown()


def load(address):
    return CheckpointLoader.load_checkpoint(f'torchscript://{address}', map_location='cpu')


def test_an_address_is_downloaded_once_and_checked(server, archive):
    root, digest, requests = server
    address = f'{root}/models/{digest}/RN50.pt'
    expected = read_tensors(archive)
    for _ in range(2):
        loaded = load(address)
        assert loaded.keys() == expected.keys()
        assert all(torch.equal(loaded[name], expected[name]) for name in expected)
    assert len(requests) == 1
    path, _ = local_archive(address)
    assert path.name == f'RN50-{digest[:8]}.pt'
    path.write_bytes(b'damaged')
    with pytest.raises(ValueError, match='is not the file that .* stands for.*Delete it'):
        load(address)


def test_another_file_than_the_address_has_is_refused(server):
    root, digest, _ = server
    address = f'{root}/{"0" * 64}/RN50.pt'
    with pytest.raises(RuntimeError, match='invalid hash value'):
        load(address)
    assert not local_archive(address)[0].exists()
    assert local_archive(f'{root}/{digest}/RN50.pt')[0] != local_archive(address)[0]


def test_a_path_works_too(archive):
    assert load(archive).keys() == read_tensors(archive).keys()


def _load_on(rank, address, init, out):
    dist.init_process_group('gloo', init_method=f'file://{init}', rank=rank, world_size=2)
    content = io.BytesIO()
    torch.save(load(address), content)
    (out / str(rank)).write_text(hashlib.sha256(content.getvalue()).hexdigest())
    dist.destroy_process_group()


@pytest.mark.slow
def test_of_two_processes_one_downloads(server, tmp_path):
    root, digest, requests = server
    mp.spawn(_load_on, (f'{root}/{digest}/RN50.pt', tmp_path / 'init', tmp_path), nprocs=2)
    assert len(requests) == 1
    assert (tmp_path / '0').read_text() == (tmp_path / '1').read_text()
