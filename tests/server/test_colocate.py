"""An engine in the learner's own process writes what the learner would, and leaves the learner as it was."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from coordexp.rollout.colocate import OBSERVED
from coordexp.spec import check
from tests.ddp.ranks import read_log
from tests.plugins.launches import ROOT
from tests.plugins.stage2 import EARLY
from tests.server.test_shipped_runs import TIMED, run_alone, sections

if TYPE_CHECKING:
    from tests.plugins.stage1 import Stage1Kit
    from tests.plugins.stage2 import Stage2Kit

pytestmark = [pytest.mark.server, pytest.mark.timeout(600), pytest.mark.xdist_group("shipped")]
SHIPPED = "stage2_two_channel/smoke/ab_mixed_colocate.yaml"
TWIN = "stage2_two_channel/smoke/ab_mixed_hf.yaml"
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
NOT_THE_LEARNERS = "the rollout engine in this process does not run the learner's weights"


@pytest.fixture(scope="module")
def seen(stage2_kit: Stage2Kit) -> dict[str, Any]:
    """What `engine_checks` has found, with LoRA and coord offsets."""
    path = stage2_kit.write(
        "engine_checks",
        model={"model": str(EARLY)},
        tuner={"tuner_type": "lora", "lora_rank": 4, "lora_alpha": 16, "target_modules": ["all-linear"]},
        custom={"coord_offset": {"enabled": True, "tie_head": True}},
        rollout_matching={
            "rollout_backend": "vllm",
            "max_new_tokens": 160,
            "decode_batch_size": 3,
            "repeat_terminate": {"enabled": True, "min_new_tokens": 24, "max_object_keys": 3},
            "vllm": {"mode": "colocate", "max_model_len": 1024, "colocate": {"gpu_memory_utilization": 0.2}},
        },
    )
    report = path.parent / "found.json"
    done = subprocess.run(
        [sys.executable, "-m", "tests.server.engine_checks", str(path), str(report)],
        env={**os.environ, **ENVIRONMENT},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(report.read_text(encoding="utf-8"))
    return found


def ids(answers: list[dict[str, Any]]) -> list[list[int]]:
    return [answer["ids"] for answer in answers]


@pytest.mark.invariant("ROLL-060")
@pytest.mark.invariant("BRIDGE-012")
@pytest.mark.parametrize("when", ["first", "second", "third"])
def test_greedy_answers_are_the_learner_s_own(seen: dict[str, Any], when: str) -> None:
    engine, learner = seen[when]["engine"], seen[when]["learner"]
    assert ids(engine) == ids(learner)
    assert [answer["reason"] for answer in engine] == [answer["reason"] for answer in learner]
    assert {answer["version"] for answer in engine} == {["first", "second", "third"].index(when)}
    assert [answer["repeat"] for answer in engine] == [answer["repeat"] for answer in learner]
    for ours, theirs in zip(engine, learner, strict=True):
        assert ours["logprobs"] == pytest.approx(theirs["logprobs"], abs=1e-4)


@pytest.mark.invariant("ROLL-054")
def test_answers_by_the_grammar_are_the_learner_s_own_and_are_ended_where_they_repeat_themselves(
    seen: dict[str, Any],
) -> None:
    engine, learner = seen["grammar"]["engine"], seen["grammar"]["learner"]
    assert ids(engine) == ids(learner)
    assert not [answer for answer in ids(engine) if answer in ids(seen["first"]["engine"])]
    assert [answer["repeat"] for answer in engine] == [answer["repeat"] for answer in learner]
    assert any(answer["repeat"] for answer in engine), "an end that the mask would not allow"
    for ours, theirs in zip(engine, learner, strict=True):
        assert ours["reason"] == theirs["reason"]
        assert ours["logprobs"] == pytest.approx(theirs["logprobs"], abs=1e-4)


@pytest.mark.invariant("ROLL-066")
def test_answers_that_repeat_themselves_are_ended_in_the_engine_too(seen: dict[str, Any]) -> None:
    ended = [answer["repeat"] for when in ("first", "second", "third") for answer in seen[when]["engine"]]
    assert True in ended and False in ended
    assert seen["described"]["repeat_terminate"] is not None


@pytest.mark.invariant("ROLL-060")
def test_a_drawn_answer_depends_on_its_seed_and_not_on_its_batch(seen: dict[str, Any]) -> None:
    together, alone = seen["drawn"]
    assert ids(together) == ids(alone)
    assert ids(together) != ids(seen["third"]["engine"]), "it is drawn"
    assert together[0]["ids"] != together[3]["ids"], "requests 0 and 3 are one prompt, by two seeds"


@pytest.mark.invariant("ROLL-061")
@pytest.mark.invariant("BRIDGE-012")
def test_weights_arrive_when_they_are_loaded_and_not_before(seen: dict[str, Any]) -> None:
    assert seen["version"] == [-1]
    assert seen["unmoved"] == seen["moved"] == seen["tower"] == seen["again"] == "", "each load is proven"
    assert ids(seen["stale"]) == ids(seen["first"]["engine"])[:2], "the learner has moved, and the engine has not"
    assert ids(seen["second"]["engine"]) != ids(seen["first"]["engine"])
    assert seen["observed"]["rollout/weight_pushes_total"] == [3.0, 0.0]


@pytest.mark.invariant("ROLL-061")
def test_a_load_that_does_not_arrive_is_found(seen: dict[str, Any]) -> None:
    assert NOT_THE_LEARNERS in seen["ignored"] and "write rollout_backend: hf or mode: server" in seen["ignored"]
    assert "weights of the engine were not given, visual." in seen["without_vision"]


@pytest.mark.invariant("BRIDGE-014")
def test_nothing_that_old_weights_computed_is_used_again(seen: dict[str, Any]) -> None:
    assert ids(seen["third"]["engine"]) == ids(seen["third"]["learner"])
    assert ids(seen["third"]["engine"]) != ids(seen["second"]["engine"]), "the tower's change is one that answers show"


@pytest.mark.invariant("BRIDGE-013")
def test_the_learner_s_process_is_as_it_was(seen: dict[str, Any]) -> None:
    for name in ("build", "use"):
        before, after = seen[name]
        assert {key for key in before if before[key] != after[key]} == set(), name
    assert seen["build"][0]["threads"] == 1 and seen["build"][0]["set_num_threads"] == "torch"


@pytest.mark.invariant("TRAIN-071")
def test_the_engine_ends_with_the_run(seen: dict[str, Any]) -> None:
    assert seen["group"] == [True, False] and seen["children"] == []


@pytest.mark.invariant("ROLL-062")
@pytest.mark.invariant("TRAIN-072")
def test_a_shipped_run_with_an_engine_is_its_twin_without(stage1_kit: Stage1Kit, tmp_path: Path) -> None:
    folder = tmp_path / "engine"
    folder.mkdir()
    given = sections(stage1_kit, 4)
    given["training"] |= {"output_dir": str(folder / "run"), "logging_dir": str(folder / "tb"), "add_version": False}
    config = folder / "run.yaml"
    config.write_text(yaml.safe_dump({"extends": str(ROOT / "configs" / SHIPPED), **given}), encoding="utf-8")
    done = subprocess.run(
        ["bash", str(ROOT / "scripts/train.sh")],
        env={**os.environ, **ENVIRONMENT, "config": str(config)},
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Traceback" not in done.stderr and "the rollout engine stays awake" in done.stderr
    lines, twins = read_log(folder / "run"), read_log(run_alone(stage1_kit, tmp_path / "alone", TWIN, 4))
    for line, twin in zip(lines, twins, strict=True):
        one, other = (
            {key: value for key, value in each.items() if "time/" not in key and not key.endswith(TIMED)}
            for each in (line, twin)
        )
        assert one == pytest.approx(other, rel=1e-4, abs=1e-5)
    rolled = [line for line in lines if "rollout/samples_total" in line]
    evaluated = [line for line in lines if "eval_rollout/samples_total" in line]
    assert len(rolled) == len(evaluated) == 1
    for line, prefix in ((rolled[0], ""), (evaluated[0], "eval_")):
        # The fourth step is the one that rolls out, and the evaluation follows it: each by newer weights.
        assert {f"{prefix}{key}" for key in OBSERVED} <= line.keys()
        assert line[f"{prefix}rollout/weight_pushes_total"] == 1
        assert line[f"{prefix}rollout/canary_gap_max"] < 2e-4 and line[f"{prefix}rollout/logprob_gap_mean"] < 1e-4
        assert f"{prefix}rollout/server_retries_total" not in line
    launch = check("run-manifest", json.loads((folder / "run/run_manifest.json").read_text(encoding="utf-8")))["launch"]
    engine = launch["rollout_engine"]
    assert engine["model"] == str(ROOT / "fixtures/tiny-qwen3vl") and engine["dtype"] == "float32"
    assert engine["max_model_len"] == 1024 and engine["max_num_seqs"] == 8
    assert launch["request_config"]["max_tokens"] == 256 and "rollout_servers" not in launch
