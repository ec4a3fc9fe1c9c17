"""contracts/http/ against ms-swift's own app without an engine, with and without the plugin; and its case files."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from PIL import Image

from coordexp.rollout.types import Decoding, RolloutRequest
from coordexp.rollout.vllm_client import build_body
from coordexp.rollout.weight_link import flatten
from coordexp.rollout.wire import Endpoint, load_endpoints
from coordexp.spec import ContractViolation, check, load_cases
from tests.plugins.rogue_answers import recorded
from tests.plugins.rollout_app import KEY, ask_app

if TYPE_CHECKING:
    from coordexp.encode.encoder import Encoder

ROOT = Path(__file__).resolve().parents[2]
CASES = [
    (path.stem, case) for path in sorted((ROOT / "fixtures").glob("http/*.json")) for case in load_cases(path).cases
]
ENDPOINTS = load_endpoints()
OURS = "/coordexp/liveness/"
DECODING = Decoding(24, temperature=0.7, top_p=0.8, top_k=40, repetition_penalty=1.1, seed_base=2**31 - 2)
pytestmark = pytest.mark.timeout(300)


@pytest.mark.invariant("ROLL-028")
@pytest.mark.parametrize(("name", "case"), CASES, ids=[f"{name}: {case.description}" for name, case in CASES])
def test_a_body_is_valid_or_not_as_its_case_says(name: str, case: Any) -> None:
    if case.valid:
        assert check(f"http/{name}", case.input) == case.input
    else:
        with pytest.raises(ContractViolation, match=rf"coordexp:http/({name}|envelope)"):
            check(f"http/{name}", case.input)


@pytest.mark.invariant("ROLL-028")
def test_every_contract_has_cases_and_is_used() -> None:
    schemas = {path.name.removesuffix(".schema.json") for path in (ROOT / "contracts/http").glob("*.schema.json")}
    assert {name for name, _ in CASES} == schemas
    named = {row.request for row in ENDPOINTS.values()} | {row.response for row in ENDPOINTS.values()}
    assert named - {None} == {f"http/{name}" for name in schemas - {"endpoints", "envelope", "error"}}


@pytest.fixture(scope="module")
def bodies(cut_encoder: Encoder, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the learner sends to each path that takes a body."""
    path = tmp_path_factory.mktemp("http") / "a.png"
    Image.new("RGB", (64, 64), "red").save(path)
    requests = [RolloutRequest(f"sample-{index}", (1, 2), (path,), index, ((64, 64),)) for index in range(2)]
    rows, _ = flatten([("a", torch.ones(2, 3)), ("b", torch.ones(5, dtype=torch.bfloat16)), ("c", torch.ones(2))])
    return {
        "/infer/": build_body(requests, DECODING, cut_encoder.messages("<image>")),
        "/update_flattened_params/": {"metadatas": rows},
        "/init_communicator/": {"host": "127.0.0.1", "port": 51216, "world_size": 2},
    }


