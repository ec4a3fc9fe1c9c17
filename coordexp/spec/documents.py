"""Reads YAML and JSON files of the contracts strictly: a duplicate key is an error that names file and line."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, Any

import yaml

from coordexp.spec.types import ContractFileError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_BASE: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _StrictLoader(_BASE):  # type: ignore[misc]
    """YAML loader that refuses a mapping with the same key twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"duplicate key {key!r}", key_node.start_mark)
            seen.add(key)
        mapping: dict[Any, Any] = super().construct_mapping(node, deep)
        return mapping


def read_yaml(path: Path) -> Any:
    """Content of a YAML file. Raises `ContractFileError` with file:line for bad syntax and duplicate keys."""
    try:
        return yaml.load(path.read_text(encoding="utf-8"), Loader=_StrictLoader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ContractFileError(f"{path}:{line}: {error.problem}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ContractFileError(f"{path}: {error}") from error


class RepeatedKeyError(ValueError):
    """A JSON object that names keys twice, of which a decoder drops all but the last without a word.

    `keys` are those, in the order of their first appearance.
    """

    def __init__(self, keys: Sequence[str]) -> None:
        self.keys = tuple(keys)
        super().__init__(f"duplicate key {', '.join(map(repr, sorted(self.keys)))}")


def unique_pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An `object_pairs_hook` of `json.loads` that raises `RepeatedKeyError`."""
    mapping = dict(pairs)
    if len(mapping) < len(pairs):
        raise RepeatedKeyError([key for key, count in Counter(key for key, _ in pairs).items() if count > 1])
    return mapping


def read_json(path: Path) -> Any:
    """Content of a JSON file. Raises `ContractFileError` for bad syntax and duplicate keys."""
    try:
        return json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=unique_pairs)
    except RepeatedKeyError as error:
        raise ContractFileError(f"{path}: {error}") from error
    except json.JSONDecodeError as error:
        raise ContractFileError(f"{path}:{error.lineno}: {error.msg}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ContractFileError(f"{path}: {error}") from error
