"""Authored module lists in, resolved manifests and their checksum out; no torch. Contract ids: LOSS-015..018."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from coordexp.losses.specs import (
    CHANNELS,
    DIAGNOSTIC_CONFIGS,
    OBJECTIVE_CONFIGS,
    Channel,
    CoordRegConfig,
    MaskWeights,
    ModuleConfig,
    TokenCEConfig,
)
from coordexp.spec import ContractViolation, check

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Config = TypeVar("Config", bound=ModuleConfig)
_WHOLE = ("target_truncate",)


class ManifestError(ValueError):
    """A pipeline that can't be run: where, what is wrong, what is allowed."""


@dataclass(frozen=True, slots=True)
class ModuleEntry:
    """One module of the pipeline with its resolved config; `channels` has no effect in stage 1."""

    name: str
    config: ModuleConfig
    enabled: bool = True
    weight: float = 1.0
    channels: tuple[Channel, ...] = CHANNELS

    def runs_in(self, channel: Channel | None) -> bool:
        """Whether the module takes part in `channel`; None (stage 1) is every channel."""
        return self.enabled and (channel is None or channel in self.channels)


@dataclass(frozen=True, slots=True)
class Manifest:
    """Ordered objective and diagnostics modules, and what else identifies the objective (`variant`, coord modes)."""

    objective: tuple[ModuleEntry, ...]
    diagnostics: tuple[ModuleEntry, ...] = ()
    extra: Mapping[str, str] = field(default_factory=dict)

    def config_of(self, name: str, kind: type[Config]) -> Config:
        """Config of module `name`, or its defaults where the manifest doesn't list it."""
        for entry in (*self.objective, *self.diagnostics):
            if entry.name == name and isinstance(entry.config, kind):
                return entry.config
        return kind()

    def mask_weights(self) -> MaskWeights:
        """What fills the mask table; the coord-token CE weight counts only where `coord_reg` is enabled."""
        enabled = any(entry.name == "coord_reg" and entry.enabled for entry in self.objective)
        coord_ce = self.config_of("coord_reg", CoordRegConfig).coord_ce_weight if enabled else 0.0
        return MaskWeights(self.config_of("token_ce", TokenCEConfig), coord_ce)


def resolved_document(manifest: Manifest) -> dict[str, Any]:
    """The manifest in plain values, as run manifests hold it; raises `ManifestError` for NaN and infinity."""
    return {
        "objective": [_plain_entry(entry) for entry in manifest.objective],
        "diagnostics": [_plain_entry(entry) for entry in manifest.diagnostics],
        "extra": dict(manifest.extra),
    }


def render_canonical(manifest: Manifest) -> str:
    """The manifest as canonical JSON: sorted keys, no spaces, UTF-8 kept, −0.0 as 0.0, channels A before B.

    Raises `ManifestError` for NaN and infinity.
    """
    document = resolved_document(manifest)
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def checksum(manifest: Manifest) -> str:
    """sha256, in hex, of the canonical JSON: what identifies the objective in logs and run manifests (REG-3.4)."""
    return hashlib.sha256(render_canonical(manifest).encode()).hexdigest()


def describe_modules(manifest: Manifest) -> str:
    """One line for the log: every module with weight and channels in order of execution, and the checksum."""

    def line(entry: ModuleEntry) -> str:
        return f"{entry.name} x{entry.weight:g} {''.join(entry.channels)}" + ("" if entry.enabled else " (off)")

    diagnostics = ", ".join(map(line, manifest.diagnostics)) or "none"
    return f"objective: {', '.join(map(line, manifest.objective))}; diagnostics: {diagnostics}; {checksum(manifest)}"


def _plain_entry(entry: ModuleEntry) -> dict[str, Any]:
    config = dataclasses.asdict(entry.config)
    return {
        "name": entry.name,
        "enabled": entry.enabled,
        "weight": _plain(entry.weight, f"{entry.name}.weight"),
        "channels": [channel for channel in CHANNELS if channel in entry.channels],
        "config": {name: _plain(value, f"{entry.name}.config.{name}") for name, value in config.items()},
    }


def _plain(value: float | None, where: str) -> float | int | None:
    """A number as a finite float, so that 1 and 1.0 are one objective, and −0.0 as 0.0; a count of bins as an int."""
    if value is None:
        return None
    if not math.isfinite(value):
        raise ManifestError(f"{where} is {value}: a number of a pipeline must be finite")
    return int(value) if where.endswith(_WHOLE) else float(value) + 0.0


def parse_modules(entries: Sequence[Mapping[str, Any]], section: str, where: str) -> tuple[ModuleEntry, ...]:
    """Authored entries of `section` (objective or diagnostics) to resolved ones; `where` prefixes messages.

    Raises `ManifestError` for unknown or duplicate names, unknown keys, wrong types, and numbers out of range or not
    finite, with what is allowed (contracts `coordexp:config/pipeline.*` and `coordexp:losses/*`).
    """
    kind, known = ("objective", OBJECTIVE_CONFIGS) if section == "objective" else ("diagnostic", DIAGNOSTIC_CONFIGS)
    parsed: list[ModuleEntry] = []
    for index, authored in enumerate(entries):
        place = f"{where}.{section}[{index}]"
        _check(f"config/pipeline.{kind}", authored, place)
        entry: dict[str, Any] = {"enabled": True, "weight": 1.0, "channels": CHANNELS, "config": {}} | dict(authored)
        name = entry["name"]
        if any(name == other.name for other in parsed):
            raise ManifestError(f"{place}: module {name!r} is listed twice; list each module once")
        _check_finite(entry["weight"], f"{place}.weight")
        config = parse_config(name, known[name], entry["config"], f"{place}.config")
        channels = tuple(channel for channel in CHANNELS if channel in entry["channels"])
        parsed.append(ModuleEntry(name, config, entry["enabled"], float(entry["weight"]), channels))
    return tuple(parsed)


def parse_config(name: str, kind: type[ModuleConfig], values: Mapping[str, Any], where: str) -> ModuleConfig:
    """The config of module `name` from authored keys, with defaults for those left out; raises `ManifestError`."""
    _check(f"losses/{name}", dict(values), where)
    for key, value in values.items():
        _check_finite(value, f"{where}.{key}")
    plain: dict[str, Any] = {key: _plain(value, f"{where}.{key}") for key, value in values.items()}
    return kind(**plain)


def _check(schema_id: str, value: object, where: str) -> None:
    try:
        check(schema_id, value)
    except ContractViolation as error:
        dotted = error.violation.dotted
        raise ManifestError(f"{where}{'.' if dotted else ''}{dotted}: {error.message}") from error


def _check_finite(value: float | None, where: str) -> None:
    if value is not None and not math.isfinite(value):
        raise ManifestError(f"{where} is {value}: a number of a pipeline must be finite")