def call(path: str, bodies: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    told = {"method": ENDPOINTS[path].method, "path": path, **more}
    return told | ({"body": bodies[path]} if path in bodies else {})


def missing_routes(rows: Sequence[Endpoint], routes: Sequence[Sequence[str]]) -> list[str]:
    """Paths that the contract names and the app has not, or not by that method."""
    return [f"{row.method} {row.path}" for row in rows if [row.path, row.method] not in [list(r) for r in routes]]


PUSHED = "/process_weights_after_loading/"
REQUIRED = {
    "/infer/": ("infer_requests",),
    "/init_communicator/": ("host", "port", "world_size"),
    "/update_flattened_params/": ("metadatas",),
}


def incomplete(bodies: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Calls whose body lacks one key that upstream's model requires."""
    found = [
        (path, {name: value for name, value in bodies[path].items() if name != key})
        for path, keys in REQUIRED.items()
        for key in keys
    ]
    update = "/update_flattened_params/"
    row = bodies[update]["metadatas"][0]
    found += [(update, {"metadatas": [{n: v for n, v in row.items() if n != key}]}) for key in row]
    return [{"method": "POST", "path": path, "key": KEY, "body": body} for path, body in found]


@pytest.fixture(scope="module")
def asked(bodies: dict[str, Any]) -> Callable[[bool], dict[str, Any]]:
    """Every endpoint, with and without the plugin: by the right key, a wrong one, and none; then what else is asked."""
    done: dict[bool, dict[str, Any]] = {}
    outputs = [{k: v for k, v in recorded("infer-output").items() if k != "coordexp"}] * 2

    def ask(plugin: bool) -> dict[str, Any]:
        if plugin not in done:
            calls = {
                "right": [call(path, bodies, key=KEY) for path in ENDPOINTS],
                "wrong": [call(path, bodies, key="wrong") for path in ENDPOINTS],
                "none": [call(path, bodies) for path in ENDPOINTS],
                "failing": [call(path, bodies, key=KEY, fails=True) for path in (OURS, "/infer/")],
                "pushed": [call(path, bodies, key=KEY) for path in (OURS, PUSHED, OURS)],
                "incomplete": incomplete(bodies),
            }
            found = ask_app(plugin, [each for kind in calls.values() for each in kind], outputs)
            done[plugin], answers = {"routes": found["routes"]}, iter(found["answers"])
            for kind, asked_for in calls.items():
                given = [next(answers) for _ in asked_for]
                by_path = kind in ("right", "wrong", "none")
                done[plugin][kind] = dict(zip(ENDPOINTS, given, strict=True)) if by_path else given
        return done[plugin]

    return ask


@pytest.mark.invariant("BRIDGE-011")
@pytest.mark.invariant("ROLL-028")
@pytest.mark.parametrize("plugin", [False, True])
def test_the_app_has_every_endpoint_of_the_contract(asked: Callable[[bool], dict[str, Any]], plugin: bool) -> None:
    missing = missing_routes(list(ENDPOINTS.values()), asked(plugin)["routes"])
    assert missing == ([] if plugin else [f"GET {OURS}"]), "the project's own route comes with its plugin alone"


@pytest.mark.invariant("ROLL-028")
def test_an_endpoint_that_the_app_lacks_is_named(asked: Callable[[bool], dict[str, Any]]) -> None:
    planted = [
        Endpoint("/gone/", "POST", True, None, "http/message", True),
        Endpoint("/infer/", "GET", True, None, "http/infer-output", True),
        Endpoint("/infer/", "POST", True, "http/infer-request", "http/infer-output", True),
    ]
    assert missing_routes(planted, asked(True)["routes"]) == ["POST /gone/", "GET /infer/"]


@pytest.mark.invariant("ROLL-028")
@pytest.mark.parametrize("plugin", [False, True])
@pytest.mark.parametrize("path", ENDPOINTS)
def test_an_endpoint_asks_for_the_key_as_the_contract_says(
    asked: Callable[[bool], dict[str, Any]], plugin: bool, path: str
) -> None:
    found = asked(plugin)
    if path == OURS and not plugin:
        assert [found[kind][path]["status"] for kind in ("right", "wrong", "none")] == [404] * 3
        check("http/error", found["right"][path]["body"])
        return
    wanted = 401 if ENDPOINTS[path].key else 200
    assert [found[kind][path]["status"] for kind in ("right", "wrong", "none")] == [200, wanted, wanted]
    if wanted == 401:
        for kind in ("wrong", "none"):
            check("http/error", found[kind][path]["body"])
            assert found[kind][path]["commands"] == [], "no worker hears of it"


@pytest.mark.invariant("ROLL-028")
@pytest.mark.parametrize("path", ENDPOINTS)
def test_an_answer_fits_its_contract(asked: Callable[[bool], dict[str, Any]], path: str) -> None:
    body = asked(True)["right"][path]["body"]
    for item in body if path == "/infer/" else [body]:
        assert check(ENDPOINTS[path].response, item) == item


@pytest.mark.invariant("BRIDGE-010")
def test_an_output_loses_nothing_and_gains_the_envelope_of_its_request(
    asked: Callable[[bool], dict[str, Any]],
) -> None:
    plain, hooked = (asked(plugin)["right"]["/infer/"]["body"] for plugin in (False, True))
    server_id = asked(True)["right"][OURS]["body"]["server_id"]
    assert [{key: value for key, value in output.items() if key != "coordexp"} for output in hooked] == plain
    loads = 1
    assert [output["coordexp"] for output in hooked] == [
        {"server_id": server_id, "weight_loads": hooked[0]["coordexp"]["weight_loads"], "seed": seed,
         "repeat_terminate_triggered": 0}
        for seed in (2**31 - 2, 2**31 - 1)
    ]  # fmt: skip
    assert hooked[0]["coordexp"]["weight_loads"] == loads - 1, "the push of this list of calls comes after it"


@pytest.mark.invariant("BRIDGE-010")
def test_a_finished_push_is_counted_and_nothing_else(asked: Callable[[bool], dict[str, Any]]) -> None:
    before, _, after = asked(True)["pushed"]
    assert [answer["body"]["weight_loads"] for answer in (before, after)] == [1, 2], "one with the right key before"


@pytest.mark.invariant("BRIDGE-009")
def test_a_worker_that_cannot_describe_itself_is_an_error(asked: Callable[[bool], dict[str, Any]]) -> None:
    answer, _ = asked(True)["failing"]
    assert answer["status"] == 500 and "a worker could not describe itself" in answer["body"]["detail"]


@pytest.mark.invariant("ROLL-028")
def test_upstream_reads_what_is_sent_as_it_was_meant(
    asked: Callable[[bool], dict[str, Any]], bodies: dict[str, Any]
) -> None:
    told = {path: asked(True)["right"][path]["commands"] for path in bodies}
    (infer,) = told["/infer/"]
    given, sent = infer["kwargs"], bodies["/infer/"]
    assert infer["method"] == "infer" and given["infer_requests"] == sent["infer_requests"]
    wanted = sent["request_config"]
    assert {key: given["request_config"][key] for key in wanted} == wanted
    rest = {key: value for key, value in given["request_config"].items() if key not in wanted}
    assert rest == {
        "min_p": None, "num_beams": 1, "stop": [], "seed": None, "stream": False, "top_logprobs": None,
        "prompt_logprobs": None, "n": 1, "best_of": None, "presence_penalty": 0.0, "frequency_penalty": 0.0,
        "length_penalty": 1.0, "structured_outputs_regex": None,
    }, "a knob that upstream has besides is off"  # fmt: skip
    (update,) = told["/update_flattened_params/"]
    assert update["kwargs"]["method"] == "update_flattened_params"
    assert update["kwargs"]["args"] == [bodies["/update_flattened_params/"]["metadatas"]]
    init = next(
        command for command in told["/init_communicator/"] if command["kwargs"]["method"] == "init_communicator"
    )
    assert {"127.0.0.1", 51216} <= set(init["kwargs"]["args"]) | set(init["kwargs"].get("kwargs", {}).values())


@pytest.mark.invariant("ROLL-028")
def test_what_upstream_requires_the_contract_requires(
    asked: Callable[[bool], dict[str, Any]], bodies: dict[str, Any]
) -> None:
    for made, answer in zip(incomplete(bodies), asked(True)["incomplete"], strict=True):
        assert answer["status"] == 422, made
        check("http/error", answer["body"])
        contract = ENDPOINTS[made["path"]].request
        assert contract is not None
        with pytest.raises(ContractViolation):
            check(contract, made["body"])


@pytest.mark.invariant("ROLL-028")
def test_an_engine_that_fails_is_a_500_without_a_body(asked: Callable[[bool], dict[str, Any]]) -> None:
    _, answer = asked(True)["failing"]
    assert (answer["status"], answer["body"], answer["text"]) == (500, None, "Internal Server Error")


@pytest.mark.invariant("ROLL-028")
def test_parsed_by_upstream_s_own_classes_nothing_is_lost(bodies: dict[str, Any]) -> None:
    from swift.infer_engine.protocol import InitCommunicatorRequest, RequestConfig, RolloutInferRequest
    from swift.rlhf_trainers.utils import UpdateFlattenedParamsRequest

    body = bodies["/infer/"]
    for row in body["infer_requests"]:
        parsed = RolloutInferRequest(messages=row["messages"], images=row["images"])
        assert (parsed.messages, parsed.images) == (row["messages"], row["images"])
        assert base64.b64decode(row["images"][0])[:4] == b"\x89PNG"
    config = RequestConfig(**body["request_config"])
    assert {key: getattr(config, key) for key in body["request_config"]} == body["request_config"]
    rows = bodies["/update_flattened_params/"]["metadatas"]
    update = UpdateFlattenedParamsRequest(metadatas=rows)
    assert [{**row.model_dump(), "shape": list(row.shape)} for row in update.metadatas] == rows
    init = bodies["/init_communicator/"]
    assert InitCommunicatorRequest(**init).model_dump() == init
