"""The case files of fixtures/: each fits its meta-schema, names declared invariants, and is read by some test."""

from __future__ import annotations

from pathlib import Path

import pytest

from coordexp.spec import load_cases, load_invariants

ROOT = Path(__file__).resolve().parents[2]
FIXTURES = ROOT / "fixtures"
# Folders whose JSON is data of another form: annotations, model files, recorded answers of servers.
DATA_FOLDERS = ("bccd", "tiny-qwen3vl", "tiny-qwen3vl-early", "tiny-qwen3vl-level", "rollouts")
# What these hold is compared with snapshots; a bad record cannot come out of the encoder at all.
ONE_SIDED = ("encode/records",)
CASE_FILES = sorted(path for path in FIXTURES.glob("*/*.json") if path.parent.name not in DATA_FOLDERS)
DECLARED = {invariant.id for invariant in load_invariants()}


@pytest.mark.invariant("SPEC-007")
def test_case_files_are_found() -> None:
    assert CASE_FILES


@pytest.mark.invariant("SPEC-007")
@pytest.mark.parametrize("path", CASE_FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_case_file_fits_and_names_declared_invariants(path: Path) -> None:
    group = load_cases(path)
    assert set(group.invariants) - DECLARED == set()


@pytest.mark.invariant("SPEC-007")
@pytest.mark.parametrize("path", CASE_FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_case_file_that_judges_validity_has_both_outcomes(path: Path) -> None:
    outcomes = {case.valid for case in load_cases(path).cases if not case.has_expect}
    complete = outcomes in (set(), {True, False})
    assert complete != (f"{path.parent.name}/{path.stem}" in ONE_SIDED)


@pytest.mark.invariant("SPEC-007")
def test_descriptions_of_groups_are_unique() -> None:
    descriptions = [load_cases(path).description for path in CASE_FILES]
    assert sorted(descriptions) == sorted(set(descriptions))


@pytest.mark.invariant("SPEC-007")
@pytest.mark.parametrize("path", CASE_FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_case_file_is_read_by_a_test(path: Path) -> None:
    sources = [source.read_text(encoding="utf-8") for source in (ROOT / "tests").rglob("*.py")]
    folder = path.parent.name
    named = any(path.name in text or f'"{path.stem}"' in text for text in sources)
    swept = any(f'"{folder}"' in text and "glob(" in text for text in sources)
    assert named or swept, f"no test under tests/ names {folder}/{path.name}"
