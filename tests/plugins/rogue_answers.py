"""What a good rollout server says, made from what one was recorded to say in fixtures/http/; and how to spoil it."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coordexp.rollout.vllm_client import LiveServer, encode_images
from coordexp.rollout.wire import ServerConnection
from tests.plugins.rogue_server import Behaviour, Call, says

if TYPE_CHECKING:
    from coordexp.rollout.types import RolloutRequest

HTTP = Path(__file__).resolve().parents[2] / "fixtures/http"
SERVER_ID = "0123456789abcdef0123456789abcdef"
ANSWER_LENGTH = 5


def recorded(name: str) -> Any:
    """The case of fixtures/http/NAME.json that comes from a live server."""
    cases = json.loads((HTTP / f"{name}.json").read_text(encoding="utf-8"))["cases"]
    return copy.deepcopy(next(case["input"] for case in cases if case["description"] == "recorded"))


def liveness(worker: Mapping[str, Any] | None = None, **facts: Any) -> dict[str, Any]:
    """A liveness answer with other facts."""
    answer = recorded("liveness")
    answer |= {"server_id": SERVER_ID, **facts}
    answer["workers"][0] |= worker or {}
    return answer


def answer_ids(number: int, stop: int) -> list[int]:
    """An answer of `ANSWER_LENGTH` tokens that differs with `number` and ends by itself."""
    return [400 + number, *range(404, 404 + ANSWER_LENGTH - 2), stop]


def output(prompt: Sequence[int], ids: Sequence[int], seed: int | None, loads: int = 0) -> dict[str, Any]:
    """An output of /infer/ with these ids, as ms-swift writes it."""
    made = recorded("infer-output")
    choice = made["response"]["choices"][0]
    row = choice["logprobs"]["content"][0]
    choice |= {"token_ids": list(ids), "finish_reason": "stop"}
    choice["logprobs"]["content"] = [{**row, "logprob": -0.5 - index} for index in range(len(ids))]
    made["response"]["prompt_token_ids"] = list(prompt)
    made["coordexp"] |= {"server_id": SERVER_ID, "weight_loads": loads, "seed": seed}
    return made


class Answers:
    """Good outputs for `requests`, known by their images; `spoil` may change those of a call before they are sent."""

    def __init__(self, requests: Sequence[RolloutRequest], stop: int, loads: int = 0) -> None:
        self.prompts = {encode_images(r)[0]: (n, r.prompt_token_ids) for n, r in enumerate(requests)}
        self.stop, self.weight_loads = stop, loads

    def outputs(self, call: Call) -> list[dict[str, Any]]:
        made = []
        for asked in call.body["infer_requests"]:
            number, prompt = self.prompts[asked["images"][0]]
            made.append(output(prompt, answer_ids(number, self.stop), asked["coordexp"].get("seed"), self.weight_loads))
        return made

    def good(self) -> Behaviour:
        return says(self.outputs)

    def spoilt(self, spoil: Callable[[list[dict[str, Any]]], Any]) -> Behaviour:
        """Outputs that `spoil` changes in place, or replaces by what it returns."""

        def body(call: Call) -> Any:
            outputs = self.outputs(call)
            replaced = spoil(outputs)
            return outputs if replaced is None else replaced

        return says(body)


def connection_to(base_url: str, timeout_s: float = 5.0, infer_timeout_s: float | None = 5.0) -> ServerConnection:
    return ServerConnection(base_url, "a-key", timeout_s, infer_timeout_s)


def live(base_url: str, capacity: int = 1, loads: int = 0, **limits: Any) -> LiveServer:
    """A server that was found to run what it should."""
    return LiveServer(connection_to(base_url, **limits), SERVER_ID, loads, capacity, liveness())
