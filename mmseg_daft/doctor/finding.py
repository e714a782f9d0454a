"""What a check of ``tools/doctor.py`` found, and the running of checks such that none can end the others."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from typing import Any, TypeVar

Item = TypeVar('Item')


class Verdict(str, Enum):
    """What a finding means for the run; ``SKIP`` is a check that an earlier failure kept from running."""

    OK = 'OK'
    WARN = 'WARN'
    FAIL = 'FAIL'
    SKIP = 'SKIP'


@dataclass(frozen=True)
class Finding:
    """One row of the table.

    Attributes:
        check: What was looked at.
        verdict: What it means for the run.
        found: What was found.
        fix: For problems, what to do.
    """

    check: str
    verdict: Verdict
    found: str
    fix: str = ''


def ok(check: str, found: str) -> Finding:
    """Return a finding that nothing is wrong."""
    return Finding(check, Verdict.OK, found)


def warn(check: str, found: str, fix: str = '') -> Finding:
    """Return a finding to think about; the run is not wasted by it."""
    return Finding(check, Verdict.WARN, found, fix)


def fail(check: str, found: str, fix: str = '') -> Finding:
    """Return a finding that would waste the run."""
    return Finding(check, Verdict.FAIL, found, fix)


class Problem(Exception):
    """Something that would waste the run, with its fix."""

    def __init__(self, found: str, fix: str = '') -> None:
        super().__init__(found)
        self.found, self.fix = found, fix


class Examination:
    """Runs checks one after the other and keeps what they find.

    A check is a function that yields findings. An exception in it becomes a FAIL. ``None`` among its
    arguments stands for something that an earlier check failed to make: then it is skipped.

    Args:
        progress: A ``rich.progress.Progress`` to show what is going on, or ``None``.
    """

    def __init__(self, progress: Any = None) -> None:
        self.findings: list[Finding] = []
        self.progress = progress

    def check(self, name: str, function: Callable[..., Iterable[Finding]], *args: Any) -> bool:
        """Run a check and return whether nothing failed in it."""
        before = len(self.findings)
        for finding in self._guarded(name, lambda: function(*args), args) or ():
            self.findings.append(finding)
        return all(finding.verdict in (Verdict.OK, Verdict.WARN) for finding in self.findings[before:])

    def obtain(self, name: str, function: Callable[..., Any], *args: Any) -> Any:
        """Return what a function makes; ``None`` where it cannot, which is a FAIL."""
        return self._guarded(name, lambda: [function(*args)], args, single=True)

    def failed(self, *names: str) -> bool:
        """Return whether a check of one of these names failed."""
        return any(finding.verdict is Verdict.FAIL and finding.check in names for finding in self.findings)

    @property
    def problems(self) -> int:
        """How many findings would waste the run."""
        return sum(finding.verdict is Verdict.FAIL for finding in self.findings)

    def _guarded(self, name: str, run: Callable[[], Iterable], args: Sequence, single: bool = False) -> Any:
        if any(arg is None for arg in args):
            if not single and not self.failed(name):
                self.findings.append(Finding(name, Verdict.SKIP, 'not checked, because of a problem above'))
            return None
        results: list[Any] = []
        try:
            with working(self.progress, name):
                for result in run():
                    results.append(result)
        except Problem as problem:
            self.findings += [] if single else results
            self.findings.append(fail(name, problem.found, problem.fix))
            return None
        except Exception as error:
            self.findings += [] if single else results
            self.findings.append(fail(name, describe(error)))
            return None
        return results[0] if single else results


def describe(error: BaseException) -> str:
    """Return an exception's message, with its type where the message alone may say little."""
    text = ' '.join(str(error).split())
    plain = isinstance(error, (ValueError, FileNotFoundError)) and ' ' in text
    return text if plain else f'{type(error).__name__}: {text or "no message"}'


def some(words: Sequence[Any], most: int = 3) -> str:
    """Return the first few of a list, and how many more there are."""
    return ', '.join(map(str, words[:most])) + (f' and {len(words) - most} more' if len(words) > most else '')


@contextmanager
def working(progress: Any, description: str) -> Iterator[None]:
    """Show a line while something of unknown length goes on."""
    task = progress.add_task(description, total=None) if progress else None
    try:
        yield
    finally:
        if progress:
            progress.remove_task(task)


def tracked(progress: Any, items: Sequence[Item], description: str) -> Iterator[Item]:
    """Yield the items under a progress bar with an estimate of the time left."""
    task = progress.add_task(description, total=len(items)) if progress else None
    try:
        for item in items:
            yield item
            if progress:
                progress.advance(task)
    finally:
        if progress:
            progress.remove_task(task)
