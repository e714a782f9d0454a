"""A throw-away Slurm of two nodes on this machine: no systemd, no root, nothing outside of one folder."""

from __future__ import annotations

import ctypes
import getpass
import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

PROGRAMS = ('munged', 'munge', 'unmunge', 'slurmctld', 'slurmd', 'srun', 'sbatch', 'scontrol', 'squeue', 'sinfo')
PATH = os.pathsep.join([os.environ.get('PATH', ''), '/usr/sbin', '/sbin'])
NODES = ('node1', 'node2')
PATIENCE = 600  # seconds: machines pause for minutes

CONF = """\
ClusterName=throwaway
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={base}/munge.socket,cred_expire=60
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
StateSaveLocation={base}/state
SlurmdSpoolDir={base}/spool.%n
SlurmctldPidFile={base}/slurmctld.pid
SlurmdPidFile={base}/slurmd.%n.pid
SlurmctldLogFile={base}/slurmctld.log
SlurmdLogFile={base}/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=2,bf_interval=2
SlurmdParameters=config_overrides
ReturnToService=2
JobRequeue=1
KillWait=5
MinJobAge=3600
InactiveLimit=0
SlurmdTimeout=0
MessageTimeout=100
UnkillableStepTimeout=60
GresTypes=gpu
PartitionName=test Nodes=ALL Default=YES MaxTime=INFINITE State=UP OverSubscribe=NO
"""


def missing_programs() -> list[str]:
    """Return what is not installed of what a cluster needs (Debian: slurm-wlm and munge)."""
    return [name for name in PROGRAMS if shutil.which(name, path=PATH) is None]


def why_not_here() -> str | None:
    """Return why a cluster cannot run on this machine, or None."""
    missing = missing_programs()
    if missing:
        return f'no Slurm here ({", ".join(missing)} missing): apt install slurm-wlm munge'
    try:
        socket.getaddrinfo(socket.gethostname(), None)
    except OSError:
        return f'Slurm wants the name of this machine, {socket.gethostname()}, to resolve: add it to /etc/hosts'
    return None


