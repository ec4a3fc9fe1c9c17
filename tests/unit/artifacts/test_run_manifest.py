"""The run manifest: what it holds, what it carries along, what it refuses."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import subprocess
from pathlib import Path

import pytest
from PIL import Image

from coordexp.artifacts.files import hash_folder
from coordexp.artifacts.provenance import read_git_state, read_upstream, read_versions
from coordexp.artifacts.run_manifest import (
    ArtifactError,
    RunFacts,
    build_run_manifest,
    read_run_manifest,
    write_run_manifest,
)
from coordexp.data.cooking import cook
from coordexp.data.cooking_types import CookOptions, CookSource
from coordexp.spec import ContractViolation, contracts_root


@pytest.fixture
def cooked(tmp_path) -> Path:
    """Two images cooked, with a crowd object and a zero-area one dropped."""
    raw = tmp_path / "raw"
    raw.mkdir()
    for name in ("a.png", "b.png"):
        Image.new("RGB", (96, 96), (9, 9, 9)).save(raw / name)
    boxes = [(1, [10, 10, 30, 30], 0), (1, [10, 10, 30, 30], 1), (2, [5, 5, 0, 20], 0), (2, [5, 5, 20, 20], 0)]
    (raw / "annotations.json").write_text(
        json.dumps(
            {
                "images": [
                    {"id": i, "file_name": n, "width": 96, "height": 96} for i, n in ((1, "a.png"), (2, "b.png"))
                ],
                "annotations": [
                    {"id": n, "image_id": i, "category_id": 1, "bbox": box, "area": box[2] * box[3], "iscrowd": crowd}
                    for n, (i, box, crowd) in enumerate(boxes, 1)
                ],
                "categories": [{"id": 1, "name": "cat"}],
            }
        )
    )
    cook(CookSource(raw / "annotations.json", raw), tmp_path / "cooked", CookOptions(max_pixels=96 * 96))
    return tmp_path / "cooked" / "records.jsonl"


@pytest.fixture
def facts(cooked, tmp_path) -> RunFacts:
    source = tmp_path / "run.yaml"
    source.write_text("training: {seed: 3}\n")
    return RunFacts(
        resolved_config={"training": {"seed": 3}},
        config_sources=(source,),
        seeds={"training": 3, "sampling": 99},
        data={"train": cooked},
        pipeline_checksum="0" * 64,
        launch={"world_size": 2},
    )


@pytest.mark.invariant("ART-001")
def test_a_manifest_is_read_back_as_it_was_written(facts, tmp_path):
    path = write_run_manifest(tmp_path / "run", facts)
    manifest = read_run_manifest(tmp_path / "run")
    assert path.name == "run_manifest.json"
    assert manifest["config"]["resolved"] == {"training": {"seed": 3}}
    assert manifest["config"]["sources"][0]["sha256"] == hashlib.sha256(b"training: {seed: 3}\n").hexdigest()
    assert manifest["seeds"] == {"training": 3, "sampling": 99}
    assert manifest["pipeline_checksum"] == "0" * 64
    assert manifest["launch"] == {"world_size": 2}


@pytest.mark.invariant("ART-001")
def test_versions_and_upstream_are_those_that_are_installed():
    import torch
    import transformers

    versions = read_versions()
    assert (versions["torch"], versions["transformers"]) == (torch.__version__, transformers.__version__)
    assert versions["ms-swift"] and versions["python"]
    upstream = read_upstream("ms-swift", "swift")
    assert upstream["version"] == versions["ms-swift"]
    assert Path(upstream["path"], "__init__.py").is_file()
    assert len(upstream["record_sha256"]) == 64
    assert read_upstream("no-such-distribution", "nothing") is None


@pytest.mark.invariant("ART-001")
def test_the_git_state_is_the_commit_and_whether_it_was_changed(tmp_path):
    assert read_git_state(tmp_path).document() == {"revision": None, "dirty": None}
    run = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run([*run, "init", "-q"], check=True)
    (tmp_path / "a").write_text("1")
    subprocess.run([*run, "add", "a"], check=True)
    subprocess.run([*run, "commit", "-q", "-m", "one"], check=True)
    clean = read_git_state(tmp_path)
    assert len(clean.revision) == 40 and clean.dirty is False
    (tmp_path / "a").write_text("2")
    assert read_git_state(tmp_path) == dataclasses.replace(clean, dirty=True)


@pytest.mark.invariant("ART-001")
@pytest.mark.parametrize(
    "change",
    [{"seeds": {}}, {"data": {}}, {"config_sources": ()}, {"resolved_config": {}}, {"pipeline_checksum": "short"}],
)
def test_a_run_that_does_not_say_what_decides_it_gets_no_manifest(facts, change):
    with pytest.raises(ContractViolation):
        build_run_manifest(dataclasses.replace(facts, **change))


@pytest.mark.invariant("ART-009")
def test_the_contracts_are_identified_by_their_content(facts):
    assert build_run_manifest(facts)["source"]["contracts_sha256"] == hash_folder(contracts_root())


@pytest.mark.invariant("ART-002")
def test_each_drop_of_cooking_reaches_the_run_manifest(facts, cooked):
    entry = build_run_manifest(facts)["data"]["train"]
    assert entry["cook_manifest"] == json.loads((cooked.parent / "manifest.json").read_text())
    assert entry["cook_manifest"]["objects"]["ignored"]["crowd"] == 1
    assert entry["cook_manifest"]["objects"]["dropped"]["zero_area"] == 1
    assert entry["records"] == 2
    assert entry["sha256"] == hashlib.sha256(cooked.read_bytes()).hexdigest()


@pytest.mark.invariant("ART-002")
def test_a_file_changed_after_cooking_is_refused_with_its_manifest(facts, cooked):
    cooked.write_text(cooked.read_text().splitlines(keepends=True)[0])
    with pytest.raises(ArtifactError, match=r"counts 2 records but records\.jsonl holds 1"):
        build_run_manifest(facts)


@pytest.mark.invariant("ART-002")
def test_data_cooked_elsewhere_is_recorded_as_such(facts, tmp_path):
    other = tmp_path / "other.jsonl"
    other.write_text("{}\n{}\n")
    entry = build_run_manifest(dataclasses.replace(facts, data={"val": other}))["data"]["val"]
    assert (entry["cook_manifest"], entry["records"]) == (None, 2)
