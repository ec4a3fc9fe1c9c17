"""Where text may become data: JSON, YAML and literals, and loaders that run what they load. POLICY-007, POLICY-011."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

from audit.policy.source import (
    Violation,
    calls,
    enclosing_functions,
    imported_module,
    known_names,
    resolved_name,
    text_of,
)

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
# Attributes that are parsers whatever they are of: the module may have come in by any way.
PARSER_ATTRIBUTES = {"loads", "scanstring", "raw_decode", "literal_eval", "safe_load", "JSONDecoder"}
PARSER_MODULES = {"json", "yaml", "tomllib", "msgspec"}
# What is in a module of that name besides parsers.
WRITERS = {"dump", "dumps", "encode", "Encoder", "JSONEncoder", "JSONDecodeError"}
# (path, function) -> what it reads; "" is the module. coordexp.coordjson alone parses assistant text, once transpiled.
JSON_READERS: dict[tuple[str, str], str] = {
    ("coordexp/spec/documents.py", "read_yaml"): "contract files",
    ("coordexp/spec/documents.py", "read_json"): "contract files and fixtures",
    ("coordexp/config/source.py", "read_source"): "configuration files, as YAML",
    ("coordexp/config/source.py", "_check_depth"): "configuration files, as YAML, before they are read",
    ("coordexp/data/rules.py", "find_problems"): "lines of a record file",
    ("coordexp/data/record_files.py", "_layout"): "the head of a record file whose first line is none",
    ("coordexp/data/wire.py", ""): "lines of a record file, fast",
    (
        "coordexp/data/annotation_text.py",
        "_parser_fault",
    ): "annotations that no decoder takes, for the place of the fault",
    ("coordexp/data/annotation_text.py", "decode_typed"): "annotations and results in COCO's form",
    ("coordexp/data/coco_keys.py", "_may_repeat"): "annotations in COCO's form, for keys that are written twice",
    ("coordexp/data/coco_keys.py", "_repeated_keys"): "a key of theirs, its escapes decoded",
    ("coordexp/data/coco_results.py", "check_no_annotations"): "a file in the place of results, to say what it is",
    ("coordexp/data/cooking_names.py", "load_category_map"): "a category map",
    ("coordexp/coordjson/scan.py", "unescape"): "the string literal of a desc with an escape, its grammar checked",
    ("coordexp/rollout/activation.py", "read_activation"): "limits of repeat_terminate in a server's environment",
    ("coordexp/rollout/wire.py", "_parsed"): "answers of rollout servers, in which assistant text is a string",
    ("coordexp/forward/coord_offset_files.py", "load_coord_offset"): "the description beside an adapter's weights",
    ("coordexp/artifacts/files.py", "read_json_lines"): "lines that a run or an evaluation wrote, answers as strings",
    ("coordexp/training/manifest.py", "write_manifest"): "the resolved configuration, for the run manifest",
    ("coordexp/training/log_check.py", "read_log"): "lines of a run's log",
    ("coordexp/training/server_launch.py", "read_server_launch"): "what the launcher says of the server it started",
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
    origins, owners = known_names(source), enclosing_functions(source.tree)
    owned = {id(node.value) for node in ast.walk(source.tree) if isinstance(node, ast.Attribute)}
    owned |= {id(node.args[0]) for node, name in calls(source.tree) if name == "getattr" and text_of(node.args[1])}
    found: dict[int, str] = {}
    for node in ast.walk(source.tree):
        if (source.path, owners.get(node, "")) in JSON_READERS:
            continue
        if isinstance(node, ast.Name | ast.Attribute | ast.Call | ast.Subscript):
            if name := parser_name(node, origins) or ("" if id(node) in owned else parser_module(node, origins)):
                found.setdefault(node.lineno, name)
        elif isinstance(node, ast.ImportFrom) and any(alias.name == "*" for alias in node.names):
            module = imported_module(node, source.path)
            if any(parser.startswith(f"{module}.") for parser in PARSERS):
                found.setdefault(node.lineno, f"{module}.*")
    for line, name in found.items():
        yield Violation(
            source.path,
            line,
            f"{name}: text is parsed only by JSON_READERS in audit/policy/parsers.py",
        )


def parser_name(node: ast.Name | ast.Attribute | ast.Call | ast.Subscript, origins: dict[str, str]) -> str:
    """The name of a parser that an expression stands for, "" for anything else."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in PARSER_METHODS:
        owner = resolved_name(node.func.value, origins)
        return f".{node.func.attr}()" if owner.split(".")[0] not in ("json", "msgspec") else ""
    if isinstance(node, ast.Attribute) and node.attr in PARSER_ATTRIBUTES:
        return f".{node.attr}"
    name = resolved_name(node, origins)
    parts = name.split(".")
    if parts[0] in PARSER_PACKAGES or any(name.endswith(f".{parser}") for parser in PARSERS):
        return name
    if parts[0] == "json" and len(parts) > 1 and not set(parts[1:]) & WRITERS:
        return name
    return name if name in PARSERS else ""


def parser_module(node: ast.Name | ast.Attribute | ast.Call | ast.Subscript, origins: dict[str, str]) -> str:
    """The name of a module of parsers that an expression hands on whole, "" for anything else."""
    if isinstance(node, ast.Name) and (node.id not in origins or isinstance(node.ctx, ast.Store)):
        return ""
    name = resolved_name(node, origins)
    known = name.split(".")[0] in {origin.split(".")[0] for origin in origins.values()}
    return f"{name} as a whole" if known and name.rpartition(".")[2] in PARSER_MODULES else ""


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
