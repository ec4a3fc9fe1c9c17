"""Where text may become data: JSON, YAML and literals, and loaders that run what they load. POLICY-007, POLICY-011."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

from audit.policy.source import Violation, imported_module, known_names, resolved_name

if TYPE_CHECKING:
    from collections.abc import Iterator

    from audit.policy.source import SourceFile

PARSERS = {
    "json.load", "json.loads", "json.JSONDecoder", "json.decoder.JSONDecoder", "ast.literal_eval", "tomllib.load",
    "tomllib.loads", "pandas.read_json", "polars.read_json", "pydantic_core.from_json", "yaml.load", "yaml.load_all",
    "yaml.safe_load", "yaml.safe_load_all", "yaml.full_load", "yaml.full_load_all", "yaml.compose", "yaml.compose_all",
    "yaml.parse", "yaml.scan", "msgspec.json.decode", "msgspec.json.Decoder", "msgspec.yaml.decode",
    "msgspec.toml.decode",
}  # fmt: skip
PARSER_PACKAGES = {
    "orjson", "ujson", "simplejson", "json_repair", "json5", "ijson", "demjson", "demjson3", "rapidjson", "hjson",
    "simdjson", "pysimdjson", "jsonlines", "ruamel", "toml", "tomli", "partial_json_parser", "dirtyjson", "pyjson5",
}  # fmt: skip
PARSER_METHODS = {"json", "validate_json", "model_validate_json", "parse_raw", "raw_decode", "read_json"}
# path -> what it reads. Assistant text is parsed by coordexp.coordjson alone, after it is transpiled to strict JSON.
JSON_READERS: dict[str, str] = {
    "coordexp/spec/documents.py": "contract files and fixtures",
    "coordexp/config/source.py": "configuration files, as YAML",
    "coordexp/data/rules.py": "lines of a record file",
    "coordexp/data/wire.py": "lines of a record file, fast",
    "coordexp/data/coco.py": "annotations in COCO's form",
    "coordexp/coordjson/scan.py": "the string literal of a desc that holds an escape, once its grammar is checked",
    "coordexp/forward/coord_offset_files.py": "the description beside an adapter's weights",
    "coordexp/training/manifest.py": "the resolved configuration, on its way into the run manifest",
}
UNSAFE_CALLS = {
    "yaml.unsafe_load", "yaml.unsafe_load_all", "yaml.full_load", "yaml.full_load_all", "pickle.load", "pickle.loads",
    "pickle.Unpickler", "marshal.loads", "marshal.load", "dill.load", "dill.loads", "cloudpickle.load",
    "cloudpickle.loads", "joblib.load", "shelve.open", "eval", "exec", "builtins.eval", "builtins.exec", "os.system",
    "os.popen",
}  # fmt: skip
UNSAFE_YAML = {
    "yaml.Loader",
    "yaml.UnsafeLoader",
    "yaml.FullLoader",
    "yaml.CLoader",
    "yaml.CUnsafeLoader",
    "yaml.CFullLoader",
}
UNSAFE_OPTIONS = ("allow_pickle", "shell", "trust_remote_code")


def json_outside_boundary(source: SourceFile) -> Iterator[Violation]:
    """Text parsed as JSON, YAML, TOML or a Python literal outside JSON_READERS, however the parser is reached."""
    if source.path in JSON_READERS:
        return
    origins = known_names(source)
    found: dict[int, str] = {}
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Name | ast.Attribute | ast.Call | ast.Subscript) and (
            name := parser_name(node, origins)
        ):
            found.setdefault(node.lineno, name)
        elif isinstance(node, ast.ImportFrom) and any(alias.name == "*" for alias in node.names):
            module = imported_module(node, source.path)
            if any(parser.startswith(f"{module}.") for parser in PARSERS):
                found.setdefault(node.lineno, f"{module}.*")
    for line, name in found.items():
        yield Violation(
            source.path, line, f"{name}: text is parsed only in the modules of JSON_READERS in audit/policy/parsers.py"
        )


def parser_name(node: ast.Name | ast.Attribute | ast.Call | ast.Subscript, origins: dict[str, str]) -> str:
    """The name of a parser that an expression stands for, "" for anything else."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in PARSER_METHODS:
        owner = resolved_name(node.func.value, origins)
        return f".{node.func.attr}()" if owner.split(".")[0] not in ("json", "msgspec") else ""
    name = resolved_name(node, origins)
    return name if name in PARSERS or name.split(".")[0] in PARSER_PACKAGES else ""


def unsafe_loaders(source: SourceFile) -> Iterator[Violation]:
    """Loaders that run code from what they load, and yaml.load or torch.load without a safe setting."""
    origins = known_names(source)
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Attribute | ast.Name) and resolved_name(node, origins) in UNSAFE_YAML:
            yield Violation(source.path, node.lineno, "an unsafe YAML loader: use a SafeLoader")
        if not isinstance(node, ast.Call):
            continue
        name = resolved_name(node.func, origins)
        if name in UNSAFE_CALLS or (name == "yaml.load" and not has_loader(node)):
            yield Violation(source.path, node.lineno, f"{name} can run what it reads: use a safe loader")
        if name == "torch.load" and not is_set(node, "weights_only"):
            yield Violation(source.path, node.lineno, "torch.load without weights_only=True can run what it reads")
        for option in UNSAFE_OPTIONS:
            if is_set(node, option):
                yield Violation(source.path, node.lineno, f"{option}=True can run what is read: leave it off")


def has_loader(call: ast.Call) -> bool:
    """Whether a yaml.load call names its loader."""
    return len(call.args) > 1 or any(keyword.arg == "Loader" for keyword in call.keywords)


def is_set(call: ast.Call, option: str) -> bool:
    """Whether a call passes option=True."""
    values = [keyword.value for keyword in call.keywords if keyword.arg == option]
    return any(isinstance(value, ast.Constant) and value.value is True for value in values)
