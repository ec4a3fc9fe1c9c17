"""Every rule of audit.policy flags the planted violations of fixtures/policy, and finds none in this tree."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from audit.policy import RULES, parse_source, violations_of
from audit.policy.boundaries import COMMAND_LINES, CONSOLES, prints, undeclared_flags
from audit.policy.environment import ENVIRONMENT_HANDED_ON, undocumented_environment
from audit.policy.failures import BEST_EFFORT, swallowed_errors
from audit.policy.loss_home import HOME, loss_arithmetic
from audit.policy.parsers import JSON_READERS, json_outside_boundary
from audit.policy.rules import declared_flags, documented_variables, with_context
from audit.policy.source import SourceFile, Violation, enclosing_functions, read_sources
from audit.policy.thousand import names_of_thousand
from coordexp.spec import load_cases

ROOT = Path(__file__).resolve().parents[2]
FIXTURES = ROOT / "fixtures" / "policy"

INVARIANT_OF_RULE = {
    "long_modules": "POLICY-001",
    "long_definitions": "POLICY-001",
    "branchy_functions": "POLICY-002",
    "crowded_signatures": "POLICY-002",
    "swallowed_errors": "POLICY-003",
    "upward_imports": "POLICY-004",
    "heavy_imports": "POLICY-021",
    "network_at_import": "POLICY-022",
    "private_names": "POLICY-005",
    "grab_bags": "POLICY-006",
    "json_outside_boundary": "POLICY-007",
    "divisions_by_thousand": "POLICY-008",
    "config_lookups": "POLICY-009",
    "open_bucket_reads": "POLICY-009",
    "prints": "POLICY-010",
    "unfinished_marks": "POLICY-010",
    "unsafe_loaders": "POLICY-011",
    "tests_that_cannot_fail": "POLICY-012",
    "undocumented_environment": "POLICY-013",
    "undeclared_flags": "POLICY-014",
    "loss_arithmetic": "LOSS-031",
}


def marked(name, *values):
    return pytest.param(*values, id=name, marks=pytest.mark.invariant(INVARIANT_OF_RULE[name.split(":")[0]]))


def planted_cases():
    for path in sorted(FIXTURES.glob("*.json")):
        for case in load_cases(path).cases:
            yield marked(f"{path.stem}: {case.description}", path.stem, case)


def test_every_rule_has_an_invariant():
    assert set(INVARIANT_OF_RULE) == set(RULES)


@pytest.mark.parametrize("rule", [marked(name, name) for name in RULES])
def test_this_tree_keeps_the_rule(rule):
    assert [str(violation) for violation in violations_of(rule, ROOT)] == []


@pytest.mark.parametrize(("rule", "case"), list(planted_cases()))
def test_planted_source_is_judged_line_by_line(rule, case):
    source = parse_source(case.input["path"], case.input["source"])
    assert sorted(violation.line for violation in with_context(rule, [source])(source)) == case.expect


def body(lines, head="def f():"):
    return f"{head}\n" + "    x = 1\n" * (lines - 1)


@pytest.mark.invariant("POLICY-001")
@pytest.mark.parametrize(
    ("rule", "allowed", "refused"),
    [
        ("long_modules", "x = 1\n" * 400, "x = 1\n" * 401),
        ("long_definitions", body(60), body(61)),
        ("long_definitions", body(60, "async def f():"), body(61, "async def f():")),
        ("long_definitions", body(200, "class A:"), body(201, "class A:")),
    ],
)
def test_sizes_are_refused_one_line_over_the_limit(rule, allowed, refused):
    find = RULES[rule].find
    assert list(find(parse_source("coordexp/data/probe.py", allowed))) == []
    assert [violation.line for violation in find(parse_source("coordexp/data/probe.py", refused))] == [1]


BRANCHES = {
    "if": "    if a:\n        x = 1\n",
    "for": "    for _ in a:\n        x = 1\n",
    "while": "    while a:\n        x = 1\n",
    "except": "    try:\n        x = 1\n    except ValueError:\n        x = 2\n",
    "match": "    match a:\n        case 1:\n            x = 1\n",
}


@pytest.mark.invariant("POLICY-002")
@pytest.mark.parametrize("kind", BRANCHES)
def test_a_thirteenth_path_is_refused(kind):
    find = RULES["branchy_functions"].find
    eleven, twelve = ("def f(a):\n" + BRANCHES[kind] * count for count in (11, 12))
    assert list(find(parse_source("coordexp/data/probe.py", eleven))) == []
    assert [violation.line for violation in find(parse_source("coordexp/data/probe.py", twelve))] == [1]


@pytest.mark.invariant("POLICY-002")
def test_a_nested_function_is_counted_on_its_own():
    inner = "    def g(a):\n" + "".join(f"    {line}\n" for line in (BRANCHES["if"] * 7).splitlines())
    source = parse_source("coordexp/data/probe.py", "def f(a):\n" + inner + BRANCHES["if"] * 7)
    assert list(RULES["branchy_functions"].find(source)) == []


@pytest.mark.invariant("POLICY-002")
@pytest.mark.parametrize(
    ("path", "signature", "expected"),
    [
        ("coordexp/data/probe.py", "def f(a, b, c, d, e, g): ...", []),
        ("coordexp/data/probe.py", "def f(a, b, c, /, d, *, e, g, h): ...", [1]),
        ("coordexp/data/probe.py", "def f(self, a, b, c, d, e, g): ...", []),
        ("tests/unit/data/test_probe.py", "def f(a, b, c, d, e, g, h): ...", []),
    ],
)
def test_a_seventh_parameter_is_refused_outside_tests(path, signature, expected):
    violations = RULES["crowded_signatures"].find(parse_source(path, signature))
    assert [violation.line for violation in violations] == expected


def elsewhere(path: str) -> SourceFile:
    """A module of the checkout under a path that no list of exemptions has."""
    return parse_source("coordexp/elsewhere.py", (ROOT / path).read_text(encoding="utf-8"))


def functions_found(rule: Callable[[SourceFile], Iterable[Violation]], path: str) -> set[str]:
    """The functions of a module in which a rule finds something once no list excuses it."""
    source = elsewhere(path)
    spans = {getattr(node, "lineno", 0): name for node, name in enclosing_functions(source.tree).items()}
    return {spans.get(violation.line, "") for violation in rule(source)}


@pytest.mark.invariant("POLICY-007")
def test_every_json_reader_on_the_list_reads_json():
    for path, function in JSON_READERS:
        found = functions_found(json_outside_boundary, path)
        assert function in found, f"{path}: {function} parses no JSON: take it off the list"


@pytest.mark.invariant("POLICY-013")
def test_every_module_that_hands_the_environment_on_does():
    for path in ENVIRONMENT_HANDED_ON:
        found = list(undocumented_environment(elsewhere(path), documented_variables()))
        assert found, f"{path} hands nothing on: take it off the list"


@pytest.mark.invariant("POLICY-010")
def test_every_console_on_the_list_exists():
    for path, function in CONSOLES:
        found = functions_found(prints, path)
        assert function in found, f"{path}: {function} makes no console: take it off the list"


@pytest.mark.invariant("POLICY-014")
def test_every_module_that_looks_at_the_command_line_does():
    for path in COMMAND_LINES:
        declared = declared_flags().get(path, frozenset())
        assert list(undeclared_flags(elsewhere(path), declared)), f"{path} does not look: take it off the list"


@pytest.mark.invariant("POLICY-005")
def test_a_private_method_of_another_modules_object_is_found():
    owner = parse_source("coordexp/rollout/probe.py", "class Backend:\n    def _go(self):\n        return self._rows\n")
    reach = "backend = build()\nbackend._go()\n"
    user = parse_source("coordexp/losses/probe.py", reach)
    namesake = parse_source("coordexp/losses/other.py", f"{reach}\ndef _go():\n    return 1\n")
    find = with_context("private_names", [owner, user, namesake])
    assert [violation.line for violation in find(user)] == [2]
    assert list(find(namesake)) == []
    assert list(find(owner)) == []


@pytest.mark.invariant("POLICY-003")
def test_every_best_effort_handler_on_the_list_exists():
    for path, function in BEST_EFFORT:
        assert list(swallowed_errors(elsewhere(path))), f"{path}: {function} swallows nothing: take it off the list"


@pytest.mark.invariant("POLICY-003")
def test_what_another_module_catches_everything_by_is_found():
    owner = parse_source(
        "coordexp/spec/probe.py", "CAUGHT = (ValueError,) + (Exception,)\nNAMED = (OSError, KeyError)\n"
    )
    package = parse_source("coordexp/spec/__init__.py", "from coordexp.spec.probe import CAUGHT, NAMED\n")
    user = parse_source(
        "coordexp/losses/probe.py",
        "from coordexp.spec import CAUGHT, NAMED\nfrom coordexp.spec import probe\n"
        + "".join(f"try:\n    work()\nexcept {kind}:\n    x = 1\n" for kind in ("CAUGHT", "NAMED", "probe.CAUGHT")),
    )
    find = with_context("swallowed_errors", [owner, package, user])
    assert [violation.line for violation in find(user)] == [5, 13]


@pytest.mark.invariant("POLICY-008")
def test_a_division_by_another_modules_constant_is_found():
    codec = parse_source("coordexp/coords/probe.py", "COUNT = 1000\nLAST = COUNT - 1\nother = 999\n")
    user = parse_source(
        "tests/unit/losses/test_probe.py",
        "from coordexp.coords.probe import COUNT, LAST\nvalue = k / COUNT\nothers = k / (LAST + 1) - k / LAST\n",
    )
    renamed = parse_source(
        "coordexp/losses/other.py",
        "from coordexp.coords.probe import COUNT as n, LAST as last\na = k / n\nb = k / (last + 1)\nc = k / last\n",
    )
    assert [violation.line for violation in with_context("divisions_by_thousand", [codec, renamed])(renamed)] == [2, 3]
    namesake = parse_source("tests/unit/losses/test_other.py", "COUNT = 10\nvalue = k / COUNT\n")
    assert names_of_thousand([codec]) == {"COUNT": 1000, "LAST": 999}
    find = with_context("divisions_by_thousand", [codec, user, namesake])
    assert [violation.line for violation in find(user)] == [2, 3]
    assert list(find(namesake)) == []


@pytest.mark.invariant("POLICY-008")
def test_tests_benchmarks_and_scripts_are_read_for_divisions():
    assert set(RULES["divisions_by_thousand"].folders) == {"coordexp", "audit", "benchmarks", "scripts", "tests"}


@pytest.mark.invariant("LOSS-031")
def test_the_home_of_losses_would_be_flagged_anywhere_else():
    sources = [source for source in read_sources(ROOT, ("coordexp",)) if source.path.startswith(HOME)]
    moved = [parse_source("coordexp/training/probe.py", source.text) for source in sources]
    assert sum(len(list(loss_arithmetic(source))) for source in moved) >= 2


@pytest.mark.invariant("POLICY-001")
def test_a_scan_that_finds_no_file_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="no Python file below coordexp"):
        read_sources(tmp_path, ("coordexp",))
