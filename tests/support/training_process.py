"""Real training processes that tell where they are, to be killed there.

They are forked from a server that has the libraries imported, so that a test can afford many. In them runs what
``mmseg-daft train …`` runs: mmseg's own script.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

EVENTS = 'events'
"""The file in a run's folder to which ``EventsHook`` writes."""


class TrainingProcess:
    """Ranks of one training run.

    Args:
        arguments: Of ``mmseg-daft train``.
        run: The run's folder.
        ranks: The number of processes.
    """

    def __init__(self, arguments: Sequence[Any], run: Path, ranks: int = 1) -> None:
        self.events = run / EVENTS
        run.mkdir(parents=True, exist_ok=True)
        self.events.write_text('')
        self.log = run / 'output.log'
        context = multiprocessing.get_context('forkserver')
        context.set_forkserver_preload(['mmseg_daft', 'mmseg.apis', 'support.training_process'])
        with socket.socket() as s:
            s.bind(('127.0.0.1', 0))
            port = s.getsockname()[1]
        environments = [{}] if ranks == 1 else [
            dict(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(ranks), MASTER_ADDR='127.0.0.1',
                 MASTER_PORT=str(port)) for rank in range(ranks)]
        self.ranks = [context.Process(target=_train, args=([str(a) for a in arguments], environment, str(self.log)))
                      for environment in environments]
        for process in self.ranks:
            process.start()

    def wait_for(self, event: str, count: int, timeout: float = 900) -> bool:
        """Wait until an event has happened so many times; return ``False`` where the run ended before."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            alive = all(process.is_alive() for process in self.ranks)
            if sum(line.startswith(event) for line in self.events.read_text().splitlines()) >= count:
                return True
            if not alive:
                return False
            time.sleep(0.001)
        raise TimeoutError(f'{self.events.read_text()}\n{self.log.read_text()[-3000:]}')

    def kill(self, rank: int = 0) -> None:
        """``kill -9`` a rank; then, as torchrun does, the others."""
        os.kill(self.ranks[rank].pid, signal.SIGKILL)
        self.ranks[rank].join()
        for process in self.ranks:
            process.kill()
            process.join()

    def ask(self, wanted: signal.Signals) -> None:
        """Send a signal to the first rank, as Slurm does before its limit, and wait until the run has ended."""
        os.kill(self.ranks[0].pid, wanted)
        for process in self.ranks:
            process.join()

    def finish(self, timeout: float = 900) -> None:
        """Wait for the end and check that it is a good one."""
        for process in self.ranks:
            process.join(timeout)
            assert process.exitcode == 0, (process.exitcode, self.log.read_text()[-3000:])


def _train(arguments: list[str], environment: dict[str, str], log: str) -> None:
    os.environ.update(environment)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    from mmseg_daft.cli import main
    raise SystemExit(main(['train', *arguments]))