class SlurmCluster:
    """munged, slurmctld and two slurmd, as processes of this user that listen on loopback alone.

    Each node claims 64 CPUs, so that the scripts' defaults fit, and 4 GPUs, which are links to ``/dev/null``: Slurm
    then sets ``CUDA_VISIBLE_DEVICES`` as it would for real ones. slurm.conf as tried on Debian 12's Slurm 22.05.
    """

    def __init__(self, base: Path) -> None:
        self.base = base
        self.daemons: dict[str, subprocess.Popen] = {}
        self.env = dict(os.environ, PATH=PATH, SLURM_CONF=str(base / 'slurm.conf'))
        for name in [*self.env]:
            if name.startswith(('SLURM_', 'SBATCH_', 'SRUN_')) and name != 'SLURM_CONF':
                del self.env[name]

    def __enter__(self) -> SlurmCluster:
        try:
            self._configure()
            self.start('munged', '-F', f'--socket={self.base}/munge.socket', f'--key-file={self.base}/munge.key',
                       f'--pid-file={self.base}/munged.pid', f'--log-file={self.base}/munged.log',
                       f'--seed-file={self.base}/munged.seed')
            self.wait_for('munged', lambda: not self._code('munge', '-n', '-S', f'{self.base}/munge.socket'))
            self.start_controller()
            for node in NODES:
                self.start('slurmd', '-D', '-f', self.env['SLURM_CONF'], '-N', node, name=node)
            idle = ('sinfo', '-h', '-N', '-t', 'idle', '-o', '%N')
            self.wait_for('idle nodes', lambda: sorted(self.run(*idle).split()) == [*NODES])
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if 'slurmctld' in self.daemons:
            self._code('scancel', '--full', '-u', getpass.getuser())
            deadline = time.monotonic() + 15
            while time.monotonic() < deadline and self._output('squeue', '-h'):
                time.sleep(0.2)
        for name in (*NODES, 'slurmctld', 'munged'):
            self.stop(name)
        self._end_leftovers()

    def start(self, program: str, *words: str, name: str | None = None) -> None:
        """Start a daemon that ends with this process at the latest."""
        with (self.base / f'{name or program}.out').open('ab') as output:
            self.daemons[name or program] = subprocess.Popen(
                [shutil.which(program, path=PATH), *words], stdin=subprocess.DEVNULL, stdout=output,
                stderr=subprocess.STDOUT, env=self.env, start_new_session=True, preexec_fn=_end_with_parent)

    def stop(self, name: str) -> None:
        """End a daemon, if it runs, and wait for that."""
        daemon = self.daemons.pop(name, None)
        if daemon is None:
            return
        daemon.terminate()
        try:
            daemon.wait(60)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()

    def start_controller(self) -> None:
        """Start slurmctld and wait until it answers; it finds the state of an earlier one."""
        self.start('slurmctld', '-D', '-f', self.env['SLURM_CONF'])
        self.wait_for('slurmctld', lambda: self.env['SLURM_CONF'] in self._output('scontrol', 'show', 'config'))

    def run(self, *words: object) -> str:
        """Run a command on the cluster's side and return its output; it has to succeed."""
        done = subprocess.run([*map(str, words)], capture_output=True, text=True, env=self.env, timeout=PATIENCE)
        assert done.returncode == 0, f'{words}: {done.stdout}{done.stderr}'
        return done.stdout

    def job(self, job: str) -> dict[str, str]:
        """Return what the controller knows of a job."""
        words = self.run('scontrol', 'show', 'job', '-o', job).split()
        return dict(word.split('=', 1) for word in words if '=' in word)

    def hurry(self, job: str) -> None:
        """Start a requeued job now: Slurm would wait for its credential to expire."""
        self.wait_for('requeued', lambda: self.job(job)['JobState'] in ('PENDING', 'RUNNING', 'COMPLETED'))
        time.sleep(3)  # slurmd tells a new credential from the killed one's by whole seconds: "already killed"
        self._code('scontrol', 'update', f'jobid={job}', 'starttime=now')

    def wait_for(self, what: str, reached: Callable[[], bool], seconds: float = PATIENCE) -> None:
        """Wait until something is reached; a failure shows the ends of the daemons' logs."""
        deadline = time.monotonic() + seconds
        while not reached():
            dead = [name for name, daemon in self.daemons.items() if daemon.poll() is not None]
            if dead or time.monotonic() > deadline:
                logs = '\n'.join(f'--- {path.name}\n{path.read_text(errors="replace")[-1500:]}'
                                 for path in sorted([*self.base.glob('*.log'), *self.base.glob('*.out')]))
                why = f'{dead} died' if dead else f'not within {seconds} s'
                raise AssertionError(f'{what}: {why}\n{logs}')
            time.sleep(0.1)

    def _configure(self) -> None:
        if len(str(self.base)) > 80:
            raise ValueError(f'{self.base}: a socket needs a shorter path')
        (self.base / 'state').mkdir(parents=True)
        for folder in (self.base, self.base.parent):  # munged wants its socket within everyone's reach
            folder.chmod(0o755)
        key = self.base / 'munge.key'
        key.write_bytes(secrets.token_bytes(1024))
        key.chmod(0o400)
        host, ports = socket.gethostname().split('.')[0], _free_ports(1 + len(NODES))
        lines = CONF.format(host=host, port=ports[0], user=getpass.getuser(), base=self.base)
        for node, port in zip(NODES, ports[1:]):
            lines += (f'NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=64 RealMemory=8000 '
                      'State=UNKNOWN Gres=gpu:4\n')
        (self.base / 'slurm.conf').write_text(lines)
        for i in range(4):
            (self.base / f'gpu{i}').symlink_to('/dev/null')
        (self.base / 'gres.conf').write_text(f'Name=gpu File={self.base}/gpu[0-3]\n')
        # slurmd 22.05 loads a cgroup plugin in any case; this one touches nothing that no plugin asks for.
        (self.base / 'cgroup.conf').write_text('CgroupPlugin=cgroup/v1\n')

    def _output(self, *words: str) -> str:
        try:
            return subprocess.run(words, capture_output=True, text=True, env=self.env, timeout=10).stdout
        except subprocess.TimeoutExpired:
            return ''

    def _code(self, *words: str) -> int:
        try:
            return subprocess.run(words, capture_output=True, env=self.env, timeout=10).returncode
        except subprocess.TimeoutExpired:
            return -1

    def _end_leftovers(self) -> None:
        """End job processes that outlived their job, which linuxproc allows: they name this slurm.conf."""
        ours = f'SLURM_CONF={self.env["SLURM_CONF"]}'.encode()
        for folder in Path('/proc').glob('[0-9]*'):
            try:
                variables = (folder / 'environ').read_bytes().split(b'\0')
                step = os.readlink(folder / 'exe').endswith('slurmstepd')
            except OSError:
                continue
            if ours in variables and (step or any(v.startswith(b'SLURM_JOB_ID=') for v in variables)):
                os.kill(int(folder.name), signal.SIGKILL)


def _end_with_parent() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG: also when pytest is killed


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(('127.0.0.1', 0)) for _ in range(count)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports
