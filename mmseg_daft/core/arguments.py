"""Check arguments: one kind of message for a wrong type, a wrong range and a misspelt name."""

import difflib
import functools
import inspect
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from numbers import Integral, Real
from typing import Any, NamedTuple

from torch import nn


class Rule(NamedTuple):
    """Which values are right, and the words for them, after "has to be"."""

    holds: Callable[[Any], bool]
    words: str


def whole(least: int) -> Rule:
    """Return the rule for whole numbers from ``least``."""
    return Rule(lambda v: isinstance(v, Integral) and not isinstance(v, bool) and v >= least,
                f'a whole number, {least} or larger')


def number(holds: Callable[[float], bool], words: str) -> Rule:
    """Return the rule for finite numbers for which a condition holds."""
    return Rule(lambda v: isinstance(v, Real) and not isinstance(v, bool) and math.isfinite(v) and holds(v), words)


def optional(rule: Rule) -> Rule:
    """Return the rule for what a rule allows, and ``None``."""
    return Rule(lambda v: v is None or rule.holds(v), f'{rule.words}, or None')


def several(rule: Rule, words: str) -> Rule:
    """Return the rule for one value, or a list of at least one."""
    return Rule(lambda v: rule.holds(v) or (isinstance(v, (list, tuple)) and len(v) > 0 and all(map(rule.holds, v))),
                words)


FLAG = Rule(lambda v: isinstance(v, bool), 'True or False, without quotation marks')
TEXT = Rule(lambda v: isinstance(v, str) and bool(v), 'a text')
POSITIVE = number(lambda v: v > 0, 'a number larger than 0')
NOT_NEGATIVE = number(lambda v: v >= 0, 'a number, 0 or larger')
NAMES = several(Rule(lambda v: isinstance(v, str), ''), "the name of a submodule or a list of such, as ('backbone',)")


def check_arguments(owner: str, given: Mapping[str, Any], rules: Mapping[str, Rule]) -> None:
    """Check what an owner was given.

    Raises:
        ValueError: A name is unknown, or a value is not what its rule says.
    """
    if unknown := [name for name in given if name not in rules]:
        near = difflib.get_close_matches(str(unknown[0]), rules, n=1)
        takes = f'it takes {", ".join(rules)}' if rules else 'it takes no arguments: leave it out'
        raise ValueError(f'{owner} does not take {", ".join(map(repr, unknown))}; '
                         + (f'did you mean {near[0]!r}?' if near else f'{takes}.'))
    for name, value in given.items():
        if not rules[name].holds(value):
            raise ValueError(f'{owner} has {name}={value!r}: it has to be {rules[name].words}.')


def takes(**rules: Rule) -> Callable[[type], type]:
    """Return a class decorator that checks the arguments of each new object before ``__init__`` sees them."""
    def decorate(kind: type) -> type:
        init = kind.__init__
        parameters = {} if init is object.__init__ else dict([*inspect.signature(init).parameters.items()][1:])

        @functools.wraps(init)
        def checked(self: Any, *args: Any, **options: Any) -> None:
            given = {**dict(zip(parameters, args, strict=False)), **options}
            check_arguments(kind.__name__, given, rules)
            for name, parameter in parameters.items():
                if name not in given and parameter.default is inspect.Parameter.empty:
                    raise ValueError(f'{kind.__name__} needs {name}: {rules[name].words}.')
            init(self, *args, **options)

        kind.__init__ = checked
        return kind

    return decorate


def refuse_second(owner: object, others: Iterable[object], fix: str) -> None:
    """Check that an object is the only one of its type among others; ``fix`` says what two would do, and the remedy.

    Raises:
        ValueError: There is another.
    """
    if sum(isinstance(other, type(owner)) for other in others) > 1:
        raise ValueError(f'There are two {type(owner).__name__}s, and {fix}')


def check_modules(model: nn.Module, modules: Sequence[str]) -> None:
    """Check that names are submodules of a model; ``''`` is the whole.

    Raises:
        ValueError: One is not; the message names similar ones.
    """
    names = dict(model.named_modules())
    for scope in modules:
        if scope not in names:
            siblings = [name for name in names if name.count('.') == scope.count('.')]
            near = difflib.get_close_matches(scope, filter(None, names), n=3) or siblings
            raise ValueError(f'modules={modules!r}: the model has no submodule {scope!r}. '
                             f'Did you mean one of {sorted(filter(None, near))}?')


def inside(name: str, modules: Iterable[str]) -> bool:
    """Return whether a name is that of a submodule, or of something within it; ``''`` is the whole model."""
    return any(not module or f'{name}.'.startswith(f'{module}.') for module in modules)


def part_to_convert(trained: Collection[str], untrained: Collection[str]) -> str:
    """Say which submodules hold the layers that are pre-trained, where others are not; empty if none is."""
    parts: dict[str, None] = {}
    for name in trained:
        words = name.split('.')
        scopes = ('.'.join(words[:i + 1]) for i in range(len(words)))
        parts[next(s for s in scopes if not any(f'{other}.'.startswith(f'{s}.') for other in untrained))] = None
    if not parts:
        return ''
    return (f'If only this part is meant to be pre-trained, convert it alone: modules={tuple(parts)!r}; in a config, '
            "give paramwise_cfg the same backbone_modules, and head_modules='' for all the rest.")
