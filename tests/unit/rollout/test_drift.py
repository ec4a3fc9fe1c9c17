"""A server that runs something else than the configuration says, fact by fact, is refused with key and both values."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from coordexp.config import load_config
from coordexp.encode.vocabulary import fingerprint_tokenizer
from coordexp.rollout.drift import Expected, check_liveness, expected_of
from coordexp.rollout.wire import RolloutServerError
from tests.plugins.rogue_answers import liveness, recorded

if TYPE_CHECKING:
    from coordexp.config import Config
    from coordexp.encode.encoder import Encoder
    from tests.plugins.stage2 import Stage2Kit

URL = "http://127.0.0.1:8000"
VERSIONS = {"torch": "2.13.0+cpu", "transformers": "5.19.0", "ms-swift": "4.6.0", "vllm": "0.32.0"}
TOKENIZER = recorded("liveness")["workers"][0]["tokenizer"]
SERVER = {"servers": [{"base_url": URL, "group_port": 51216}]}


def load(kit: Stage2Kit, name: str, model: dict[str, Any] | None = None, training: dict[str, Any] | None = None) -> Any:
    vllm = {"max_model_len": 900, "enable_prefix_caching": False, "server": SERVER}
    sections: dict[str, Any] = {
        "rollout_matching": {"rollout_backend": "vllm", "vllm": vllm, "decode_batch_size": 4, "max_new_tokens": 64},
        "template": {"max_pixels": 65536},
    }
    return load_config(kit.write(f"drift_{name}", model=(model or {}), training=(training or {}), **sections))


@pytest.fixture(scope="module")
def config(stage2_kit: Stage2Kit) -> Config:
    found: Config = load(stage2_kit, "plain")
    return found


@pytest.fixture(scope="module")
def expected(config: Config) -> Expected:
    return expected_of(config, Path("/models/tiny"), VERSIONS, TOKENIZER)


WORKER = {"model": "/models/tiny", "max_pixels": 65536, "max_model_len": 900}


def refusal(answer: dict[str, Any], expected: Expected) -> list[str]:
    with pytest.raises(RolloutServerError) as refused:
        check_liveness(URL, answer, expected)
    first, *faults, last = str(refused.value).splitlines()
    assert first.startswith(f"rollout server {URL} does not run what the configuration says")
    assert last == "Start it again with this configuration."
    return [fault.strip() for fault in faults]


@pytest.mark.invariant("ROLL-017")
def test_a_server_that_runs_what_the_configuration_says_is_taken(expected: Expected) -> None:
    check_liveness(URL, liveness(WORKER), expected)
    # Neither changes an answer.
    check_liveness(URL, liveness(WORKER | {"max_num_seqs": 1}, tensor_parallel_size=2, command=[]), expected)


ALTERED: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "model": (
        {"model": "/models/other"},
        {},
        "model: the server has /models/other, the learner needs /models/tiny (model.model)",
    ),
    "model_type": ({"model_type": "qwen2_vl"}, {}, "the learner needs qwen3_vl (model.model_type)"),
    "template": ({"template": "qwen2_vl"}, {}, "the learner needs qwen3_vl (template.template)"),
    "max_pixels": (
        {"max_pixels": None},
        {},
        "max_pixels: the server has None, the learner needs 65536 (template.max_pixels)",
    ),
    "dtype": (
        {"dtype": "bfloat16"},
        {},
        "dtype: the server has bfloat16, the learner needs float32 (model.torch_dtype, training.bf16 and fp16)",
    ),
    "max_model_len": (
        {"max_model_len": 1024},
        {},
        "the server has 1024, the learner needs 900 (rollout_matching.vllm.max_model_len)",
    ),
    "enable_prefix_caching": (
        {"enable_prefix_caching": True},
        {},
        "the server has True, the learner needs False (rollout_matching.vllm.enable_prefix_caching)",
    ),
    "enable_lora": ({"enable_lora": True}, {}, "the server has True, the learner needs False (weights are pushed"),
    "logprobs_mode": ({"logprobs_mode": "processed_logprobs"}, {}, "the learner needs raw_logprobs"),
    "engine_type": ({}, {"engine_type": "async"}, "the server has async, the learner needs sync"),
    "per_request_seeds": ({}, {"per_request_seeds": False}, "the server has False, the learner needs True"),
    "repeat_terminate": ({"repeat_terminate": "0" * 64}, {}, "the learner needs None (rollout_matching.repeat_term"),
    **{
        f"versions.{name}": ({}, {"versions": VERSIONS | {name: "9.9"}}, f"has 9.9, the learner needs {version} (the")
        for name, version in VERSIONS.items()
    },
}


@pytest.mark.invariant("ROLL-017")
@pytest.mark.parametrize("key", ALTERED)
def test_one_fact_that_differs_is_named_with_both_values(expected: Expected, key: str) -> None:
    worker, facts, words = ALTERED[key]
    (fault,) = refusal(liveness(WORKER | worker, **facts), expected)
    assert fault.startswith(f"{key}: the server has ") and words in fault


@pytest.mark.invariant("ROLL-017")
def test_every_expected_fact_is_altered_above(expected: Expected) -> None:
    assert ALTERED.keys() == expected.facts.keys()


@pytest.mark.invariant("ROLL-017")
@pytest.mark.parametrize("key", TOKENIZER)
def test_a_tokenizer_that_differs_is_named_by_what_differs(expected: Expected, key: str) -> None:
    other = {"coords": [404, 1404], "size": 1405, "end_of_turn": 3}.get(key, "f" * 64)
    (fault,) = refusal(liveness(WORKER | {"tokenizer": TOKENIZER | {key: other}}), expected)
    assert fault.startswith(f"tokenizer.{key}: the server has ") and fault.endswith("(model.model)")
    assert (str(tuple(other)) if isinstance(other, list) else str(other)) in fault


@pytest.mark.invariant("ROLL-017")
def test_a_tokenizer_is_left_to_whoever_has_one(config: Config) -> None:
    answer = liveness(WORKER | {"tokenizer": TOKENIZER | {"size": 3}})
    check_liveness(URL, answer, expected_of(config, Path("/models/tiny"), VERSIONS))


@pytest.mark.invariant("ROLL-017")
def test_an_absent_package_is_a_difference(expected: Expected) -> None:
    versions = {name: version for name, version in VERSIONS.items() if name != "vllm"}
    assert refusal(liveness(WORKER, versions=versions), expected) == [
        "versions.vllm: the server has None, the learner needs 0.32.0 (the learner's environment)"
    ]


@pytest.mark.invariant("ROLL-017")
def test_workers_that_disagree_are_refused_whichever_is_right(expected: Expected) -> None:
    for order in (1, -1):
        answer = liveness(WORKER)
        right = answer["workers"][0]
        wrong = right | {"dtype": "float16", "tokenizer": TOKENIZER | {"size": 9}}
        answer["workers"] = [right, wrong][::order]
        assert [fault.split(",")[0] for fault in refusal(answer, expected)] == [
            "dtype: the server has float16",
            "tokenizer.size: the server has 9",
        ]


@pytest.mark.invariant("ROLL-017")
def test_all_faults_are_told_at_once(expected: Expected) -> None:
    faults = refusal(liveness(WORKER | {"dtype": "float16", "max_pixels": 9}, engine_type="async"), expected)
    assert [fault.split(":")[0] for fault in faults] == ["max_pixels", "dtype", "engine_type"]


@pytest.mark.invariant("ROLL-017")
@pytest.mark.parametrize(
    ("model", "training", "dtype"),
    [
        ({}, {}, "float32"),
        ({}, {"bf16": True}, "bfloat16"),
        ({"torch_dtype": "bfloat16"}, {}, "bfloat16"),
    ],
)
def test_the_type_of_answers_is_the_one_that_the_learner_computes_in(
    stage2_kit: Stage2Kit, model: dict[str, Any], training: dict[str, Any], dtype: str
) -> None:
    model = {"model": str(stage2_kit.stage1.checkpoint), **model}
    config = load(stage2_kit, f"dtype_{len(model)}{len(training)}", model, training)
    assert expected_of(config, Path("/m"), {}).facts["dtype"][0] == dtype


@pytest.mark.invariant("ROLL-017")
def test_the_fingerprint_is_that_of_the_encoder_s_tokenizer(cut_encoder: Encoder, real_encoder: Encoder) -> None:
    cut, real = (fingerprint_tokenizer(encoder.tokenizer) for encoder in (cut_encoder, real_encoder))
    assert cut.keys() == real.keys() == TOKENIZER.keys()
    assert {key for key in cut if cut[key] == real[key]} <= {"rules"}
    assert cut["coords"][1] - cut["coords"][0] == 999 and real["coords"] == [151670, 152669]
