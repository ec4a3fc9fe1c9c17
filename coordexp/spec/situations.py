"""A key of the log and the situations in which it is there, as the contracts state them. Ids: ART-040, ART-041.

Facts of a line enter (`LineFacts`), a yes or no leaves. No torch.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Sequence

Line = Literal["training", "validation", "end"]
MODES: Mapping[Line, str] = {"training": "train", "validation": "eval"}
"""The payload mode of a line; the last one is no payload."""


@dataclass(frozen=True, slots=True)
class Module:
    """A module of the run's pipeline that is enabled: the contexts that it runs in, and its config."""

    contexts: frozenset[str]
    config: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class LineFacts:
    """What is known of a line without looking at its metrics: forwards since the last such line, and the run's own."""

    line: Line
    contexts: frozenset[str]
    pushed: bool
    config: Mapping[str, Any]
    modules: Mapping[str, Module]


@dataclass(frozen=True, slots=True)
class Situation:
    """Conditions that hold together; `text` says them in words.

    `module` has to run in the context, with `weight` of its config other than 0. `amount` is what the key divides by,
    as a sum of keys of the line: at 0 the key is absent.
    """

    text: str
    line: Line
    contexts: tuple[str, ...] = ()
    config: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    pushed: bool = False
    module: str | None = None
    weight: str | None = None
    amount: str | None = None

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Situation:
        """A row of situations.yaml."""
        config = {key: tuple(values) for key, values in row.get("config", {}).items()}
        contexts = tuple(row.get("contexts", ()))
        return cls(row["text"], row["line"], contexts, config, pushed=row.get("pushed", False))

    def over(self, amount: str | None) -> Situation:
        """The same for a key that divides by `amount`."""
        return dataclasses.replace(self, amount=amount)

    def given(self, facts: LineFacts) -> bool:
        """Whether a line of these facts may hold the key."""
        return (
            self.line == facts.line
            and (not self.contexts or bool(facts.contexts.intersection(self.contexts)))
            and all(_looked_up(facts.config, key) in allowed for key, allowed in self.config.items())
            and (facts.pushed or not self.pushed)
            and (self.module is None or self._weighs(facts.modules.get(self.module)))
        )

    def demands(self, metrics: Mapping[str, float]) -> bool:
        """Whether the key has something to divide by on a line with these metrics."""
        return self.amount is None or _total(self.amount, metrics) > 0

    def _weighs(self, module: Module | None) -> bool:
        if module is None or not module.contexts.issuperset(self.contexts):
            return False
        return self.weight is None or module.config[self.weight] != 0


@dataclass(frozen=True, slots=True)
class LoggedKey:
    """One key: how it is reduced (None for one that upstream adds), when it is there, and what it tells."""

    key: str
    kind: str
    reduction: str | None
    unit: str
    when: tuple[Situation, ...]
    meaning: str
    reading: str

    @classmethod
    def of(cls, row: Mapping[str, Any], when: Sequence[Situation]) -> LoggedKey:
        """A row of a contract, with its situations."""
        reduction = row.get("reduction")
        return cls(row["key"], row["kind"], reduction, row["unit"], tuple(when), row["meaning"], row["reading"])

    @property
    def modes(self) -> tuple[str, ...]:
        """The payload modes that may carry it."""
        lines = {situation.line for situation in self.when}
        return tuple(mode for line, mode in MODES.items() if line in lines)


def _looked_up(config: Mapping[str, Any], dotted: str) -> Any:
    """The value at a dotted key; None where a section on the way is left out."""
    value: Any = config
    for name in dotted.split("."):
        value = value[name] if isinstance(value, Mapping) and name in value else None
    return value


def _total(amount: str, metrics: Mapping[str, float]) -> float:
    """The sum that an amount names, `a + b - c`; what a line lacks is 0."""
    first, *rest = re.split(r" ([+-]) ", amount)
    total = metrics.get(first, 0.0)
    for sign, key in zip(rest[::2], rest[1::2], strict=True):
        value = metrics.get(key, 0.0)
        total += value if sign == "+" else -value
    return total
