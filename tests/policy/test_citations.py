"""Texts cite only what a plain clone has: no document and no folder of the machine that they were written on."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from audit.policy.citations import cited_outside, load_elsewhere, outside_citations

pytestmark = pytest.mark.invariant("POLICY-050")

ROOT = Path(__file__).resolve().parents[2]
ELSEWHERE = load_elsewhere()
FIRST = ELSEWHERE[0]
HOME = "/home"


def found_in(line: str) -> list[str]:
    return [found.message for found in outside_citations("docs/x.md", f"Title\n{line}\n", ELSEWHERE) if found.line == 2]


def test_this_checkout_cites_nothing_that_is_not_in_it() -> None:
    assert [str(found) for found in cited_outside(ROOT)] == []


@pytest.mark.parametrize("name", ELSEWHERE)
@pytest.mark.parametrize("form", ["{0} section 4", "see design/{0}.md.", "{1}", "({2} §10)", "ASKED BY {3}"])
def test_a_document_elsewhere_is_found_however_it_is_written(name: str, form: str) -> None:
    written = form.format(name, name.replace("-", "_"), name.replace("-", " "), name.upper())
    (message,) = found_in(written)
    assert "say the fact itself" in message


@pytest.mark.parametrize(
    "line", ["see `..{0}/data`", "../..{0}/cases/a", f"{HOME}/someone/run.json", f'"file": "{HOME}/x"']
)
def test_a_folder_outside_the_checkout_is_found(line: str) -> None:
    (message,) = found_in(line.format("/shared"))
    assert "write a path inside the checkout" in message


@pytest.mark.parametrize(
    "line",
    [
        "contracts and facts; the stack, its facts; performance has targets; experience in the field",
        "`../base.yaml`, `fixtures/cases`, /tmp/out and /data/train.jsonl",
        f"<root>{HOME}/x and $OUT{HOME}/x are below a folder that is given",
        "a shared/ folder of the checkout",
    ],
)
def test_other_words_and_paths_are_left_alone(line: str) -> None:
    assert found_in(line) == []


def test_every_text_is_read_but_the_requirements_as_stated(tmp_path: Path) -> None:
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    for name in ("README.md", "contracts/requirements/sources/first.md", "tests/test_x.py", "scripts/run.sh"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"one\n{FIRST}\n", encoding="utf-8")
    (tmp_path / "picture.png").write_bytes(b"\0" + FIRST.encode())
    assert {(found.path, found.line) for found in cited_outside(tmp_path)} == {
        ("README.md", 2),
        ("tests/test_x.py", 2),
        ("scripts/run.sh", 2),
    }
