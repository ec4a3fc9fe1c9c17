"""Authored module lists in, resolved manifests and their checksum out, without torch. Contract ids: LOSS-05x, contract-facts section 6."""
from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

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

Config = TypeVar("Config", bound=ModuleConfig)


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


def render_canonical(manifest: Manifest) -> str:
    """The manifest as canonical JSON: sorted keys, no spaces, UTF-8 kept, −0.0 as 0.0, channels A before B.

    Raises `ManifestError` for NaN and infinity.
    """
    document = {
        "objective": [_plain_entry(entry) for entry in manifest.objective],
        "diagnostics": [_plain_entry(entry) for entry in manifest.diagnostics],
        "extra": dict(manifest.extra)}
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def checksum(manifest: Manifest) -> str:
    """sha256, in hex, of the canonical JSON: what identifies the objective in logs and run manifests."""
    return hashlib.sha256(render_canonical(manifest).encode()).hexdigest()


def describe_modules(manifest: Manifest) -> str:
    """One line for the log: each enabled module with its weight and channels, in order of execution."""
    def line(entry: ModuleEntry) -> str:
        return f"{entry.name}×{entry.weight:g}[{''.join(entry.channels)}]" + ("" if entry.enabled else "(off)")
    return (f"objective: {', '.join(map(line, manifest.objective))}; "
            f"diagnostics: {', '.join(map(line, manifest.diagnostics)) or 'none'}; checksum {checksum(manifest)}")


def _plain_entry(entry: ModuleEntry) -> dict[str, Any]:
    where = entry.name
    return {"name": entry.name, "enabled": entry.enabled, "weight": _plain(entry.weight, f"{where}.weight"),
            "channels": [channel for channel in CHANNELS if channel in entry.channels],
            "config": {name: _plain(value, f"{where}.config.{name}")
                       for name, value in sorted(dataclasses.asdict(entry.config).items())}}


def _plain(value: float | None, where: str) -> float | None:
    """A number as a finite float, so that 1 and 1.0 are the same objective, and −0.0 as 0.0."""
    if value is None:
        return None
    number = float(value)
    if not math.isfinite(number):
        raise ManifestError(f"{where} is {value}: a number in a pipeline must be finite")
    return number + 0.0


def parse_modules(entries: Sequence[Mapping[str, Any]], section: str, where: str) -> tuple[ModuleEntry, ...]:
    """Authored entries of `section` (objective or diagnostics) to resolved ones; `where` prefixes messages (`stage2_ab.pipeline`).

    Raises `ManifestError` for unknown or duplicate names, unknown keys, wrong types, numbers out of range or not finite.
    """
    known = OBJECTIVE_CONFIGS if section == "objective" else DIAGNOSTIC_CONFIGS
    parsed: list[ModuleEntry] = []
    for index, entry in enumerate(entries):
        place = f"{where}.{section}[{index}]"
        module = _parse_entry(entry, known, place)
        if any(module.name == other.name for other in parsed):
            raise ManifestError(f"{place}: module {module.name!r} is listed twice; list each module once")
        parsed.append(module)
    return tuple(parsed)


def _parse_entry(entry: Mapping[str, Any], known: Mapping[str, type[ModuleConfig]], place: str) -> ModuleEntry:
    allowed = {"name", "enabled", "weight", "channels", "config"}
    if unknown := sorted(set(entry) - allowed):
        raise ManifestError(f"{place}: unknown key {', '.join(unknown)}; allowed are {', '.join(sorted(allowed))}")
    if "name" not in entry or entry["name"] not in known:
        named = repr(entry["name"]) if "name" in entry else "no name"
        raise ManifestError(f"{place}.name: {named} is not a module of this list; known are {', '.join(known)}")
    values = {"enabled": True, "weight": 1.0, "channels": list(CHANNELS), "config": {}} | dict(entry)
    if not isinstance(values["enabled"], bool):
        raise ManifestError(f"{place}.enabled: {values['enabled']!r} is not true or false")
    channels = values["channels"]
    if not isinstance(channels, Sequence) or isinstance(channels, str) or not channels or \
            len(set(channels)) != len(channels) or not set(channels) <= set(CHANNELS):
        raise ManifestError(f"{place}.channels: {channels!r} is not a non-empty list of {', '.join(CHANNELS)}, each once")
    return ModuleEntry(entry["name"], parse_config(known[entry["name"]], values["config"], f"{place}.config"), values["enabled"],
                       check_number(values["weight"], f"{place}.weight", minimum=0.0),
                       tuple(channel for channel in CHANNELS if channel in channels))


# Bounds of module numbers, inclusive; `contracts/losses/<module>.schema.json` states the same and a test compares both.
_BOUNDS: dict[str, tuple[float, float]] = {
    "rollout_drop_invalid_struct_ce_multiplier": (1.0, 4.0), "coord_huber_delta": (1e-9, math.inf),
    "temperature": (1e-6, math.inf), "target_sigma": (1e-6, math.inf)}


def parse_config(kind: type[ModuleConfig], values: Mapping[str, Any], where: str) -> ModuleConfig:
    """A module's config from authored keys, with defaults for those left out; raises `ManifestError`."""
    if not isinstance(values, Mapping):
        raise ManifestError(f"{where}: {values!r} is not a mapping")
    fields = [f.name for f in dataclasses.fields(kind)]
    if unknown := sorted(set(values) - set(fields)):
        raise ManifestError(f"{where}: unknown key {', '.join(unknown)}; allowed are {', '.join(fields) or 'none'}")
    parsed: dict[str, Any] = {}
    for name, value in values.items():
        if name == "target_truncate":
            parsed[name] = None if value is None else _check_radius(value, f"{where}.{name}")
            continue
        low, high = _BOUNDS.get(name, (0.0, math.inf))
        parsed[name] = check_number(value, f"{where}.{name}", minimum=low, maximum=high)
    return kind(**parsed)


def check_number(value: Any, where: str, *, minimum: float = -math.inf, maximum: float = math.inf) -> float:
    """Return `value` as a float when it is a finite number within the bounds; raises `ManifestError`."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ManifestError(f"{where}: {value!r} is not a number")
    if not math.isfinite(value):
        raise ManifestError(f"{where}: {value!r} is not finite")
    if not minimum <= value <= maximum:
        upper = "" if maximum == math.inf else f" and at most {maximum:g}"
        raise ManifestError(f"{where}: {value!r} must be at least {minimum:g}{upper}")
    return float(value)


def _check_radius(value: Any, where: str) -> int:
    number = check_number(value, where, minimum=0)
    if number != int(number):
        raise ManifestError(f"{where}: {value!r} is not a whole number of bins")
    return int(number)
