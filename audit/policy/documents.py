"""Whether documents tell the truth: every path, module, command, key, metric and link they name exists. POLICY-015.

Markdown text and a checkout in, violations out. What is read: fenced and indented code, `spans`, relative links, ids.
"""

from __future__ import annotations

import ast
import configparser
import importlib.util
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from audit.policy.boundaries import flags
from audit.policy.mentions import MIGRATION, wrong_examples, wrong_ids, wrong_keys, wrong_metrics
from audit.policy.rules import declared_flags, documented_variables
from audit.policy.source import Violation, parse_source
from audit.policy.words import Vocabulary, read_vocabulary, unknown_words

if TYPE_CHECKING:
    from collections.abc import Iterator

FOLDERS = (
    "coordexp", "contracts", "fixtures", "tests", "configs", "scripts", "docs", "audit", "benchmarks", "requirements",
    ".ci",
)  # fmt: skip
OWN = ("coordexp", "audit", "benchmarks", "scripts", "tests")
FENCE = re.compile(r"^(```|~~~)")
SPAN = re.compile(r"`([^`]+)`")
# Markdown's links, its reference links, HTML's: each with a target and an anchor, either of which may be empty.
LINK = re.compile(
    r"\]\(<?([^)>#:\s]*)(?:#([^)>\s]*))?>?(?: [^)]*)?\)"
    r"|^\[[^\]]+\]: *([^#:\s]*)(?:#(\S*))?$"
    r"|(?:href|src)=\"([^#:\"]*)(?:#([^\"]*))?\""
)
HEADING = re.compile(r"^#{1,6} +(.*?) *#*$", re.MULTILINE)
ANCHOR = re.compile(r"(?:id|name)=\"([^\"]+)\"")
PATH = re.compile(rf"(?<![\w./-])(?:\./)?((?:{'|'.join(re.escape(f) for f in FOLDERS)})/[\w./*<>{{}},-]*)")
MODULE = re.compile(r"(?<![\w./-])((?:coordexp|audit|benchmarks)(?:\.\w+)+)(?::([\w.]+))?")
RUN = re.compile(r"python(?:3[.\d]*)? -m ([a-zA-Z_][\w.]*)([^\n|;&`]*)")
TOX = re.compile(r"(?<![\w./-])tox((?: [\w=,.-]+)+)")
ENVIRONMENTS = re.compile(r"(?:^| )(?:-\w*e|--env)[ =]?([\w,-]+)")
NODE = re.compile(r"(?<![\w./-])(tests/[\w./-]+\.py)((?:::\w+)+)")
SCRIPT = re.compile(r"(?<![\w./-])(?:bash |sh |\./)(scripts/[\w.-]+)([^\n|;&`]*)")
MARK = re.compile(r"pytest [^\n]*?-m [\"']?(?:not )?(\w+)")
VARIABLE = re.compile(r"\b(COORDEXP_[A-Z_]+|ROOT_IMAGE_DIR)\b")
OPTION = re.compile(r"(?<!\S)(--?[a-z][a-z-]*)")


@dataclass(frozen=True, slots=True)
class Checkout:
    """What documents may name."""

    root: Path
    variables: frozenset[str]
    environments: frozenset[str]
    markers: frozenset[str]
    flags: dict[str, frozenset[str]]
    vocabulary: Vocabulary


def read_checkout(root: Path) -> Checkout:
    """The names that exist, from the contracts, tox.ini and pyproject.toml of a checkout."""
    parser = configparser.ConfigParser(interpolation=None)
    parser.read(root / "tox.ini")
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    markers = project["tool"]["pytest"]["ini_options"]["markers"]
    return Checkout(
        root=root,
        variables=documented_variables(),
        environments=frozenset(name.removeprefix("testenv:") for name in parser.sections()),
        markers=frozenset(re.split(r"[(:]", marker)[0] for marker in markers),
        flags=declared_flags(),
        vocabulary=read_vocabulary(root),
    )


def code_pieces(text: str) -> Iterator[tuple[int, str]]:
    """Line number and text of every fenced or indented line of code, and of every code span outside those."""
    fenced = False
    for number, line in enumerate(text.splitlines(), start=1):
        if FENCE.match(line.strip()):
            fenced = not fenced
        elif fenced or line.startswith("    "):
            yield number, line
        else:
            yield from ((number, span) for span in SPAN.findall(line))


def module_path(root: Path, dotted: str) -> Path | None:
    """The file of a module or package, or None."""
    base = root.joinpath(*dotted.split("."))
    for file in (base.with_suffix(".py"), base / "__init__.py"):
        if file.is_file():
            return file
    return base if base.is_dir() and any(base.glob("*.py")) else None


def has_symbol(file: Path, symbol: str) -> bool:
    """Whether a module file defines or imports the first part of a dotted symbol."""
    if file.is_dir():
        return False
    first = symbol.split(".")[0]
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and node.name == first:
            return True
        if isinstance(node, ast.alias) and (node.asname or node.name) == first:
            return True
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and node.id == first:
            return True
    return False


def names_something(root: Path, dotted: str, symbol: str) -> bool:
    """Whether `a.b.c` (or `a.b:symbol`) is a module, or a symbol of the module before its last part."""
    file = module_path(root, dotted)
    if file is not None:
        return not symbol or has_symbol(file, symbol)
    parent, _, last = dotted.rpartition(".")
    owner = module_path(root, parent) if parent else None
    return owner is not None and has_symbol(owner, last)


