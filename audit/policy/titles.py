"""Whether documents call the trainers by their names: Markdown and the contract of names in, violations out.

POLICY-030. A table row that tells what replaces a given-up value may quote it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from audit.policy.source import Violation
from coordexp.spec import check, contract_path, read_yaml

if TYPE_CHECKING:
    from collections.abc import Iterator

# docs/configuration.md writes removed values as `key: value` beside what to write now.
_GUIDANCE = re.compile(r"^\| `[\w.]+: (\w+)` \| write \w+")


@dataclass(frozen=True, slots=True)
class TrainerName:
    """A value of custom.trainer_variant, its name in prose, and the names that are given up."""

    variant: str
    title: str
    given_up: tuple[str, ...]


def load_trainer_names() -> tuple[TrainerName, ...]:
    """The rows of contracts/architecture/names.yaml."""
    rows = check("names", read_yaml(contract_path("architecture/names.yaml")))["trainers"]
    return tuple(TrainerName(row["variant"], row["title"], tuple(row["given_up"])) for row in rows)


def given_up_names(shown: str, text: str, names: tuple[TrainerName, ...]) -> Iterator[Violation]:
    """Uses of a given-up name in the document `shown`, with the name to write instead."""
    for number, line in enumerate(text.splitlines(), start=1):
        if _GUIDANCE.match(line):
            continue
        for name in names:
            for old in name.given_up:
                if old.lower() in line.lower():
                    yield Violation(shown, number, f"{old!r} is given up; write {name.title!r} or {name.variant}")


def untitled(text: str, names: tuple[TrainerName, ...]) -> list[str]:
    """Variants that a document does not give together with their title, on one line."""
    lines = text.splitlines()
    return [name.variant for name in names if not any(name.variant in line and name.title in line for line in lines)]
