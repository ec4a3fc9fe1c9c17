"""Writes docs/configuration.md from the schemas and the shipped profiles. Contract ids: CONFIG-019.

In: the contracts and a folder of configurations; out: Markdown. `python -m coordexp.config.document` rewrites the file.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coordexp.config.hierarchy import PINNED
from coordexp.config.loading import load_config
from coordexp.config.problems import render_path
from coordexp.config.rules import REQUIRED, Rule, build_rule

if TYPE_CHECKING:
    from collections.abc import Iterator

_INTRO = """# Configuration

Generated from `contracts/config/` by `python -m coordexp.config.document`; a test fails when it is out of date.

One loader serves training, the stage-2 launcher, the checks and the tests: `coordexp.config.load_config`. It reads
YAML (a key written twice is refused), follows `extends`, checks every key against its schema, runs the checks between
keys, and returns frozen dataclasses whose field names are the keys. All problems come at once, each as
`file:line: dotted.path[0]: what is wrong, what is allowed, what to do`. What can be used and does not mean what it
seems to is a line that begins with `warning:`; the configuration loads, and exit codes do not change.

    python -m coordexp.entrypoints.check_config FILE...             # a line a problem; exit 1 when there is one
    python -m coordexp.entrypoints.check_config FILE --resolved     # all values as JSON, which loads to an equal config
    python -m coordexp.entrypoints.check_config FILE --world-size 8 # batches divide over 8 ranks
    python -m coordexp.entrypoints.train --config FILE --dry-run    # folders, checkpoint, tokenizer and records too

What training refuses, these refuse first, in the same words: `check_config` what the file alone tells, the dry run what
this machine and these folders tell besides.

- `extends` is the path of a file relative to this one, or a list of them, applied in order. Mappings merge key by key;
  lists and scalars are replaced. `null` on an inherited key removes it, so its default holds again.
- Relative input paths are looked for beside the config file, then below the project's root; outputs go below the root.
  The caller's folder never matters. Environment variables and `~` are refused, not expanded.
- `custom.extra` is the only open bucket: it is kept in the resolved config, and no code reads it.
- `debug.enabled: true` lays its overrides on `training` and `custom` when the file is loaded.
- Trainers, launcher and evaluation read the section `rollout_matching` as it is: no second form of it exists.
- What a rollout server needs to start (device memory share, eager mode, parallel sizes, data type) belongs to its
  launcher, not to these files; the loader refuses such keys and says where they go.
- The objective of stage 2 has two forms: flat weights, or an authored `pipeline`. Both together are refused.
"""


def render_reference(root: Path) -> str:
    """The whole page; `root` is the project's root, whose `configs/` are listed."""
    parts = [_INTRO, _profiles_text(root), "## Keys\n"]
    rule = build_rule()
    for name, section in (rule.properties or {}).items():
        parts.append(_section_text(name, section))
    parts.append(_removed_text(rule))
    return "\n".join(parts)


def _profiles_text(root: Path) -> str:
    pinned = ", ".join(f"`{render_path(key)}`" for key in PINNED)
    rows = [
        "## Shipped configurations\n",
        "Two-channel profiles are `configs/stage2_two_channel/{prod,smoke}/*.yaml`, and nothing else is one. Each",
        "extends exactly `../base.yaml`, which extends nothing, and writes these keys itself:",
        f"{pinned}.",
        "A variant is a further profile in those folders; what belongs to no run yet stays out of them. In `smoke/` of",
        "either stage-2 folder, a name that ends in `hf` is a run on drawn shapes whose tiny model generates its",
        "rollouts itself, on a CPU; the other names are for a rollout server.\n",
        "| file | `training.run_name` | `training.output_dir` | `training.logging_dir` |",
        "| --- | --- | --- | --- |",
    ]
    for path in shipped_runs(root / "configs"):
        training = load_config(path).training
        name = path.relative_to(root)
        rows.append(f"| `{name}` | `{training.run_name}` | `{training.output_dir}` | `{training.logging_dir}` |")
    return "\n".join([*rows, ""])


def shipped_runs(configs: Path) -> list[Path]:
    """Every configuration that a run starts from: all YAML files but the bases, which others extend."""
    return [path for path in sorted(configs.rglob("*.yaml")) if not path.stem.endswith("base")]


def _section_text(name: str, rule: Rule) -> str:
    rows = [f"### `{name}`\n", rule.description, ""]
    if rule.properties is None:
        return "\n".join([*rows, f"{_kind(rule)}, {_default(rule)}\n"])
    keys = list(_keys(rule, f"{name}."))
    if keys:
        rows += ["| key | value | default | meaning |", "| --- | --- | --- | --- |"]
        rows += [f"| `{key}` | {_kind(inner)} | {_default(inner)} | {inner.description} |" for key, inner in keys]
        rows.append("")
    return "\n".join(rows)


def _keys(rule: Rule, prefix: str) -> Iterator[tuple[str, Rule]]:
    """All keys below a mapping, with dotted names; items of lists of mappings are written `[]`."""
    for key, inner in (rule.properties or {}).items():
        item = inner.items
        if inner.properties is not None:
            if inner.nullable:
                yield f"{prefix}{key}", inner
            yield from _keys(inner, f"{prefix}{key}.")
        elif item is not None and item.properties is not None:
            yield f"{prefix}{key}", inner
            yield from _keys(item, f"{prefix}{key}[].")
        else:
            yield f"{prefix}{key}", inner


def _kind(rule: Rule) -> str:
    if rule.enum is not None:
        return " \\| ".join(f"`{_yaml(value)}`" for value in rule.enum)
    text = " or ".join(rule.names).replace("object", "mapping").replace("array", "list")
    if rule.items is not None and rule.items.properties is None:
        text += f" of {_kind(rule.items)}"
    signs = {"minimum": "≥", "maximum": "≤", "exclusiveMinimum": ">", "exclusiveMaximum": "<"}
    return ", ".join([text, *(f"{signs[name]} {limit:.10g}" for name, limit in rule.bounds)])


def _default(rule: Rule) -> str:
    return "required" if rule.default is REQUIRED else f"`{_yaml(rule.default)}`"


def _yaml(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(_yaml(item) for item in value)}]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)


def _removed_text(rule: Rule) -> str:
    rows = ["## Removed and moved keys\n", "| was | now |", "| --- | --- |"]
    rows += [f"| `{key}` | {text} |" for key, text in removed_keys(rule)]
    return "\n".join([*rows, ""])


def removed_keys(rule: Rule, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Every removed key, and every removed value as `key: value`, with what to write instead."""
    for value, text in rule.removed_values.items():
        yield f"{prefix.removesuffix('.')}: {value}", text
    for key, text in rule.removed.items():
        yield f"{prefix}{key}", text
    for key, inner in (rule.properties or {}).items():
        yield from removed_keys(inner, f"{prefix}{key}.")
    if rule.items is not None and rule.items.properties is not None:
        yield from removed_keys(rule.items, f"{prefix.removesuffix('.')}[].")


def main() -> int:
    """Rewrite docs/configuration.md of this checkout."""
    root = Path(__file__).resolve().parents[2]
    (root / "docs" / "configuration.md").write_text(render_reference(root), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
