"""`python -m coordexp.entrypoints.train`: what it checks before it loads anything heavy, and how it refuses."""

from __future__ import annotations

import importlib
import json
import pkgutil
import re
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import coordexp
from coordexp.config import ConfigError, load_config
from coordexp.config.rules import build_rule
from coordexp.entrypoints.train import TRAINERS, main
from coordexp.losses.defaults import resolve_manifest
from coordexp.losses.manifest import checksum, render_canonical
from coordexp.training import build
from coordexp.training.trainer import FinishedRun

if TYPE_CHECKING:
    from coordexp.config import Config
    from tests.plugins.stage1 import Stage1Kit
    from tests.plugins.stage2 import Stage2Kit

ROOT = Path(__file__).resolve().parents[3]


def command(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "coordexp.entrypoints.train", *arguments],
        cwd=cwd,
        text=True,
        capture_output=True,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        timeout=120,
    )


@pytest.mark.invariant("LOSS-030")
@pytest.mark.invariant("TRAIN-012")
def test_a_dry_run_checks_the_data_and_writes_the_resolved_config(stage1_kit: Stage1Kit, tmp_path: Path) -> None:
    path = stage1_kit.write("dry")
    done = command("--config", str(path), "--dry-run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    written = path.parent / "run/resolved_config.json"
    assert json.loads(written.read_text(encoding="utf-8"))["training"]["run_name"] == "dry"
    assert load_config(written) == load_config(path)
    assert not (path.parent / "run/run_manifest.json").exists()
    manifest = resolve_manifest(load_config(path))
    assert f"config: {path}; run_name: dry; seed: 17; objective: token_ce x1 AB" in done.stderr
    assert f"; {checksum(manifest)}\n" in done.stderr
    assert f"resolved pipeline: {render_canonical(manifest)}\n" in done.stderr


@pytest.mark.invariant("TRAIN-012")
def test_bad_records_stop_the_run_before_a_model_is_loaded(
    stage1_kit: Stage1Kit, capfd: pytest.CaptureFixture[str]
) -> None:
    lines = stage1_kit.train.read_text(encoding="utf-8").splitlines()
    bad = stage1_kit.train.parent / "bad.jsonl"
    bad.write_text(
        "\n".join([lines[0], lines[1].replace('"desc"', '"name"', 1), lines[2].replace("images/", "lost/", 1)]) + "\n"
    )
    path = stage1_kit.write("bad_data", custom={"train_jsonl": str(bad)})
    for extra in ((), ("--dry-run",)):
        assert main(["--config", str(path), *extra]) == 1
        told = capfd.readouterr().err
        assert "bad.jsonl:2" in told and "bad.jsonl:3" in told
        assert "Traceback" not in told and "Loading weights" not in told


def test_a_wrong_key_is_named_with_its_line(stage1_kit: Stage1Kit, tmp_path: Path) -> None:
    path = stage1_kit.write("wrong", training={"learning_rat": 1e-3})
    done = command("--config", str(path), cwd=tmp_path)
    assert done.returncode == 1
    assert "training.learning_rat" in done.stderr and "config.yaml:" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.invariant("ART-065")
@pytest.mark.parametrize("arguments", [[], ["--dry-run"]])
def test_a_run_that_could_not_tell_of_its_data_ends_before_weights_are_loaded(
    stage1_kit: Stage1Kit,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
) -> None:
    """A record was taken out after cooking, so the drop counts beside the file are not true of it."""
    shutil.copytree(stage1_kit.train.parent, tmp_path / "cooked")
    records = tmp_path / "cooked" / stage1_kit.train.name
    records.write_text("".join(records.read_text().splitlines(keepends=True)[:-1]))
    monkeypatch.setattr(build, "build_learner", lambda *_: pytest.fail("weights are loaded"))
    path = stage1_kit.write(f"untold{len(arguments)}", custom={"train_jsonl": str(records)})
    assert main(["--config", str(path), *arguments]) == 1
    told = capsys.readouterr().err
    assert f"error: {tmp_path / 'cooked/manifest.json'}: counts 14 records but records.jsonl holds 13" in told
    assert "cook again" in told and "Traceback" not in told
    assert not (path.parent / "run").exists()


UNSUPPORTED: dict[str, Any] = {
    "custom": {"trainer_variant": "stage2_two_channel"},
    "stage2_ab": {"schedule": {"b_ratio": 0.25}},
    "rollout_matching": {
        "max_new_tokens": 256,
        "rollout_backend": "vllm",
        "vllm": {"mode": "colocate", "max_model_len": 600, "colocate": {"tensor_parallel_size": 2}},
        "pipeline": None,
    },
}
"""What stage 2 may be told and no trainer does yet."""
UNSUPPORTED_KEYS = ("rollout_matching.vllm.colocate.tensor_parallel_size",)


@pytest.mark.invariant("TRAIN-033")
def test_a_run_refuses_what_no_trainer_does_yet_and_a_dry_run_lists_it(
    stage2_kit: Stage2Kit, capsys: pytest.CaptureFixture[str]
) -> None:
    path = stage2_kit.write("unsupported", **UNSUPPORTED)
    assert main(["--config", str(path)]) == 1
    refused = capsys.readouterr().err
    assert f"error: {path}: {len(UNSUPPORTED_KEYS)} problem" in refused and not (path.parent / "run").exists()
    assert main(["--config", str(path), "--dry-run"]) == 0
    told = capsys.readouterr().err
    assert told.count("not trained by this version: ") == len(UNSUPPORTED_KEYS)
    assert "train: 14 records, val: 3 records" in told
    for key in UNSUPPORTED_KEYS:
        assert f" {key}: " in refused
        assert re.search(rf"^not trained by this version: \S+config\.yaml:\d+: {re.escape(key)}: ", told, re.MULTILINE)


MIXED: dict[str, Any] = {
    "custom": {"trainer_variant": "stage2_two_channel"},
    "stage2_ab": {"schedule": {"b_ratio": 0.25}, "n_softctx_iter": 3},
}


@pytest.mark.invariant("TRAIN-033")
@pytest.mark.parametrize("sections", [{}, MIXED], ids=["rollout_aligned", "two_channel"])
def test_what_stage_2_trains_is_refused_nowhere(
    stage2_kit: Stage2Kit, capsys: pytest.CaptureFixture[str], sections: dict[str, Any]
) -> None:
    rollouts = {"max_new_tokens": 256} | ({"pipeline": None} if sections else {})
    path = stage2_kit.write(f"supported_{len(sections)}", rollout_matching=rollouts, **sections)
    assert main(["--config", str(path), "--dry-run"]) == 0
    told = capsys.readouterr().err
    assert "train: 14 records, val: 3 records" in told
    assert "not trained by this version" not in told and "warning" not in told


@pytest.mark.invariant("TRAIN-033")
def test_a_dry_run_tells_of_a_limit_that_ground_truth_does_not_fit(stage2_kit: Stage2Kit) -> None:
    from coordexp.training.build import build_foundation
    from coordexp.training.dry_run import dry_run

    config = load_config(stage2_kit.write("limit_foundation", rollout_matching={"max_new_tokens": 256}))
    found = build_foundation(config)
    records = [record for part in found.samples.values() for record in part.records]
    samples = [found.encoder.sample(record, found.encoder.prompt(record)) for record in records]
    answers = [sample.input_ids[sample.prompt_length :].tolist() for sample in samples]
    lengths = [answer.index(found.encoder.turn.end) + 1 for answer in answers]
    most = max(lengths)  # of 17 records the 99th percentile too
    cut = rf"the ground truth of {lengths.count(most)} of 17 records is longer; the longest has {most} tokens"
    for limit, says in (
        (most - 1, cut),
        (most, None),
        (3 * most, None),
        (3 * most + 1, rf"99% of the records need {most} tokens at most"),
    ):
        told = dry_run(load_config(stage2_kit.write(f"limit_{limit}", rollout_matching={"max_new_tokens": limit})))
        warned = [line for line in told if line.startswith("warning: ")]
        assert len(warned) == (says is not None)
        for line in warned:
            assert re.search(rf"rollout_matching\.max_new_tokens: {limit}: {says}", line)


RUNS = {
    "stage1": "coordexp.training.stage1.run_stage1",
    "stage2_two_channel": "coordexp.training.stage2_two_channel.run_stage2_two_channel",
    "stage2_rollout_aligned": "coordexp.training.stage2_rollout_aligned.run_stage2_rollout_aligned",
}


def written_for(variant: str, name: str, kit: Stage2Kit) -> Path:
    """A configuration of this variant."""
    if variant == "stage1":
        return kit.stage1.write(name)
    if variant == "stage2_rollout_aligned":
        return kit.write(name)
    channels = {"stage2_ab": {"schedule": {"b_ratio": 1.0}}, "rollout_matching": {"pipeline": None}}
    return kit.write(name, custom={"trainer_variant": variant}, **channels)


@pytest.mark.invariant("TRAIN-014")
def test_each_variant_of_the_schema_has_its_trainer() -> None:
    variants = build_rule("coordexp:config/custom").properties["trainer_variant"].enum
    assert set(TRAINERS) == set(RUNS) == set(variants)


@pytest.mark.invariant("TRAIN-014")
@pytest.mark.parametrize("variant", RUNS)
def test_the_command_hands_a_configuration_to_the_trainer_that_it_names(
    variant: str, stage2_kit: Stage2Kit, monkeypatch: pytest.MonkeyPatch
) -> None:
    handed: list[tuple[str, Config]] = []

    def taken(name: str, config: Config) -> FinishedRun:
        handed.append((name, config))
        return FinishedRun(Path("weights"), ())

    for name, place in RUNS.items():
        monkeypatch.setattr(place, partial(taken, name))
    path = written_for(variant, f"handed_{variant}", stage2_kit)
    assert main(["--config", str(path)]) == 0
    assert handed == [(variant, load_config(path))]


@pytest.mark.invariant("TRAIN-014")
@pytest.mark.parametrize("variant", RUNS)
def test_a_trainer_refuses_the_configuration_of_another(variant: str, stage2_kit: Stage2Kit) -> None:
    config = load_config(written_for(variant, f"refused_{variant}", stage2_kit))
    for other, place in RUNS.items():
        if other == variant:
            continue
        module, _, function = place.rpartition(".")
        refusal = rf"custom\.trainer_variant: this trainer is {other}'s, and the configuration is one for {variant}; "
        with pytest.raises(ConfigError, match=refusal):
            getattr(importlib.import_module(module), function)(config)
    assert not (config.sources.path.parent / "run").exists()


@pytest.mark.invariant("CONFIG-026")
@pytest.mark.parametrize(("rank", "count"), [("0", 1), ("1", 0)])
def test_the_first_rank_shows_a_warning_and_goes_on(
    stage1_kit: Stage1Kit, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], rank: str, count: int
) -> None:
    monkeypatch.setenv("RANK", rank)
    path = stage1_kit.write(f"warned_{rank}", model={"torch_dtype": "bfloat16"})
    assert main(["--config", str(path), "--dry-run"]) == 0
    shown = capsys.readouterr().err
    assert shown.count("warning: ") == count
    told = f"warning: {path}:8: model.torch_dtype: full tuning of bfloat16 weights loses every update"
    assert (told in shown) == (count == 1)
    assert "resolved config: " in shown


