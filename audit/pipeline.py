"""The one-page pipeline map and the entry points under audit: in, contracts/architecture/pipeline.yaml; out, Markdown.

Owners, types and config keys must exist, and both sides of a boundary must import the type they hand over. SPEC-014.
"""

from __future__ import annotations

import argparse
import ast
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from audit.symbols import UnknownSymbolError, find_symbol, module_path, parse_source
from coordexp.config import ConfigError, load_config
from coordexp.spec import check, contract_path, contracts_root, read_schema, read_yaml

_FILE = Path("architecture") / "pipeline.yaml"


@dataclass(frozen=True, slots=True)
class EntryPoint:
    """An audited entry point with the three values that say where its results go."""

    name: str
    start: str
    config: str
    run_name: str
    output_dir: str
    logging_dir: str
    note: str


def load_pipeline() -> dict[str, Any] | None:
    """The declared pipeline, or None where a tree declares none."""
    if not (contracts_root() / _FILE).is_file():
        return None
    return check("pipeline", read_yaml(contract_path(_FILE)))


def pipeline_problems(pipeline: Mapping[str, Any], root: Path) -> list[str]:
    """What the declaration says and the code does not bear out."""
    owners = {stage["name"]: stage["owners"] for stage in pipeline["stages"]}
    problems = [*_unknown_owners(owners, root), *_unknown_keys(pipeline), *_unowned_packages(pipeline, owners, root)]
    for boundary in pipeline["boundaries"]:
        problems += _boundary_problems(boundary, owners, root)
    for entry in pipeline["entrypoints"]:
        missing = [name for name in (entry.get("script"), entry["config"]) if name and not (root / name).is_file()]
        problems += [f"entry point {entry['name']}: {name} does not exist" for name in missing]
    return [*problems, *_unaudited_configs(pipeline, root)]


def resolve_entrypoints(pipeline: Mapping[str, Any], root: Path) -> tuple[list[EntryPoint], list[str]]:
    """The entry points with their resolved names and folders, and a text for each config that does not load."""
    found, problems = [], []
    for entry in pipeline["entrypoints"]:
        try:
            training = load_config(root / entry["config"]).training
        except ConfigError as error:
            reason = str(error).splitlines()[0]
            problems.append(f"entry point {entry['name']}: {entry['config']} does not load: {reason}")
            continue
        start = f"config={entry['config']} bash {entry['script']}" if "script" in entry else ""
        found.append(
            EntryPoint(
                name=entry["name"],
                start=start,
                config=entry["config"],
                run_name=str(training.run_name),
                output_dir=str(training.output_dir),
                logging_dir=str(training.logging_dir),
                note=entry["note"],
            )
        )
    return found, problems


def render_pipeline(pipeline: Mapping[str, Any], entrypoints: list[EntryPoint], root: Path) -> str:
    """One page of Markdown: steps with owner files and config keys, what is handed on, the entry points."""
    lines = ["## Pipeline map", "", *_header("step", "what it does", "owners", "config keys", "writes")]
    for stage in pipeline["stages"]:
        files = "<br>".join(f"`{_file_of(owner, root)}`" for owner in stage["owners"])
        keys = "<br>".join(f"`{key}`" for key in stage["config"])
        lines.append(_row(stage["name"], stage["does"], files, keys, "<br>".join(stage["writes"])))
    lines += ["", *_header("from", "to", "hands on")]
    lines += [_row(row["from"], row["to"], f"`{row['type']}`") for row in pipeline["boundaries"]]
    lines += ["", "Outside the steps:", ""]
    lines += [f"- `coordexp/{name}/`: {reason}" for name, reason in pipeline["ground"].items()]
    lines += ["", "## Entry points under audit", ""]
    lines += _header("entry point", "started by", "run_name", "output_dir", "logging_dir", "note")
    for entry in entrypoints:
        start = f"`{entry.start}`" if entry.start else f"(`{entry.config}`)"
        values = (f"`{value}`" for value in (entry.run_name, entry.output_dir, entry.logging_dir))
        lines.append(_row(entry.name, start, *values, entry.note))
    return "\n".join(lines) + "\n"


