"""The pipeline map of this checkout is borne out by its code, and each kind of drift is noticed."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from audit.pipeline import load_pipeline, main, pipeline_problems, render_page, resolve_entrypoints
from audit.render import render_html

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def pipeline() -> dict[str, Any]:
    declared = load_pipeline()
    assert declared is not None
    return copy.deepcopy(declared)


@pytest.mark.invariant("SPEC-014")
def test_the_declared_pipeline_is_that_of_the_code(pipeline: dict[str, Any]) -> None:
    assert pipeline_problems(pipeline, ROOT) == []


@pytest.mark.invariant("SPEC-014")
@pytest.mark.parametrize(
    ("part", "number", "key", "value", "words"),
    [
        ("stages", 3, "owners", ["coordexp.encode.gone"], "no module coordexp.encode.gone"),
        ("stages", 3, "config", ["custom.object_order"], "no config key custom.object_order"),
        ("stages", 3, "config", ["training.seed.value"], "no config key training.seed.value"),
        ("stages", 5, "owners", ["coordexp.packing.plan"], "package coordexp.forward belongs to no step"),
        ("boundaries", 0, "type", "coordexp.data.types:Recording", "defines no 'Recording'"),
        ("boundaries", 0, "to", "losses", "no owner of losses imports coordexp.data.types:Record"),
        ("boundaries", 0, "from", "nowhere", "no step nowhere"),
        ("entrypoints", 0, "script", "scripts/stage2_ab_server_train.sh", "does not exist"),
        ("entrypoints", 0, "config", "configs/none.yaml", "configs/none.yaml does not exist"),
        ("entrypoints", 1, "config", "configs/base.yaml", "configs/stage1/smoke/shapes.yaml is under no entry point"),
    ],
)
def test_drift_between_map_and_code_is_noticed(
    pipeline: dict[str, Any], part: str, number: int, key: str, value: Any, words: str
) -> None:
    pipeline[part][number][key] = value
    assert words in "\n".join(pipeline_problems(pipeline, ROOT))


@pytest.mark.invariant("SPEC-014")
def test_entry_points_show_where_their_results_go(pipeline: dict[str, Any]) -> None:
    found, problems = resolve_entrypoints(pipeline, ROOT)
    assert problems == []
    shown = {entry.config: (entry.run_name, entry.output_dir, entry.logging_dir) for entry in found}
    assert shown["configs/stage1/ablation/geometry_first_coco80.yaml"] == (
        "stage1-coco80-geometry_first",
        "output/stage1/coco80-geometry_first",
        "tb/stage1/coco80-geometry_first",
    )
    assert shown["configs/stage2_two_channel/prod/ab_mixed.yaml"][0] == "two_channel-prod-ab_mixed"


@pytest.mark.invariant("SPEC-014")
def test_an_entry_point_whose_config_does_not_load_is_named(pipeline: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "bad.yaml").write_text("trainnig: {}\n")
    pipeline["entrypoints"] = [{"name": "bad", "config": "configs/bad.yaml", "note": ""}]
    found, problems = resolve_entrypoints(pipeline, tmp_path)
    assert found == []
    assert problems[0].startswith("entry point bad: configs/bad.yaml does not load")


@pytest.mark.invariant("SPEC-014")
def test_the_document_is_current(pipeline: dict[str, Any]) -> None:
    entrypoints, _ = resolve_entrypoints(pipeline, ROOT)
    page = render_page(pipeline, entrypoints, ROOT)
    assert (ROOT / "docs" / "pipeline.md").read_text() == page, "run python -m audit.pipeline"
    # One page: it can be read at a glance.
    assert len(page.splitlines()) < 80


@pytest.mark.invariant("SPEC-014")
def test_the_command_writes_the_document(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert main(["--output", str(tmp_path / "pipeline.md")]) == 0
    assert (tmp_path / "pipeline.md").read_text() == (ROOT / "docs" / "pipeline.md").read_text()


def test_the_page_shows_the_map_as_tables() -> None:
    report: dict[str, Any] = dict.fromkeys(
        ("problems", "findings", "invariants", "requirements", "not_run", "runs"), ()
    )
    counts = dict.fromkeys(
        ("invariants proved", "invariants", "requirements done", "requirements", "requirements partly"), 0
    )
    counts |= dict.fromkeys(("tests passed", "tests", "mutants killed", "mutants"), 0)
    page = render_html(
        {
            **report,
            "counts": counts,
            "tree": "0" * 40,
            "head": "",
            "verdict": "green",
            "environment": {"versions": {"torch": "2.13.0", "vllm": None}, "upstream": None},
            "core_mutation": None,
            "gpu": {"record": None, "tests": []},
            "pipeline": "## Map\n\n| a | b |\n| --- | --- |\n| `x` | <i>y</i><br>z |\n",
        }
    )
    assert "<h3>Map</h3>" in page
    assert "<td><code>x</code></td><td>&lt;i&gt;y&lt;/i&gt;<br>z</td>" in page