@pytest.mark.invariant("TRAIN-025")
@pytest.mark.parametrize(
    ("place", "extra"),
    [("coordexp.training.stage1.run_stage1", []), ("coordexp.training.dry_run.dry_run", ["--dry-run"])],
    ids=["run", "dry"],
)
def test_a_fault_of_the_program_keeps_its_traceback(
    stage1_kit: Stage1Kit,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    place: str,
    extra: list[str],
) -> None:
    def planted_fault(config: object) -> None:
        raise ValueError("a fault of the program")

    monkeypatch.setattr(place, planted_fault)
    with pytest.raises(ValueError, match=r"^a fault of the program$") as raised:
        main(["--config", str(stage1_kit.write(f"fault{len(extra)}")), *extra])
    assert raised.traceback[-1].name == "planted_fault"
    assert "error: " not in capsys.readouterr().err


@pytest.mark.invariant("TRAIN-025")
def test_bad_input_is_one_message_without_a_traceback(
    stage1_kit: Stage1Kit, capsys: pytest.CaptureFixture[str]
) -> None:
    path = stage1_kit.write("large_images", template={"max_pixels": 4096})
    assert main(["--config", str(path)]) == 1
    shown = capsys.readouterr().err
    assert "error: " in shown and "train/records.jsonl:1: " in shown and "max_pixels" in shown


