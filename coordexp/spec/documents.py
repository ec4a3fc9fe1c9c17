"""Reads YAML and JSON files of the contracts strictly: a duplicate key is an error that names file and line."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import yaml

from coordexp.spec.types import ContractFileError

if TYPE_CHECKING:
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


def read_json(path: Path) -> Any:
    """Content of a JSON file. Raises `ContractFileError` for bad syntax and duplicate keys."""

    def refuse_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        mapping = dict(pairs)
        if len(mapping) < len(pairs):
            keys = [key for key, _ in pairs]
            twice = sorted({key for key in keys if keys.count(key) > 1})
            raise ContractFileError(f"{path}: duplicate key {', '.join(map(repr, twice))}")
        return mapping

    try:
        return json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=refuse_duplicates)
    except json.JSONDecodeError as error:
        raise ContractFileError(f"{path}:{error.lineno}: {error.msg}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ContractFileError(f"{path}: {error}") from error
