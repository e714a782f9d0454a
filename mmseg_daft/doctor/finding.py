"""What a check finds, and how checks run so that an error in one does not end the others."""

from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from functools import partial
from typing import Any


class Verdict(str, Enum):
    """What a finding means for the run: ``FAIL`` would waste it; ``SKIP`` could not be checked after a failure."""

    OK = 'OK'
    WARN = 'WARN'
    FAIL = 'FAIL'
    SKIP = 'SKIP'


@dataclass(frozen=True)
class Finding:
    """One row of the table."""

    verdict: Verdict
    found: str
    fix: str = ''
    check: str = ''  # the examination fills it in


# ok('what was found'), warn('what was found', 'the fix'), …
ok, warn, fail, skip = (partial(Finding, verdict) for verdict in Verdict)


class Problem(ValueError):
    """Something that would waste the run and leaves the check with nothing more to do, with its fix."""

    def __init__(self, found: str, fix: str = '') -> None:
        super().__init__(found)
        self.fix = fix


class Examination:
    """Runs checks one after the other and keeps what they find.

    A check is a function that yields findings, returns what later checks need, or both (a generator's ``return``).
    """

    def __init__(self, progress: Any = None) -> None:
        self.findings: list[Finding] = []
        self.progress = progress  # a rich.progress.Progress that shows what is going on

    def check(self, name: str, function: Callable[..., Any], *args: Any) -> Any:
        """Run a check, keep what it finds and return what it makes.

        An exception in it becomes a ``FAIL``. It is skipped where one of its arguments is ``None``, as an earlier
        check failed to make it. In both cases ``None`` is returned.
        """
        if any(arg is None for arg in args):
            if not self.failed(name):
                self.findings.append(skip('not checked, because of a problem above', check=name))
            return None
        if self.progress is not None:
            for task in self.progress.task_ids:
                self.progress.remove_task(task)
            self.progress.add_task(name, total=None)
        try:
            made = function(*args)
            while isinstance(made, Generator):
                try:
                    self.findings.append(replace(next(made), check=name))
                except StopIteration as end:
                    made = end.value
            return made
        except Exception as error:
            self.findings.append(fail(describe(error), getattr(error, 'fix', ''), check=name))
            return None

    def track(self, items: Sequence[int], description: str) -> Iterable[int]:
        """Return the items, with a progress bar and an estimate of the time left while they are iterated over."""
        return items if self.progress is None else self.progress.track(items, description=description)

    def failed(self, *names: str) -> bool:
        """Return whether a check of one of these names failed."""
        return any(finding.verdict is Verdict.FAIL and finding.check in names for finding in self.findings)


def describe(error: BaseException) -> str:
    """Return an exception's message, after its type where the message alone may say little."""
    text = ' '.join(str(error).split())
    plain = isinstance(error, (ValueError, FileNotFoundError)) and ' ' in text
    return text if plain else f'{type(error).__name__}: {text or "no message"}'


def some(words: Sequence[Any], most: int = 3) -> str:
    """Return the first few words of a list, and how many more there are."""
    return ', '.join(map(str, words[:most])) + (f' and {len(words) - most} more' if len(words) > most else '')
