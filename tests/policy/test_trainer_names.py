"""Documents and the audited entry points call the trainers by their names; given-up names are found anywhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from audit.pipeline import load_pipeline
from audit.policy.documents import documents
from audit.policy.titles import given_up_names, load_trainer_names, untitled
from coordexp.spec import read_schema

pytestmark = pytest.mark.invariant("POLICY-030")

ROOT = Path(__file__).resolve().parents[2]
NAMES = load_trainer_names()


def test_each_trainer_variant_has_a_name_in_prose() -> None:
    assert [name.variant for name in NAMES] == read_schema("config/custom")["properties"]["trainer_variant"]["enum"]


@pytest.mark.parametrize("path", documents(ROOT), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_document_uses_no_given_up_name(path: Path) -> None:
    shown = path.relative_to(ROOT).as_posix()
    assert [str(found) for found in given_up_names(shown, path.read_text(encoding="utf-8"), NAMES)] == []


@pytest.mark.parametrize("document", ["docs/architecture.md", "docs/configuration.md"])
def test_a_document_gives_each_variant_with_its_title(document: str) -> None:
    assert untitled((ROOT / document).read_text(encoding="utf-8"), NAMES) == []


def test_stage_2_entry_points_bear_the_title_of_their_folder() -> None:
    titles = {f"configs/{name.variant}": name.title for name in NAMES}
    pipeline = load_pipeline()
    assert pipeline is not None
    for entry in pipeline["entrypoints"]:
        folder = "/".join(entry["config"].split("/")[:2])
        if folder in titles and folder != "configs/stage1":
            assert entry["name"].startswith(titles[folder])


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("The Stage-2 AB trainer runs both channels.", "Stage-2 Two-Channel Teacher Forcing (Expectation/Rollout)"),
        ("custom.trainer_variant: stage2_ab_training", "stage2_two_channel"),
        ("profiles lie in `configs/stage2_ab/prod`", "stage2_two_channel"),
        ("rollout-matching SFT", "Stage-2 Rollout-Aligned Teacher Forcing"),
        ("| `custom.trainer_variant` | rollout_matching_sft |", "stage2_rollout_aligned"),
    ],
)
def test_a_given_up_name_is_found_and_answered(line: str, expected: str) -> None:
    (found,) = given_up_names("docs/x.md", f"Title\n\n{line}\n", NAMES)
    assert (found.path, found.line) == ("docs/x.md", 3)
    assert expected in found.message


@pytest.mark.parametrize(
    "line",
    [
        "Stage-2 Two-Channel Teacher Forcing (Expectation/Rollout) reads the section `stage2_ab`.",
        "| `custom.trainer_variant: stage2_ab_training` | write stage2_two_channel |",
        "Ground truth aligned with a rollout matches.",
    ],
)
def test_the_names_themselves_and_guidance_are_left_alone(line: str) -> None:
    assert list(given_up_names("docs/x.md", line, NAMES)) == []


def test_a_missing_title_is_named() -> None:
    assert untitled("`stage1`: Stage 1.\n`stage2_two_channel` trains.", NAMES) == [
        "stage2_two_channel",
        "stage2_rollout_aligned",
    ]
