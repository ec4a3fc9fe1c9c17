"""What differs between two runs, and whether it can change their results. Contract ids: ART-080.

In: two run manifests (`coordexp:run-manifest`). Out: one `Difference` for each value that is not the same, in reading
order; those that only say when, where and under which name a run was made are told apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

ABSENT = "(absent)"
WITHOUT_EFFECT = (
    # When and where, by whom; the content of each file stands beside its path as a digest.
    "schema_version",
    "created_at",
    "command[[]*",
    "*.path",
    "config.sources[[]*",
    "source.version",
    # The commit is told by what it holds: contracts and code differ under other keys where they matter.
    # Names and places of the outputs, and how often something is written.
    "config.resolved.training.output_dir",
    "config.resolved.training.logging_dir",
    "config.resolved.training.run_name",
    "config.resolved.training.add_version",
    "config.resolved.training.report_to*",
    "config.resolved.training.logging_*",
    "config.resolved.training.save_*",
    "config.resolved.custom.*_jsonl",
    "config.resolved.custom.image_root",
    "config.resolved.debug.*",
    "config.resolved.rollout_matching.monitor_dump.*",
    "config.resolved.rollout_matching.vllm.server.debug_dump.*",
    # A server's address and process, and how long calls may take.
    "*base_url",
    "*group_port",
    "*.pid",
    "*timeout_s",
    # Cooking's own account of the data: the records' digest decides.
    "data.*.cook_manifest.*",
    "data.*.image_root",
    # The same facts, said again as a list to follow.
    "reproducibility.*",
)
"""Keys of a run manifest that change no number of a run, as shell patterns."""


@dataclass(frozen=True, slots=True)
class Difference:
    """One key of the manifests with the value of each; `matters` says whether it could change results."""

    key: str
    first: Any
    second: Any
    matters: bool

    def as_json(self) -> dict[str, Any]:
        """As in comparison.json."""
        return {"key": self.key, "first": self.first, "second": self.second, "matters": self.matters}


def find_differences(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[Difference]:
    """Every value that differs between two manifests; lists are compared item by item, absent keys are `ABSENT`."""
    left, right = dict(_flat(first)), dict(_flat(second))
    keys = list(dict.fromkeys([*left, *right]))
    return [
        Difference(key, left.get(key, ABSENT), right.get(key, ABSENT), not _is_without_effect(key))
        for key in keys
        if left.get(key, ABSENT) != right.get(key, ABSENT)
    ]


def _is_without_effect(key: str) -> bool:
    return any(fnmatchcase(key, pattern) for pattern in WITHOUT_EFFECT)


def _flat(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Leaves with dotted keys and list indices; an empty list or object is a leaf."""
    if isinstance(value, dict) and value:
        for name, part in value.items():
            yield from _flat(part, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list) and value:
        for index, part in enumerate(value):
            yield from _flat(part, f"{key}[{index}]")
    else:
        yield key, value
