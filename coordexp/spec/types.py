"""What contract files declare, as frozen types, and the two errors they raise. Contract ids: SPEC-*."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from pathlib import Path

Severity = Literal["P0", "P1", "P2"]
Tier = Literal["cpu", "ddp", "server", "gpu"]


class ContractFileError(Exception):
    """A contract file itself is unusable: unreadable, a duplicate key or id, outside the root. Names file and line."""


@dataclass(frozen=True, slots=True)
class Violation:
    """One place where an instance breaks a contract.

    `path` leads to the offending value, or to the unknown or missing key itself. `allowed` lists what is accepted
    there (known keys or enum values), `nearest` is the closest of them, `guidance` the schema's `x-removed` text.
    """

    contract_id: str
    path: tuple[str | int, ...]
    message: str
    allowed: tuple[str, ...] = ()
    nearest: str | None = None
    guidance: str | None = None
    keyword: str = ""

    @property
    def pointer(self) -> str:
        """RFC 6901 pointer, e.g. `/objects/0/bbox_2d`; the empty string is the whole instance."""
        return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in self.path)

    @property
    def dotted(self) -> str:
        """Path as YAML readers write it, e.g. `servers[0].base_url`."""
        text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in self.path)
        return text.removeprefix(".")

    def __str__(self) -> str:
        return f"{self.contract_id} at {self.pointer or '(the whole)'}: {self.message}"


class ContractViolation(ValueError):
    """An instance breaks a contract: `contract_id`, JSON `pointer`, `message`, `allowed`, `nearest`, `guidance`."""

    def __init__(self, violation: Violation) -> None:
        super().__init__(str(violation))
        self.violation = violation
        self.contract_id = violation.contract_id
        self.pointer = violation.pointer
        self.message = violation.message
        self.allowed = violation.allowed
        self.nearest = violation.nearest
        self.guidance = violation.guidance


@dataclass(frozen=True, slots=True)
class Mutant:
    """A deliberate fault: in `file` (relative to the checkout) `find`, which occurs once, becomes `replace`."""

    file: str
    find: str
    replace: str
    why: str


@dataclass(frozen=True, slots=True)
class Invariant:
    """A fact that must hold, as `contracts/invariants/<area>.yaml` declares it at `line`."""

    id: str
    area: str
    title: str
    severity: Severity
    statement: str
    requirements: tuple[str, ...]
    evidence: tuple[str, ...]
    tier: Tier
    mutants: tuple[Mutant, ...]
    path: Path
    line: int


@dataclass(frozen=True, slots=True)
class Requirement:
    """A row of the requirements as first stated."""

    id: str
    section: str
    text: str


@dataclass(frozen=True, slots=True)
class Case:
    """One case of a case file. Exactly one of `valid` and `expect` is declared; `has_expect` tells which."""

    description: str
    input: Any
    valid: bool | None = None
    expect: Any = None
    has_expect: bool = False
    comment: str = ""


@dataclass(frozen=True, slots=True)
class CaseFile:
    """A group of cases that exercise the same invariants."""

    path: Path
    description: str
    invariants: tuple[str, ...]
    cases: tuple[Case, ...] = field(default_factory=tuple)
