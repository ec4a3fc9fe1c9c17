"""What a run of two ranks, started in a foreign folder, says of itself is what it did."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

if TYPE_CHECKING:
    from tests.plugins.stage1 import Stage1Kit

pytestmark = [pytest.mark.ddp, pytest.mark.timeout(600)]
ROOT = Path(__file__).resolve().parents[2]
# Runs the trainer's command and says, a line a call, which rank hashed or wrote what, and which threads Gloo has.
WITNESS = """
import os, sys
from pathlib import Path
from coordexp.artifacts import files, run_manifest
from coordexp.data import run_inputs, survey
import coordexp.training.manifest as manifest

def witnessed(module, name):
    plain = getattr(module, name)
    def call(*args, **kwargs):
        with open({log!r}, "a") as stream:
            stream.write(f"{{os.environ['RANK']}} {{name}}\\n")
        return plain(*args, **kwargs)
    setattr(module, name, call)

for module, name in ((run_manifest, "hash_file"), (manifest, "write_run_manifest"), (survey, "check_line"),
                     (run_inputs, "find_record_files")):
    witnessed(module, name)
from coordexp.entrypoints.train import main
from coordexp.training import stage1

def count_threads(when):
    names = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
    with open({log!r}, "a") as stream:
        stream.write(f"{{os.environ['RANK']}} {{when}}:{{sum('gloo' in name for name in names)}}\\n")

train_to_end = stage1.train_to_end

def counted(trainer):
    run = train_to_end(trainer)
    count_threads("trained")
    return run

stage1.train_to_end = counted
code = main(sys.argv[1:])
count_threads("ended")
sys.exit(code)
"""


def sha(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def project(stage1_kit: Stage1Kit, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project of its own: data and model beside or below its configs, named by relative paths alone."""
    root = tmp_path_factory.mktemp("project")
    (root / "pyproject.toml").write_text("")
    shutil.copytree(stage1_kit.checkpoint, root / "models/tiny")
    for name in ("train", "val"):
        shutil.copytree(stage1_kit.train.parent.parent / name, root / "configs" / name)
    base = yaml.safe_load(stage1_kit.write("facts_base").read_text(encoding="utf-8"))
    training = {"max_steps": 1, "effective_batch_size": 2, "save_strategy": "no", "add_version": False, "seed": 23}
    base["training"] |= training | {"output_dir": "out/run", "logging_dir": "out/tb", "run_name": "facts"}
    base["model"] = {"model": "models/tiny"}
    base["custom"] = {"train_jsonl": "train/records.jsonl", "val_jsonl": "val/records.jsonl"}
    (root / "configs/parent.yaml").write_text(yaml.safe_dump(base))
    child = {
        "extends": "parent.yaml",
        "custom": {"dump_conversation_text": True, "dump_conversation_path": "out/first.txt"},
    }
    (root / "configs/child.yaml").write_text(yaml.safe_dump(child))
    return root


