"""A run on a live server is the run that the learner's own answers would have made."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from coordexp.artifacts.dump_files import OBSERVED as DUMPED
from coordexp.artifacts.files import read_json_lines
from coordexp.rollout.vllm_server import OBSERVED
from coordexp.spec import check
from tests.ddp.ranks import read_log, train
from tests.plugins.stage2 import EARLY

if TYPE_CHECKING:
    from pathlib import Path

    from tests.plugins.live_server import Live
    from tests.plugins.stage2 import Stage2Kit

pytestmark = [pytest.mark.server, pytest.mark.timeout(600), pytest.mark.xdist_group("live")]
RATE = 1e-4
SETTINGS: dict[str, Any] = {
    "max_steps": 4,
    "effective_batch_size": 4,
    "eval_strategy": "steps",
    "eval_steps": 2,
    "learning_rate": RATE,
    "vit_lr": RATE,
    "aligner_lr": RATE,
    "lr_scheduler_type": "constant_with_warmup",
    "lr_scheduler_kwargs": {"min_lr": None},
    "warmup_ratio": 0.25,
}
ROLLOUTS = {"max_new_tokens": 160, "decode_batch_size": 3}
DUMP = {"enabled": True, "every_steps": 1, "max_samples": 3, "max_chars": 120}


def run(kit: Stage2Kit, name: str, ranks: int = 1, vllm: dict[str, Any] | None = None, **rollouts: Any) -> Path:
    """The folder of a finished run of both channels, every other step on rollouts."""
    backend = {} if vllm is None else {"rollout_backend": "vllm", "vllm": vllm}
    path = kit.write(
        name,
        model={"model": str(EARLY)},
        training=SETTINGS,
        stage2_ab={"schedule": {"b_ratio": 0.5}, "n_softctx_iter": 2},
        custom={"trainer_variant": "stage2_two_channel"},
        rollout_matching={"pipeline": None, **ROLLOUTS, **backend, **rollouts},
    )
    return train(path, ranks)[1]


def comparable(line: dict[str, float]) -> dict[str, float]:
    """What does not tell the time, and what both backends say."""
    servers = (*OBSERVED, *DUMPED)
    return {
        key: value
        for key, value in line.items()
        if "time/" not in key and "runtime" not in key and not key.endswith(("_per_second", *servers))
    }


def check_requests(live: Live, folder: Path, log: list[dict[str, float]]) -> None:
    """The dumps of requests: rollout steps 1 and 3, and evaluations after 2 and 4, of three requests a round."""
    assert sorted(path.name for path in (folder / "requests").iterdir()) == [
        "eval_000002.jsonl",
        "eval_000004.jsonl",
        "step_000001.jsonl",
        "step_000003.jsonl",
    ]
    for path in (folder / "requests").iterdir():
        lines = [check("request-dump", line) for line in read_json_lines(path)]
        assert live.key.encode() not in path.read_bytes()
        # The epoch's last step has two records.
        asked = 2 if path.name == "step_000003.jsonl" else 3
        assert len(lines) == asked == len({line["request"]["seed"] for line in lines})
        for line in lines:
            kind = "eval" if line["mode"] == "eval" else "step"
            assert path.name == f"{kind}_{line['policy_version']:06}.jsonl"
            assert line["server"] == live.base_url and line["request_config"]["max_tokens"] == 160
            (image,) = line["request"]["images"]
            assert image["bytes"] > 100
            contents = [message["content"] for message in line["request"]["messages"]]
            assert "<image>" in contents[-1] and max(map(len, contents)) <= 120
            answer = line["answer"]
            assert answer["text"].startswith('{"objects": [') and len(answer["text"]) <= 120
            assert 1 < answer["response_tokens"] <= 160 and answer["prompt_tokens"] > 20
            assert len(answer["reply"]) == 120 < answer["reply_chars"] and '"server_id"' in answer["reply"]
    dumped = [line for line in log for key in line if key.endswith("rollout/dumps_written_total")]
    assert len(dumped) == 4


@pytest.mark.invariant("ROLL-072")
@pytest.mark.invariant("ROLL-034")
@pytest.mark.invariant("ROLL-036")
def test_a_run_on_the_server_is_the_run_on_the_learner_s_own_answers(live: Live, stage2_kit: Stage2Kit) -> None:
    served = run(stage2_kit, "run_served", vllm=live.section(debug_dump=DUMP))
    own = run(stage2_kit, "run_own")
    lines, twins = read_log(served), read_log(own)
    assert len(lines) == len(twins) > 5
    check_requests(live, served, lines)
    for line, twin in zip(lines, twins, strict=True):
        assert comparable(line) == pytest.approx(comparable(twin), rel=1e-4, abs=1e-5)
    steps = [line for line in lines if "loss/coord_reg" in line or "rollout/samples_total" in line or "loss" in line]
    rolled = [line for line in lines if "rollout/samples_total" in line]
    evaluations = [line for line in lines if "eval_rollout/samples_total" in line]
    assert len(rolled) == 2 and len(evaluations) == 2 and len(steps) > len(rolled)
    for line, prefix in [(line, "") for line in rolled] + [(line, "eval_") for line in evaluations]:
        assert line[f"{prefix}rollout/logprob_gap_mean"] < 1e-4
        assert line[f"{prefix}rollout/server_retries_total"] == 0
    # Steps 1 and 3 roll out with the weights before them, evaluations with those after steps 2 and 4.
    pushes = [line["rollout/weight_pushes_total"] for line in rolled if "rollout/weight_pushes_total" in line]
    pushes += [line.get("eval_rollout/weight_pushes_total", 0) for line in evaluations]
    assert sum(pushes) == 4
    assert all(line["rollout/canary_gap_max"] < 2e-4 for line in rolled)
    manifest = check("run-manifest", json.loads((served / "run_manifest.json").read_text(encoding="utf-8")))
    told = manifest["launch"]["rollout_servers"]
    assert list(told) == [live.base_url]
    sent = {"max_tokens": 160, "temperature": 0.0, "top_p": 1.0, "top_k": -1, "repetition_penalty": 1.0}
    assert manifest["launch"]["request_config"] == {**sent, "logprobs": True, "return_details": True}
    liveness = check("http/liveness", told[live.base_url])
    assert liveness["workers"][0]["model"] == str(EARLY) and "--port" in liveness["command"]
    assert "did not start it" in manifest["launch"]["server"]["unknown"]
    assert manifest["upstream"]["vllm"]["kind"] == "wheel" and manifest["hardware"]["cpu"]["cores"] >= 1
    assert live.key not in json.dumps(manifest)


@pytest.mark.invariant("ROLL-036")
@pytest.mark.ddp
def test_two_ranks_on_one_server_are_one(live: Live, stage2_kit: Stage2Kit) -> None:
    """Sampled, so that the seeds of requests over both ranks count; rank 0 alone pushes."""
    drawn = {"decoding": {"temperature": 0.8}, "decode_batch_size": 4}
    alone = read_log(run(stage2_kit, "one_rank", vllm=live.section(), **drawn))
    both = read_log(run(stage2_kit, "two_ranks", ranks=2, vllm=live.section(), **drawn))
    unlike = ("packing/", "data/tokens_total", "eval_data/tokens_total", "eval_packing/", "eval_samples", "train_")
    for line, twin in zip(alone, both, strict=True):
        one, other = (
            {k: v for k, v in comparable(x).items() if not k.startswith(unlike) and not k.endswith(("_p90", "_p99"))}
            for x in (line, twin)
        )
        assert one == pytest.approx(other, rel=2e-3, abs=2e-4)
