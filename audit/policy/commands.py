"""Commands that documents show, and whether they can be given in a checkout. POLICY-015.

A piece of code in; complaints about modules, options, tox environments, tests, markers and variables out.
"""

from __future__ import annotations

import importlib.util
import re
from typing import TYPE_CHECKING

from audit.policy.boundaries import flags
from audit.policy.checkout import options_of
from audit.policy.places import has_symbol, module_path
from audit.policy.source import parse_source

if TYPE_CHECKING:
    from collections.abc import Iterator

    from audit.policy.checkout import Checkout

OWN = ("coordexp", "audit", "benchmarks", "scripts", "tests")
REST = r"([^\n|;&`]*)"
RUN = re.compile(r"python(?:3[.\d]*)? -m ([a-zA-Z_][\w.]*)" + REST)
TOX = re.compile(r"(?<![\w./-])tox((?: [\w=,.-]+)+)")
ENVIRONMENTS = re.compile(r"(?:^| )(?:-\w*e|--env)[ =]?([\w,-]+)")
TOX_COMMANDS = (
    "run", "r", "run-parallel", "p", "list", "l", "config", "c", "devenv", "d", "depends", "de", "exec", "e",
)  # fmt: skip
NODE = re.compile(r"(?<![\w./-])(tests/[\w./-]+\.py)((?:::\w+)+)")
SCRIPT = re.compile(r"(?<![\w./-])(?:bash |sh |\./|python3? )(scripts/[\w.-]+)" + REST)
GIVEN = re.compile(r"((?:(?<!\S)[A-Za-z_]\w*=\S* +)+)(?:(?:bash |sh |\./)(?=scripts/)|\S*python3? -m )([\w./-]+)")
PYTEST = re.compile(r"(?:^|(?<=[ /]))pytest(?= )" + REST)
MARK = re.compile(r"pytest [^\n]*?-m [\"']?(?:not )?(\w+)")
OPTION = re.compile(r"(?<!\S)(--?[a-zA-Z][\w-]*)")
TOOLS = {
    "make": "Makefile", "just": "justfile", "nox": "noxfile.py", "conda": "environment.yml", "mamba": "environment.yml",
    "poetry": "poetry.lock", "pipenv": "Pipfile", "npm": "package.json", "docker": "Dockerfile",
}  # fmt: skip
"""What runs commands in other projects, and the file that it needs in the checkout."""
TOOL = re.compile(rf"(?:^|[;&|$] *)\s*(?:\w+=\S+ +)*({'|'.join(TOOLS)}) +[\w.-]")


def broken_commands(checkout: Checkout, code: str) -> Iterator[str]:
    """What is wrong with the commands of one piece of code or prose."""
    for dotted, rest in RUN.findall(code):
        yield from broken_module_run(checkout, dotted, rest)
    for file, rest in SCRIPT.findall(code):
        yield from broken_script(checkout, file, rest)
    for given, file in GIVEN.findall(code):
        yield from unread_variables(checkout, given, file)
    for rest in PYTEST.findall(code):
        yield from broken_options(checkout, "pytest", rest)
    for arguments in TOX.findall(code):
        yield from broken_tox(checkout, arguments.partition(" -- ")[0])
    for file, symbols in NODE.findall(code):
        last = symbols.rpartition("::")[2]
        if (checkout.root / file).is_file() and not has_symbol(checkout.root / file, last):
            yield f"{file} has no {last}"


def broken_tools(checkout: Checkout, code: str) -> Iterator[str]:
    """What is wrong with a piece of code whose words may mean something else in prose: `make`, `tox policy`."""
    for first in re.findall(r"(?<![\w./-])tox (\w[\w-]*)", code):
        if first not in TOX_COMMANDS:
            yield f"tox has no command {first}; an environment follows -e"
    yield from (f"pytest has no marker {name}" for name in MARK.findall(code) if name not in checkout.markers)
    for tool in TOOL.findall(code):
        if not (checkout.root / TOOLS[tool]).exists():
            yield f"{tool} runs nothing here: there is no {TOOLS[tool]}"


def broken_tox(checkout: Checkout, arguments: str) -> Iterator[str]:
    """Environments that tox.ini lacks, and options that tox does not take."""
    names = [name for listed in ENVIRONMENTS.findall(arguments) for name in listed.split(",")]
    yield from (f"tox has no environment {name}" for name in names if name not in checkout.environments)
    yield from broken_options(checkout, "tox", arguments)


def broken_options(checkout: Checkout, tool: str, rest: str) -> Iterator[str]:
    """Options that neither a tool nor a plugin of it takes."""
    for option in OPTION.findall(rest):
        # A short option may bring its value or other short ones along.
        name = option if option.startswith("--") else option[:2]
        if name not in options_of(tool, checkout.root):
            yield f"{tool} takes no {option}"


def broken_module_run(checkout: Checkout, dotted: str, rest: str) -> Iterator[str]:
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
    """Options that neither a script nor the module it hands them to takes, and variables that stand behind it."""
    path = checkout.root / file
    text = path.read_text(encoding="utf-8") if path.is_file() else "$@"
    yield from (f"{file} takes no {o}" for o in OPTION.findall(rest) if "$@" not in text and o not in text)
    for dotted in re.findall(r"-m (\S+) \"\$@\"", text):
        yield from broken_module_run(checkout, dotted, rest)
    yield from (f"{file} takes no {name}= after it" for name in re.findall(r"(?<!\S)([A-Za-z_]\w*)=", rest))


def unread_variables(checkout: Checkout, given: str, started: str) -> Iterator[str]:
    """Variables before a script or module that it does not read.

    Lower-case ones belong to the script that their contract names, and to the module which that script starts.
    """
    for name in re.findall(r"(?<!\S)(\w+)=", given):
        meaning = checkout.variables.get(name, "")
        owners = [checkout.root / file for file in re.findall(r"scripts/[\w.-]+\w", meaning)]
        known = started in meaning or any(f"-m {started}" in owner.read_text(encoding="utf-8") for owner in owners)
        if not (name in checkout.vocabulary.words if name.isupper() else known):
            yield f"{started} reads no variable {name}"