@pytest.fixture(scope="module")
def told(project: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Train in two ranks from a foreign checkout with other files of the same names; the run's facts."""
    foreign = tmp_path_factory.mktemp("foreign")
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-C", str(foreign)]
    subprocess.run([*git, "init", "-q"], check=True)
    for decoy in ("train/records.jsonl", "models/tiny/config.json", "parent.yaml"):
        (foreign / decoy).parent.mkdir(parents=True, exist_ok=True)
        (foreign / decoy).write_text("{}\n")
    subprocess.run([*git, "add", "-A"], check=True)
    subprocess.run([*git, "commit", "-qm", "foreign"], check=True)
    revision = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    log = foreign.parent / f"{foreign.name}.log"
    witness = foreign.parent / f"{foreign.name}.py"
    witness.write_text(WITNESS.format(log=str(log)))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(witness)]
    done = subprocess.run(
        [sys.executable, *command, "--config", str(project / "configs/child.yaml")],
        cwd=foreign,
        env=environment,
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert sorted(p.name for p in foreign.iterdir()) == [".git", "models", "parent.yaml", "train"], (
        "nothing is left here"
    )
    manifest = json.loads((project / "out/run/run_manifest.json").read_text(encoding="utf-8"))
    return {"manifest": manifest, "witness": log.read_text().splitlines(), "foreign": revision}


@pytest.mark.invariant("TRAIN-022")
def test_the_manifest_names_what_was_trained_on(project: Path, told: dict[str, Any]) -> None:
    manifest = told["manifest"]
    assert manifest["launch"]["world_size"] == 2
    assert manifest["seeds"]["training"] == 23 and len(set(manifest["seeds"].values())) >= len(manifest["seeds"]) - 1
    assert {role: (Path(d["path"]), d["sha256"], d["records"]) for role, d in manifest["data"].items()} == {
        role: (path, sha(path), count)
        for role, path, count in (
            ("train", project / "configs/train/records.jsonl", 14),
            ("val", project / "configs/val/records.jsonl", 3),
        )
    }
    sources = [Path(source["path"]) for source in manifest["config"]["sources"]]
    assert sources[:2] == [project / "configs/child.yaml", project / "configs/parent.yaml"], "leaf first"
    assert [path.name for path in sources[2:]] == ["shapes.yaml", "base.yaml"]
    assert all(source["sha256"] == sha(Path(source["path"])) for source in manifest["config"]["sources"])


@pytest.mark.invariant("ART-066")
def test_the_manifest_says_what_to_name_and_to_give_again(project: Path, told: dict[str, Any]) -> None:
    manifest = told["manifest"]
    assert manifest["reproducibility"] == {
        "config": str(project / "configs/child.yaml"),
        "run_name": "facts",
        "seed": {"source": "training.seed", "value": 23},
        "output_roots": {
            "training.output_dir": str(project / "out/run"),
            "training.logging_dir": str(project / "out/tb"),
        },
    }
    for role, entry in manifest["data"].items():
        folder = project / "configs" / role
        assert entry["image_root"] == str(folder)
        cook = entry["cook_manifest"]
        assert cook["path"] == str(folder / "manifest.json") and cook["sha256"] == sha(folder / "manifest.json")
        assert cook["document"]["records"]["kept"] == entry["records"]
    shell = manifest["environment"]
    assert shell["WORLD_SIZE"] == "2" and shell["OMP_NUM_THREADS"] == "1" and shell["CUDA_VISIBLE_DEVICES"] == ""
    assert "PATH" not in shell and shell["PYTHONPATH"] == str(ROOT)


@pytest.mark.invariant("TRAIN-022")
def test_the_revision_is_the_checkouts_and_not_the_working_folders(told: dict[str, Any]) -> None:
    own = subprocess.run(["git", "-C", str(ROOT), "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    expected = own.stdout.strip() or None
    git = told["manifest"]["source"]["git"]
    assert git["revision"] == expected != told["foreign"] if expected else "unknown" in git


@pytest.mark.invariant("TRAIN-022")
def test_relative_paths_start_at_the_config_or_the_project(project: Path, told: dict[str, Any]) -> None:
    resolved = told["manifest"]["config"]["resolved"]
    assert resolved["model"]["model"] == "models/tiny" and resolved["custom"]["train_jsonl"] == "train/records.jsonl"
    assert (project / "out/run/final/model.safetensors").is_file()
    assert list((project / "out/tb").rglob("events.*"))
    assert (project / "out/first.txt").read_text().startswith("<|im_start|>user\n")


@pytest.mark.invariant("TRAIN-022")
def test_rank_0_alone_hashes_and_writes_and_each_line_is_judged_once(told: dict[str, Any]) -> None:
    calls = [tuple(line.split()) for line in told["witness"]]
    assert {rank for rank, name in calls if name in ("hash_file", "write_run_manifest")} == {"0"}
    assert calls.count(("0", "write_run_manifest")) == 1
    assert calls.count(("0", "hash_file")) == 8, "two data files with their cook manifests, and four sources"
    for rank in ("0", "1"):
        assert calls.count((rank, "check_line")) == 14 + 3
        assert calls.count((rank, "find_record_files")) == 1


@pytest.mark.invariant("TRAIN-084")
def test_no_thread_of_the_process_group_outlives_the_run(told: dict[str, Any]) -> None:
    """One that frees a tensor while the interpreter ends aborts a rank that has trained to its end."""
    counted = dict(line.split()[1].split(":") for line in told["witness"] if ":" in line)
    ranks = sorted(line for line in told["witness"] if "ended:" in line)
    assert int(counted["trained"]) > 0, "the group has threads while the trainer is there"
    assert ranks == ["0 ended:0", "1 ended:0"]
