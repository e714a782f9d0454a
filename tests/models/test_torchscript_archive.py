"""Archives that torch.jit.save writes, read without running them; archives that attack or are damaged, refused."""

import hashlib
import io
import os
import pickle
import struct
import subprocess
import sys
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
    for protocol, says in (2, 'asks for (posix|nt).system, which is refused'), (4, 'FRAME, which torch.jit.save never'):
        attack = pickle.dumps(Attack(target), protocol)
        rewrite(archive, lambda name, content, attack=attack: attack if name.endswith('data.pkl') else content)
        with pytest.raises(ValueError, match=f'net.pt cannot be read.*{says}'):
            read_tensors(archive)
    assert not target.exists()


@pytest.mark.parametrize('content, message', [
    (b'c__builtin__\neval\n(V1\ntR.', 'asks for .*eval, which is refused'),
    (b'', 'cannot be read'),
    (b'}.', 'holds no tensors'),
    (b'c__torch__\nA\n)\x81q\x00}(X\x01\x00\x00\x00ah\x00ub.', 'contain one another')])
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


def word(text):
    return b'X' + struct.pack('<I', len(text)) + text.encode()


def number(n):
    return b'J' + struct.pack('<i', n)


def network(value, name='a'):
    return b'c__torch__\nA\n)\x81q\x01}(' + word(name) + value + b'ub.'


ONE = number(1) + b'\x85'


def shaped(size=ONE, stride=ONE, numel=ONE[:-1], key=b'X\x01\x00\x00\x000', offset=b'K\x00'):
    storage = b'(' + word('storage') + b'ctorch\nFloatStorage\n' + key + word('cpu') + numel + b'tQ'
    return network(b'ctorch._utils\n_rebuild_tensor_v2\n(' + storage + offset + size + stride
                   + b'\x89ccollections\nOrderedDict\n)RtR')


PAIRS = b'K\x00' + b'q\x00h\x00\x86' * 40  # a pair of the same pair, 40 deep: 2 ** 40 zeros to print or to hash
ATTACKS = {
    'bytes that are not there': b'\x96' + struct.pack('<Q', 2**33) + b'.',
    'a reference that is endless to print': PAIRS + b'Q.',
    'a key that is endless to hash': b'}(' + PAIRS + b'K\x01u.',
    'a record that is endless to hash': shaped(key=PAIRS),
    'a size that is a list': shaped(b'](K\x00e' + number(2**31 - 1) + b'\x86', ONE),
    'a size that is a text': shaped(word('abcd') + number(2**30) + b'\x86', ONE),
    'a size that is endless to print': shaped(PAIRS, PAIRS),
    'one number taken 2 ** 60 times': shaped(number(2**30) * 2 + b'\x86', number(0) * 2 + b'\x86'),
    'more numbers than there are': shaped(numel=number(2**31 - 1)),
    'numbers beyond the record': shaped(offset=number(2)),
    'a copy of a container': network(b'ccollections\nOrderedDict\n](K\x01e\x85R'),
    'names that double': network(b'h\x01', 'k' * 300),
    'a name of a million letters': b'c' + b'a' * 10**6 + b'\nb\n.',
    'state for a function': b'ctorch._utils\n_rebuild_tensor_v2\n}b.',
    'a long list of attributes': b'N' * 5_000_000 + b'.'}
READ_ALL = """
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, (6_000_000_000,) * 2)
resource.setrlimit(resource.RLIMIT_CPU, (120,) * 2)
from mmseg_daft.models.torchscript import read_tensors
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for path in sys.argv[1:]:
    try:
        print('READ', path, read_tensors(path))
    except ValueError as error:
        assert len(str(error)) < len(path) + 700
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.slow
def test_a_small_file_takes_little_memory_and_time(archive, tmp_path):
    paths = []
    for i, content in enumerate(ATTACKS.values()):
        paths.append(tmp_path / f'{i}.pt')
        with zipfile.ZipFile(paths[-1], 'w') as new:
            for name, record in (('data.pkl', content), ('constants.pkl', b'.'), ('data/0', bytes(4))):
                new.writestr(f'n/{name}', record)
    content = archive.read_bytes()
    info = zipfile.ZipFile(archive).getinfo('net/data.pkl')
    claim = struct.pack('<LL', info.compress_size, info.file_size)
    for i, larger in enumerate((struct.pack('<LL', 2**32 - 2, 2**32 - 2), struct.pack('<LL', 10, 2**32 - 2))):
        assert claim in content  # in the directory, which is last
        paths.append(tmp_path / f'claim_{i}.pt')
        paths[-1].write_bytes(larger.join(content.rsplit(claim, 1)))
    done = subprocess.run([sys.executable, '-c', READ_ALL, *map(str, paths)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert 'READ' not in done.stdout and int(done.stdout) < 100  # MB


def test_what_is_read_by_hand_is_what_torch_writes(archive):
    rewrite(archive, lambda name, content: shaped() if name.endswith('data.pkl') else bytes(4))
    assert {name: tensor.shape for name, tensor in read_tensors(archive).items()} == {'a': (1,)}


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
            self.wfile.write(content[:-200] if 'cut-off' in self.path else content)

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


def test_files_of_one_name_are_kept_apart_and_a_cut_off_one_is_not_kept(server, tmp_path):
    root, _, requests = server
    load(f'{root}/a/net.pt?version=1')
    load(f'{root}/a/net.pt?version=2')
    assert requests == ['/a/net.pt?version=1', '/a/net.pt?version=2']
    for _ in range(2):
        with pytest.raises(ValueError, match='cut-off/net.pt is no TorchScript archive, or was cut off. Start again'):
            load(f'{root}/cut-off/net.pt')
    assert len(list((tmp_path / 'home' / 'hub' / 'checkpoints').iterdir())) == 2


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