@pytest.mark.invariant("TRAIN-025")
def test_every_error_of_the_package_is_input_or_a_fault() -> None:
    from coordexp.training.input_errors import INPUT_ERRORS

    found = {name: kind for kind in own_errors() for name in [kind.__name__] if not issubclass(kind, INPUT_ERRORS)}
    assert sorted(found) == sorted(FAULTS)
    assert INPUT_ERRORS and not any(issubclass(ValueError, kind) for kind in INPUT_ERRORS)


FAULTS = {
    "ActivationError": "the server's, of its own environment; it ends with it",
    "RepeatGuardError": "the server's, of an answer that it returns; status 500 there",
    "CheckpointPolicyError": "what the run itself has written",
    "ClosureError": "an answer whose own closing tokens are not found; the phase of rollouts counts it",
    "CutShort": "of one HTTP exchange; the wire makes a RolloutServerError of it",
    "ExchangeError": "the same",
    "Overdue": "the same",
    "TooLarge": "the same",
    "Unreachable": "the same",
    "ContractFileError": "a contract file of the package; files of the user's are told by those who read them",
    "ContractViolation": "a document that the package itself has made",
    "PredictionError": "of the command that answers pictures; its entry point tells it",
    "ExportError": "of the command that exports a run; its entry point tells it",
    "EngineError": "of the engine in the learner's process; its backend makes a RolloutError of it",
    "Interrupted": "the launcher's, of a signal; it becomes the exit code",
    "LaunchError": "the launcher's, which shows it before a run begins",
    "RepeatedKeyError": "of one JSON object; whoever reads the file tells it",
    "SavedWeightsError": "of files just written; saving makes a TrainingError of it, and export shows it",
    "Stage2Ended": "the quick start's, which shows it",
    "SupervisionError": "the launcher's, which shows it",
    "UnservableWeights": "of a weight push, which makes a RolloutServerError of it",
    "LogError": "the check of a finished run's log, which shows it",
    "MetricError": "a key that the code logs and the table lacks",
    "ObjectiveError": "a loss that is not finite; the trainer makes a TrainingError of it",
    "TokenAlignmentError": "a token of the package's own answer",
    "UndeclaredMetricWarning": "a warning, which goes to the log",
    "UnreadableKeyError": "the configuration's own checks, among themselves",
}
"""Errors that are no input's, and whose they are."""


WITHOUT = ("coordexp.bridges.startup", "coordexp.bridges.swift_rollout", "coordexp.rollout.server_plugin.plugin")
"""Modules that no learner imports: what runs when an interpreter starts, and what changes a server's process."""


def own_errors() -> list[type[Exception]]:
    """Every exception class that a module of the package defines for others."""
    found = []
    for module in pkgutil.walk_packages(coordexp.__path__, "coordexp."):
        if module.name.startswith(WITHOUT):
            continue
        for value in vars(importlib.import_module(module.name)).values():
            own = isinstance(value, type) and value.__module__ == module.name
            if own and issubclass(value, Exception) and not value.__name__.startswith("_"):
                found.append(value)
    return found
