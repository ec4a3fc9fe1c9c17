"""Turns a checked plain value into the frozen sections, and a configuration back into text. Contract ids: CONFIG-006.

In: a mapping that its rule accepts; out: a dataclass. `render_resolved` writes JSON that loads to an equal `Config`.
"""

from __future__ import annotations

import dataclasses
import json
import re
import types
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from coordexp.config.rules import Rule, build_rule
from coordexp.config.types import Config, Sources

T = TypeVar("T")
Convert = Callable[[Any], Any]
# YAML takes these for line breaks or refuses them, where JSON allows them bare.
_NOT_BARE = re.compile("[\x7f-\xa0\u2028\u2029\ufeff\ufffe\uffff]")


def build_config(values: Mapping[str, Any], sources: Sources) -> Config:
    """The typed configuration of checked values; keys left out take the defaults."""
    return Config(**_arguments(Config, values), sources=sources)


def build_section(cls: type[T], values: Mapping[str, Any]) -> T:
    """One section (or any part of one) of checked values."""
    return cls(**_arguments(cls, values))


def _arguments(cls: type, values: Mapping[str, Any]) -> dict[str, Any]:
    converts = _converts(cls)
    return {key: value if (convert := converts[key]) is None else convert(value) for key, value in values.items()}


@lru_cache(maxsize=128)
def _converts(cls: type) -> dict[str, Convert | None]:
    return {name: _convert(hint) for name, hint in get_type_hints(cls).items()}


def _convert(hint: Any) -> Convert | None:
    """How a plain value becomes what `hint` says; None when it is that already."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        inner = _convert(next(part for part in arguments if part is not type(None)))
        return None if inner is None else _unless_null(inner)
    if hint is float:
        return float
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return lambda value: build_section(hint, value)
    if origin is tuple:
        inner = _convert(arguments[0])
        return tuple if inner is None else _each(inner)
    return None


def _unless_null(convert: Convert) -> Convert:
    return lambda value: None if value is None else convert(value)


def _each(convert: Convert) -> Convert:
    return lambda value: tuple(convert(item) for item in value)


def plain_values(config: Config) -> dict[str, Any]:
    """The configuration as dicts, lists and scalars, defaults written out.

    Flat weights are left out when a pipeline is authored: nothing reads them then, and both together are refused.
    """
    result = {f.name: _plain(getattr(config, f.name)) for f in dataclasses.fields(Config) if f.name != "sources"}
    two_channel = result["stage2_ab"]
    rollout = result["rollout_matching"]
    if two_channel is not None and two_channel["pipeline"] is not None:
        _drop_flat(two_channel, build_rule("coordexp:config/stage2_ab"))
        del result["custom"]["coord_soft_ce_w1"]
    elif rollout is not None and rollout["pipeline"] is not None:
        del result["custom"]["coord_soft_ce_w1"]
    return result


def _drop_flat(section: dict[str, Any], rule: Rule) -> None:
    assert rule.properties is not None
    for key, inner in rule.properties.items():
        if inner.moves_to is not None:
            del section[key]
        elif inner.properties is not None and isinstance(section[key], dict):
            _drop_flat(section[key], inner)


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return value


def render_resolved(config: Config) -> str:
    """JSON of all values, defaults included, in an order that never changes; `load_config` reads it to an equal one."""
    return _render(plain_values(config), "") + "\n"


def render_identity(config: Config) -> str:
    """One line that tells a run from others: what it is called, where it writes, which trainer it runs."""
    training = config.training
    return (
        f"OK run_name={training.run_name} output_dir={training.output_dir} logging_dir={training.logging_dir} "
        f"trainer_variant={config.custom.trainer_variant}"
    )


def _render(value: Any, indent: str) -> str:
    """JSON that YAML 1.1 reads alike: floats have a point, odd characters are escaped."""
    deeper = indent + "  "
    if isinstance(value, dict) and value:
        rows = [f"{deeper}{_text(str(key))}: {_render(item, deeper)}" for key, item in value.items()]
        return "{\n" + ",\n".join(rows) + f"\n{indent}}}"
    if isinstance(value, list) and value:
        return "[" + ", ".join(_render(item, deeper) for item in value) + "]"
    if isinstance(value, str):
        return _text(value)
    text = json.dumps(value, allow_nan=False)
    if isinstance(value, float) and "e" in text and "." not in text:
        return text.replace("e", ".0e")
    return text


def _text(value: str) -> str:
    return _NOT_BARE.sub(lambda match: f"\\u{ord(match[0]):04x}", json.dumps(value, ensure_ascii=False))