def path_exists(root: Path, written: str) -> bool:
    """Whether a path exists; `<name>` and `*` stand for anything, `{a,b}` for each of its parts."""
    braces = re.search(r"\{([^{}]*)\}", written)
    if braces:
        parts = braces.group(1).split(",")
        return all(path_exists(root, written.replace(braces.group(), part.strip(), 1)) for part in parts)
    pattern = re.sub(r"<[^>]*>", "*", written).rstrip("/.,")
    if "*" in pattern:
        return next(root.glob(pattern), None) is not None
    return (root / pattern).exists()


def broken_names(checkout: Checkout, code: str) -> Iterator[str]:
    """What one piece of code names that does not exist."""
    for written in PATH.findall(code):
        if not path_exists(checkout.root, written):
            yield f"{written} does not exist"
    for dotted, symbol in MODULE.findall(code):
        if not names_something(checkout.root, dotted, symbol):
            yield f"{dotted}{':' + symbol if symbol else ''} does not exist"
    yield from broken_commands(checkout, code)
    for name in VARIABLE.findall(code):
        if name not in checkout.variables:
            yield f"{name} is not in contracts/cli/environment.yaml"


def broken_commands(checkout: Checkout, code: str) -> Iterator[str]:
    """What is wrong with the commands of one piece of code: modules, options, tox environments, tests, markers."""
    for dotted, rest in RUN.findall(code):
        yield from broken_command(checkout, dotted, rest)
    for file, rest in SCRIPT.findall(code):
        yield from broken_script(checkout, file, rest)
    for arguments in TOX.findall(code):
        names = [name for listed in ENVIRONMENTS.findall(arguments) for name in listed.split(",")]
        yield from (f"tox has no environment {name}" for name in names if name not in checkout.environments)
    for file, symbols in NODE.findall(code):
        last = symbols.rpartition("::")[2]
        if (checkout.root / file).is_file() and not has_symbol(checkout.root / file, last):
            yield f"{file} has no {last}"
    yield from (f"pytest has no marker {name}" for name in MARK.findall(code) if name not in checkout.markers)


def broken_command(checkout: Checkout, dotted: str, rest: str) -> Iterator[str]:
    """What is wrong with `python -m dotted rest`: a package that cannot be run, or an option it does not take."""
    if dotted.split(".")[0] not in OWN:
        if importlib.util.find_spec(dotted.split(".")[0]) is None:
            yield f"{dotted}: no such module is installed"
        return
    file = module_path(checkout.root, dotted)
    if file is not None and file.name == "__init__.py":
        file = file.with_name("__main__.py")
        if not file.exists():
            yield f"{dotted} cannot be run: it has no __main__"
    if file is None or not file.is_file():
        return
    shown = file.relative_to(checkout.root).as_posix()
    if dotted.startswith("coordexp.entrypoints."):
        known = set(checkout.flags[shown]) if shown in checkout.flags else set()
    else:
        known = {flag for _, flag in flags(parse_source(shown, file.read_text(encoding="utf-8")))}
    known |= {"--help", "-h"}
    yield from (f"{dotted} takes no {option}" for option in OPTION.findall(rest) if option not in known)


def broken_script(checkout: Checkout, file: str, rest: str) -> Iterator[str]:
    """Options for a script that hands none on and names none."""
    path = checkout.root / file
    text = path.read_text(encoding="utf-8") if path.is_file() else "$@"
    yield from (f"{file} takes no {o}" for o in OPTION.findall(rest) if "$@" not in text and o not in text)


def broken_links(path: Path, text: str) -> Iterator[tuple[int, str]]:
    """Relative links that lead nowhere, to a file or to a heading; Markdown's, reference links, and HTML's."""
    for number, line in enumerate(text.splitlines(), start=1):
        for groups in LINK.findall(SPAN.sub("", line)):
            target = next((part for part in groups[::2] if part), "")
            anchor = next((part for part in groups[1::2] if part), "")
            file = path.parent / target if target else path
            if not file.exists():
                yield number, f"the link {target} leads nowhere"
            elif anchor and file.suffix == ".md":
                words = text if file == path else file.read_text(encoding="utf-8")
                if anchor not in anchors(words):
                    yield number, f"the link {target}#{anchor} leads to no heading"


def anchors(text: str) -> set[str]:
    """The anchors of a Markdown text, as GitHub makes them out of its headings, and those that it writes itself."""
    plain = [re.sub(r"[`*]|\[([^\]]*)\]\([^)]*\)", r"\1", heading) for heading in HEADING.findall(text)]
    made = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in plain}
    return made | set(ANCHOR.findall(text))


def drift(checkout: Checkout, path: Path, text: str) -> list[Violation]:
    """Everything a document names that does not exist."""
    shown = path.relative_to(checkout.root).as_posix()
    found = [*broken_links(path, text), *wrong_examples(text), *wrong_ids(text)]
    for line, code in code_pieces(text):
        complaints = [*broken_names(checkout, code), *wrong_keys(code, shown), *wrong_metrics(code)]
        # A word is complained about where nothing more exact was.
        if not complaints and line not in {known for known, _ in found}:
            complaints += unknown_words(checkout.vocabulary, code, migration=shown == MIGRATION)
        found += [(line, message) for message in complaints]
    return sorted({Violation(shown, line, message) for line, message in found})


def documents(root: Path) -> list[Path]:
    """The Markdown files of a checkout that people read: at its root, in docs/ and beside the fixtures."""
    return sorted({*root.glob("*.md"), *(root / "docs").rglob("*.md"), *(root / "fixtures").rglob("*.md")})
