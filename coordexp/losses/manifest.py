"""Authored module lists in, resolved manifests and their checksum out; no torch. Contract ids: LOSS-015..018."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args, get_type_hints

from coordexp.losses.registry import DIAGNOSTIC_MODULES, OBJECTIVE_MODULES, module_spec
from coordexp.losses.specs.types import (
    CHANNELS,
    Channel,
    DecodeMode,
    EmbedMode,
    ManifestError,
    MaskWeights,
    ModuleConfig,
    Variant,
)
from coordexp.spec import ContractViolation, check

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from coordexp.losses.specs.types import ModuleSpec

Config = TypeVar("Config", bound=ModuleConfig)
Mode = Literal["coord_ctx_embed_mode", "coord_decode_mode"]
SECTIONS: Mapping[Variant, str | None] = {
    "stage1": None,
    "stage2_two_channel": "stage2_ab",
    "stage2_rollout_aligned": "rollout_matching",
}
"""Where each variant states its pipeline and its modes; stage 1 has neither."""
MODES: Mapping[Variant, tuple[Mode, ...]] = {
    "stage1": (),
    "stage2_two_channel": ("coord_ctx_embed_mode", "coord_decode_mode"),
    "stage2_rollout_aligned": ("coord_decode_mode",),
}
"""The modes that each variant reads, in the order of the canonical document."""


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
    """Ordered objective and diagnostics modules, the variant that runs them, and its modes.

    `coord_decode_mode` says how boxes are decoded, `coord_ctx_embed_mode` what the self-context loop feeds a coord
    slot. A mode is None where the variant doesn't read it, and given where it does, else `ManifestError` is raised.
    """

    objective: tuple[ModuleEntry, ...]
    diagnostics: tuple[ModuleEntry, ...] = ()
    variant: Variant = "stage1"
    coord_decode_mode: DecodeMode | None = None
    coord_ctx_embed_mode: EmbedMode | None = None

    def __post_init__(self) -> None:
        for mode in get_args(Mode):
            given, read = getattr(self, mode), mode in MODES[self.variant]
            if read and given is None:
                raise ManifestError(f"{self.variant} reads {mode}, which the manifest leaves out; give it")
            if given is not None and not read:
                raise ManifestError(f"{self.variant} does not read {mode}, which is {given!r}; leave it out")

    def config_of(self, name: str, kind: type[Config]) -> Config:
        """Config of module `name`, or its defaults where the manifest doesn't list it."""
        for entry in (*self.objective, *self.diagnostics):
            if entry.name == name and isinstance(entry.config, kind):
                return entry.config
        return kind()

    def mask_weights(self) -> MaskWeights:
        """What fills the mask table: every module's mask keys, those of a module that is off or absent at defaults."""
        weights = {key: getattr(spec.config(), key) for spec in OBJECTIVE_MODULES.values() for key in spec.mask_keys}
        for entry in self.objective:
            spec = module_spec(entry.name, OBJECTIVE_MODULES, "objective")
            if entry.enabled or spec.masks_when_disabled:
                weights |= {key: getattr(entry.config, key) for key in spec.mask_keys}
        return MaskWeights(**weights)


def resolved_document(manifest: Manifest) -> dict[str, Any]:
    """The manifest in plain values, as run manifests hold it; raises `ManifestError` for NaN and infinity."""
    return {
        "objective": [_plain_entry(entry) for entry in manifest.objective],
        "diagnostics": [_plain_entry(entry) for entry in manifest.diagnostics],
        "extra": {"variant": manifest.variant} | _modes(manifest),
    }


def _modes(manifest: Manifest) -> dict[str, str]:
    """The modes by the dotted key that states them."""
    section = SECTIONS[manifest.variant]
    return {f"{section}.{mode}": getattr(manifest, mode) for mode in MODES[manifest.variant]}


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
    return {
        "name": entry.name,
        "enabled": entry.enabled,
        "weight": _finite(entry.weight, f"{entry.name}.weight"),
        "channels": [channel for channel in CHANNELS if channel in entry.channels],
        "config": _plain_config(type(entry.config), dataclasses.asdict(entry.config), f"{entry.name}.config"),
    }


def _plain_config(kind: type[ModuleConfig], values: Mapping[str, Any], where: str) -> dict[str, float | None]:
    whole = _whole(kind)
    return {key: _plain(value, f"{where}.{key}", key in whole) for key, value in values.items()}


def _plain(value: float | None, where: str, whole: bool) -> float | None:
    """A config's number; None where a key may be null."""
    if value is None:
        return None
    number = _finite(value, where)
    return int(value) if whole else number


def _finite(value: float, where: str) -> float:
    """A finite float, so that 1 and 1.0 are one objective, and −0.0 as 0.0."""
    if not math.isfinite(value):
        raise ManifestError(f"{where} is {value}: a number of a pipeline must be finite")
    return float(value) + 0.0


def _whole(kind: type[ModuleConfig]) -> frozenset[str]:
    """Keys of a config that hold whole numbers."""
    return frozenset(key for key, hint in get_type_hints(kind).items() if int in (hint, *get_args(hint)))


def parse_modules(entries: Sequence[Mapping[str, Any]], section: str, where: str) -> tuple[ModuleEntry, ...]:
    """Authored entries of `section` (objective or diagnostics) to resolved ones; `where` prefixes messages.

    Raises `ManifestError` for unknown or duplicate names, unknown keys, wrong types, and numbers out of range or not
    finite, with what is allowed (contracts `coordexp:config/pipeline.*` and `coordexp:losses/*`).
    """
    kind, known = ("objective", OBJECTIVE_MODULES) if section == "objective" else ("diagnostic", DIAGNOSTIC_MODULES)
    parsed: list[ModuleEntry] = []
    for index, authored in enumerate(entries):
        place = f"{where}.{section}[{index}]"
        _check(f"config/pipeline.{kind}", authored, place)
        entry: dict[str, Any] = {"enabled": True, "weight": 1.0, "channels": CHANNELS, "config": {}} | dict(authored)
        name = entry["name"]
        if any(name == other.name for other in parsed):
            raise ManifestError(f"{place}: module {name!r} is listed twice; list each module once")
        weight = _finite(entry["weight"], f"{place}.weight")
        config = parse_config(module_spec(name, known, section), entry["config"], f"{place}.config")
        channels = tuple(channel for channel in CHANNELS if channel in entry["channels"])
        parsed.append(ModuleEntry(name, config, entry["enabled"], weight, channels))
    return tuple(parsed)


def parse_config(spec: ModuleSpec, values: Mapping[str, Any], where: str) -> ModuleConfig:
    """The config of a registered module from authored keys, defaults for those left out; raises `ManifestError`."""
    _check(f"losses/{spec.name}", dict(values), where)
    return spec.config(**_plain_config(spec.config, values, where))


def _check(schema_id: str, value: object, where: str) -> None:
    try:
        check(schema_id, value)
    except ContractViolation as error:
        dotted = error.violation.dotted
        raise ManifestError(f"{where}{'.' if dotted else ''}{dotted}: {error.message}") from error