def render_page(pipeline: Mapping[str, Any], entrypoints: list[EntryPoint], root: Path) -> str:
    """The map as a document of its own, `docs/pipeline.md`."""
    head = f"# Pipeline\n\nWritten by `python -m audit.pipeline` from `contracts/{_FILE.as_posix()}`.\n\n"
    return head + render_pipeline(pipeline, entrypoints, root)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the page; return 1, with the reasons, when the code does not bear the declaration out."""
    parser = argparse.ArgumentParser(prog="python -m audit.pipeline", description="Write docs/pipeline.md.")
    parser.add_argument("--output", type=Path, default=Path("docs") / "pipeline.md", metavar="FILE")
    options = parser.parse_args(arguments)
    root = Path.cwd()
    pipeline = load_pipeline()
    if pipeline is None:
        sys.stderr.write(f"audit.pipeline: no {_FILE} under {contracts_root()}\n")
        return 2
    entrypoints, problems = resolve_entrypoints(pipeline, root)
    problems += pipeline_problems(pipeline, root)
    if problems:
        sys.stderr.write("".join(f"audit.pipeline: {problem}\n" for problem in problems))
        return 1
    options.output.write_text(render_page(pipeline, entrypoints, root), encoding="utf-8")
    return 0


def _header(*names: str) -> list[str]:
    return [_row(*names), _row(*["---"] * len(names))]


def _row(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"


def _file_of(module: str, root: Path) -> str:
    path = module_path(root, module)
    return path.relative_to(root).as_posix() if path else f"{module} (missing)"


def _unknown_owners(owners: Mapping[str, list[str]], root: Path) -> Iterator[str]:
    for stage, modules in owners.items():
        for module in modules:
            if module_path(root, module) is None:
                yield f"step {stage}: no module {module}"


def _unknown_keys(pipeline: Mapping[str, Any]) -> Iterator[str]:
    for stage in pipeline["stages"]:
        for key in stage["config"]:
            if not _has_key(read_schema("config"), key.split(".")):
                yield f"step {stage['name']}: no config key {key}"


def _has_key(schema: Mapping[str, Any], parts: list[str]) -> bool:
    """Whether the schema, through references and unions, declares the dotted key."""
    if not parts:
        return True
    if "$ref" in schema:
        return _has_key(read_schema(schema["$ref"]), parts)
    if any(_has_key(branch, parts) for keyword in ("anyOf", "oneOf", "allOf") for branch in schema.get(keyword, ())):
        return True
    inner = schema.get("properties", {}).get(parts[0])
    return inner is not None and _has_key(inner, parts[1:])


def _unowned_packages(pipeline: Mapping[str, Any], owners: Mapping[str, list[str]], root: Path) -> Iterator[str]:
    owned = {module.split(".")[1] for modules in owners.values() for module in modules} | set(pipeline["ground"])
    for package in sorted(path.parent for path in (root / "coordexp").glob("*/__init__.py")):
        if package.name not in owned and any(path.name != "__init__.py" for path in package.rglob("*.py")):
            yield f"package coordexp.{package.name} belongs to no step; name its owners in {_FILE}"


def _unaudited_configs(pipeline: Mapping[str, Any], root: Path) -> Iterator[str]:
    """A configuration that can be run (a base cannot) and that no entry point names."""
    audited = {entry["config"] for entry in pipeline["entrypoints"]}
    for path in sorted((root / "configs").rglob("*.yaml")):
        name = path.relative_to(root).as_posix()
        if name not in audited and not path.stem.endswith("base"):
            yield f"{name} is under no entry point of {_FILE}"


def _boundary_problems(boundary: Mapping[str, str], owners: Mapping[str, list[str]], root: Path) -> Iterator[str]:
    label = f"boundary {boundary['from']} -> {boundary['to']}"
    try:
        find_symbol(root, boundary["type"])
    except UnknownSymbolError as error:
        yield f"{label}: {error}"
        return
    module, _, name = boundary["type"].partition(":")
    for side in (boundary["from"], boundary["to"]):
        if side not in owners:
            yield f"{label}: no step {side}"
        elif not any(_knows(root, owner, module, name) for owner in owners[side]):
            yield f"{label}: no owner of {side} imports {boundary['type']}"


def _knows(root: Path, owner: str, module: str, name: str) -> bool:
    """Whether the owner is the type's module, or imports the type from it or from the package that hands it out."""
    path = module_path(root, owner)
    if owner == module or path is None:
        return owner == module
    sources = (module, module.rsplit(".", 1)[0])
    for node in ast.walk(parse_source(path)[1]):
        if isinstance(node, ast.ImportFrom) and node.module in sources and name in {alias.name for alias in node.names}:
            return True
    return False


if __name__ == "__main__":
    sys.exit(main())
