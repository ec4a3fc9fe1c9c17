"""The run manifest: what it holds, what it carries along, what it refuses."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

import coordexp
from coordexp.artifacts.files import hash_folder
from coordexp.artifacts.machine import parse_gpus, read_hardware
from coordexp.artifacts.provenance import (
    FRAMEWORKS,
    ArtifactError,
    read_git_state,
    read_source,
    read_upstream,
    read_versions,
)
from coordexp.artifacts.run_manifest import (
    DataFile,
    Origins,
    RunFacts,
    build_run_manifest,
    read_origins,
    read_run_manifest,
    write_run_manifest,
)
from coordexp.data.cooking import cook
from coordexp.data.cooking_types import CookOptions, CookSource
from coordexp.spec import ContractViolation, contract_path, contracts_root, read_yaml


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


SHELL = {"RANK": "0", "gpus": "1,2", "COORDEXP_ROLLOUT_API_KEY": "the-key", "HOME": "/root", "config": "a the-key b"}


@pytest.fixture
def source(tmp_path) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text("training: {seed: 3}\n")
    return path


@pytest.fixture
def origins(cooked, source, tmp_path) -> Origins:
    return read_origins((source,), {"train": DataFile(cooked, tmp_path / "pictures")}, SHELL, ("torch",))


@pytest.fixture
def facts(origins) -> RunFacts:
    return RunFacts(
        resolved_config={"training": {"seed": 3}},
        seeds={"training": 3, "sampling": 99},
        reproducibility={
            "config": "run.yaml",
            "run_name": "first",
            "seed": {"source": "training.seed", "value": 3},
            "output_roots": {"training.output_dir": "/runs/first", "training.logging_dir": "/tb/first"},
        },
        origins=origins,
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
    assert manifest["reproducibility"] == facts.reproducibility


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
    record = next(Path(upstream["path"]).parent.glob("ms_swift-*.dist-info/RECORD"))
    assert upstream["kind"] == "wheel" and upstream["record_sha256"] == hashlib.sha256(record.read_bytes()).hexdigest()
    assert read_upstream("no-such-distribution", "nothing") == {"unknown": "no-such-distribution is not installed"}


@pytest.mark.invariant("ART-001")
def test_the_git_state_is_the_commit_and_whether_it_was_changed(tmp_path):
    assert "not a git repository" in read_git_state(tmp_path).document()["unknown"]
    run = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run([*run, "init", "-q"], check=True)
    (tmp_path / "a").write_text("1")
    subprocess.run([*run, "add", "a"], check=True)
    subprocess.run([*run, "commit", "-q", "-m", "one"], check=True)
    clean = read_git_state(tmp_path)
    assert len(clean.revision) == 40 and clean.dirty is False
    (tmp_path / "a").write_text("2")
    assert read_git_state(tmp_path) == dataclasses.replace(clean, dirty=True)
    installed = tmp_path / "venv/lib"
    installed.mkdir(parents=True)
    (installed / "code.py").write_text("")
    assert "checkout of something else" in read_git_state(installed).document()["unknown"]


@pytest.mark.invariant("ART-001")
@pytest.mark.parametrize(
    "change",
    [
        {"seeds": {}},
        {"resolved_config": {}},
        {"pipeline_checksum": "short"},
        {"reproducibility": {}},
        {"launch": {"server": {"command": ["a"]}}},
    ],
)
def test_a_run_that_does_not_say_what_decides_it_gets_no_manifest(facts, change):
    with pytest.raises(ContractViolation):
        build_run_manifest(dataclasses.replace(facts, **change))


@pytest.mark.invariant("ART-001")
@pytest.mark.parametrize("part", ["sources", "data", "versions", "source", "upstream", "hardware", "environment"])
def test_no_section_of_a_run_s_origins_may_lack(facts, part):
    origins = facts.origins
    if part in ("sources", "data"):
        lacking = dataclasses.replace(origins, **{part: type(getattr(origins, part))()})
    else:
        lacking = dataclasses.replace(origins, sections={k: v for k, v in origins.sections.items() if k != part})
    with pytest.raises(ContractViolation):
        build_run_manifest(dataclasses.replace(facts, origins=lacking))


@pytest.mark.invariant("ART-009")
def test_the_contracts_are_identified_by_their_content(facts):
    told = build_run_manifest(facts)["source"]
    assert told == read_source()
    assert told["contracts_sha256"] == hash_folder(contracts_root())
    assert told["code_sha256"] == hash_folder(Path(coordexp.__file__).parent, "*.py")


@pytest.mark.invariant("ART-002")
def test_each_drop_of_cooking_reaches_the_run_manifest(facts, cooked):
    entry = build_run_manifest(facts)["data"]["train"]
    beside, told = cooked.parent / "manifest.json", entry["cook_manifest"]
    assert told["path"] == str(beside) and told["sha256"] == hashlib.sha256(beside.read_bytes()).hexdigest()
    assert told["document"] == json.loads(beside.read_text())
    assert told["document"]["objects"]["ignored"]["crowd"] == 1
    assert told["document"]["objects"]["dropped"]["zero_area"] == 1
    assert entry["records"] == 2
    assert entry["sha256"] == hashlib.sha256(cooked.read_bytes()).hexdigest()


@pytest.mark.invariant("ART-002")
def test_a_file_changed_after_cooking_is_refused_with_its_manifest(source, cooked):
    cooked.write_text(cooked.read_text().splitlines(keepends=True)[0])
    with pytest.raises(ArtifactError, match=r"counts 2 records but records\.jsonl holds 1"):
        read_origins((source,), {"train": DataFile(cooked, cooked.parent)}, {}, ())


@pytest.mark.invariant("ART-002")
@pytest.mark.parametrize("content", ["{}", "no JSON"])
def test_what_is_no_manifest_of_cooking_is_refused_by_its_path(source, cooked, content):
    beside = cooked.parent / "manifest.json"
    beside.write_text(content)
    with pytest.raises(ArtifactError, match=rf"^{beside}: .*cook again, or move it away"):
        read_origins((source,), {"train": DataFile(cooked, cooked.parent)}, {}, ())


@pytest.mark.invariant("ART-002")
@pytest.mark.parametrize(("name", "why"), [("other", "another name"), ("records", "no manifest.json beside it")])
def test_data_cooked_elsewhere_is_recorded_as_such(facts, source, tmp_path, name, why):
    other = tmp_path / f"{name}.jsonl"
    other.write_text("{}\n{}\n")
    origins = read_origins((source,), {"val": DataFile(other, tmp_path / "pictures")}, {}, ())
    entry = build_run_manifest(dataclasses.replace(facts, origins=origins))["data"]["val"]
    assert why in entry["cook_manifest"]["unknown"]
    assert (entry["records"], entry["image_root"]) == (2, str(tmp_path / "pictures"))


@pytest.mark.invariant("ART-065")
def test_what_cannot_be_told_ends_a_run_before_it_begins(source, cooked, tmp_path, monkeypatch):
    data = {"train": DataFile(cooked, cooked.parent)}
    for sources, entries in (
        ((tmp_path / "gone.yaml",), data),
        ((source,), {"train": DataFile(tmp_path / "g", tmp_path)}),
    ):
        with pytest.raises(ArtifactError, match=r"run_manifest\.json: \S+ cannot be read \(No such file"):
            read_origins(sources, entries, {}, ())
    monkeypatch.setitem(FRAMEWORKS, "vllm", "no_such_package")
    assert read_origins((source,), data, {}, ()).sections["upstream"]["vllm"] == {"unknown": "vllm is not installed"}
    with pytest.raises(ArtifactError, match=r"the run needs vllm, and vllm is not installed; install what"):
        read_origins((source,), data, {}, ("torch", "vllm"))


@pytest.mark.invariant("ART-063")
def test_every_framework_has_an_origin_that_identifies_its_code(facts):
    told = build_run_manifest(facts)["upstream"]
    assert list(told) == ["torch", "transformers", "ms-swift", "vllm"]
    for name, entry in told.items():
        package = importlib.util.find_spec(FRAMEWORKS[name])
        assert entry["path"] == str(Path(package.origin).parent) and entry["version"] == read_versions()[name]
        assert entry["kind"] == "wheel"
    assert len({entry["record_sha256"] for entry in told.values()}) == 4


def imported_from(folder: Path) -> dict:
    """The origin of `made_up`, in a process that finds it in `folder` first."""
    program = "import json; from coordexp.artifacts.provenance import read_upstream; "
    program += "print(json.dumps([read_upstream('made-up', 'made_up'), read_upstream('ms-swift', 'swift')]))"
    path = os.pathsep.join([str(folder), str(Path(coordexp.__file__).parents[1])])
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.invariant("ART-063")
def test_a_package_of_a_folder_a_checkout_or_before_a_wheel_is_told_as_what_it_is(tmp_path):
    for package in ("made_up", "swift"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text("")
    loose, shadow = imported_from(tmp_path)
    digest = hash_folder(tmp_path / "made_up", "*.py")
    assert loose == {
        "version": {"unknown": "it has no metadata"},
        "path": str(tmp_path / "made_up"),
        "kind": "folder",
        "code_sha256": digest,
    }
    assert shadow["kind"] == "folder" and shadow["path"] == str(tmp_path / "swift"), "not the wheel that it hides"
    run = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    for arguments in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "one"]):
        subprocess.run([*run, *arguments], check=True)
    (tmp_path / "made_up/__init__.py").write_text("changed = 1")
    checkout, _ = imported_from(tmp_path)
    assert checkout["kind"] == "checkout" and checkout["git"]["dirty"] is True
    head = subprocess.run([*run, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    assert checkout["git"]["revision"] == head


@pytest.mark.invariant("ART-064")
def test_the_machine_is_the_one_that_the_system_tells_of(facts):
    import psutil

    told = build_run_manifest(facts)["hardware"]
    assert told["cpu"]["model"] in Path("/proc/cpuinfo").read_text()
    assert told["cpu"]["cores"] == psutil.cpu_count() >= told["cpu"]["usable_cores"] >= 1
    assert told["memory_bytes"] == pytest.approx(psutil.virtual_memory().total, rel=0.01)
    assert told["system"].startswith("Linux-")
    if shutil.which("nvidia-smi") is None:
        assert (told["gpus"], told["gpu_driver"]) == ([], {"unknown": "no NVIDIA driver"})
    assert socket.gethostname() not in json.dumps(told["cpu"])


@pytest.mark.invariant("ART-064")
def test_gpus_are_those_that_the_driver_lists():
    listed = (
        "NVIDIA H100 80GB HBM3, 81559, 570.86.15\nNVIDIA A100, SXM, 40960, 570.86.15\nNVIDIA H20, [N/A], 570.86.15\n"
    )
    gpus, driver = parse_gpus(listed)
    assert driver == "570.86.15"
    assert gpus == [
        {"name": "NVIDIA H100 80GB HBM3", "memory_bytes": 81559 * 2**20},
        {"name": "NVIDIA A100, SXM", "memory_bytes": 40960 * 2**20},
        {"name": "NVIDIA H20", "memory_bytes": {"unknown": "nvidia-smi: [N/A]"}},
    ]
    assert parse_gpus("\n") == ([], {"unknown": "nvidia-smi lists no GPU"})


@pytest.mark.invariant("ART-064")
@pytest.mark.parametrize(
    ("script", "why"), [("echo broken driver; exit 9", "ends with 9: broken driver"), ("", "lists no")]
)
def test_a_driver_that_does_not_tell_is_told_with_its_words(tmp_path, monkeypatch, script, why):
    tool = tmp_path / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\n{script}\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert why in read_hardware()["gpu_driver"]["unknown"]


@pytest.mark.invariant("ART-064")
def test_the_environment_is_what_the_contract_lists_without_what_is_secret(facts):
    manifest = build_run_manifest(facts)
    assert manifest["environment"] == {"RANK": "0", "gpus": "1,2"}, "nothing else, and no value that repeats the key"
    assert "the-key" not in json.dumps(manifest)


@pytest.mark.invariant("ART-064")
def test_variables_with_a_secret_s_name_are_secret():
    rows = read_yaml(contract_path("cli/environment.yaml"))["variables"]
    named = {
        row["name"] for row in rows if re.search("KEY|TOKEN|SECRET|PASSWORD|CREDENTIAL", row["name"], re.IGNORECASE)
    }
    assert named == {row["name"] for row in rows if row["secret"]} == {"COORDEXP_ROLLOUT_API_KEY"}
