"""Prompts in, answers of live rollout servers out, as the learner itself would have given them.

Requests go over the servers in contiguous chunks and come back in their order. What comes back is checked: the prompt
that was answered, the seed, the life of the server and the weights it has, the ids and their number. ROLL-018,
ROLL-024..ROLL-026.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from threading import Lock
from typing import TYPE_CHECKING, Any, Protocol

from coordexp.rollout.answers import AnswerReader
from coordexp.rollout.batching import check_length_budget
from coordexp.rollout.drift import check_liveness
from coordexp.rollout.requests import check_prompts
from coordexp.rollout.seeding import request_seed
from coordexp.rollout.tasks import run_together
from coordexp.rollout.types import Decoding, Observed, Progress, RolloutError, RolloutOutput, RolloutRequest
from coordexp.rollout.wire import OTHER_SERVER, BrokenReply, RolloutServerError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from coordexp.rollout.drift import Expected
    from coordexp.rollout.wire import ServerConnection


@dataclass(frozen=True, slots=True)
class Prompting:
    """What all requests share: the conversation with `<image>` where the image stands, and who reads the answers."""

    messages: tuple[Mapping[str, str], ...]
    tokenizer: PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class LiveServer:
    """A server that runs what the configuration says: its life, the loads of weights it had then, its devices."""

    connection: ServerConnection
    server_id: str
    weight_loads: int
    capacity: int
    liveness: Mapping[str, Any]

    @property
    def guarded(self) -> bool:
        """Whether every worker says that it ends answers which repeat themselves."""
        return all(worker["repeat_terminate"] is not None for worker in self.liveness["workers"])


@dataclass(frozen=True, slots=True)
class Exchange:
    """One call of `/infer/`: the server's URL, the body as it was sent, and the replies that came back."""

    server: str
    body: Mapping[str, Any]
    replies: Sequence[Any]

    def __len__(self) -> int:
        """Requests that were sent."""
        return len(self.body["infer_requests"])


class Watch(Protocol):
    """Is shown the calls of a client, from whatever thread makes them, before their replies are judged."""

    def __call__(self, exchange: Exchange, decoding: Decoding, policy_version: int) -> None:
        """Look at a call."""
        ...

    def take_observed(self) -> Observed:
        """What it has measured since it was last asked, by metric key."""
        ...


def connect(connection: ServerConnection, expected: Expected) -> LiveServer:
    """The server behind `connection`. Raises `RolloutServerError` where it is not there, or runs something else."""
    liveness = connection.call("/coordexp/liveness/")
    check_liveness(connection.base_url, liveness, expected)
    capacity = int(connection.call("/get_world_size/")["world_size"])
    return LiveServer(connection, liveness["server_id"], liveness["weight_loads"], capacity, liveness)


class VllmServerClient:
    """Answers from `servers`, at most `batch_size` requests in a round; `weight_loads` counts the pushes of each.

    `watch`, where there is one, is shown every call of `generate`.
    """

    def __init__(
        self, servers: Sequence[LiveServer], prompting: Prompting, batch_size: int, max_model_len: int
    ) -> None:
        self.servers, self.batch_size = tuple(servers), batch_size
        self.weight_loads = {server.connection.base_url: server.weight_loads for server in servers}
        self.retries = 0
        self.watch: Watch | None = None
        self._lock = Lock()
        self._prompting, self._max_model_len = prompting, max_model_len
        self._reader = AnswerReader(prompting.tokenizer, OTHER_SERVER)

    def generate(
        self,
        requests: Sequence[RolloutRequest],
        decoding: Decoding,
        policy_version: int,
        progress: Progress | None = None,
    ) -> list[RolloutOutput]:
        """One output a request, in order, each checked. Raises `RolloutServerError`, and `RolloutError` for a request
        that does not fit.
        """
        limit = "rollout_matching.vllm.max_model_len"
        check_length_budget(requests, decoding.max_new_tokens, self._max_model_len, limit)
        outputs: list[RolloutOutput] = []
        for start in range(0, len(requests), self.batch_size):
            outputs += self._round(requests[start : start + self.batch_size], decoding, policy_version)
            if progress is not None:
                progress(len(outputs), len(requests))
        return outputs

    def ask(
        self,
        server: LiveServer,
        requests: Sequence[RolloutRequest],
        decoding: Decoding,
        policy_version: int,
        watch: Watch | None = None,
    ) -> list[RolloutOutput]:
        """One server's answers; one retry where the connection broke, for a repeated call answers alike."""
        body = build_body(requests, decoding, self._prompting.messages)
        replies = self._call(server.connection, body)
        where = f"rollout server {server.connection.base_url}/infer/"
        if watch is not None and isinstance(replies, list):
            watch(Exchange(server.connection.base_url, body, replies), decoding, policy_version)
        if not isinstance(replies, list) or len(replies) != len(requests):
            found = f"{len(replies)} outputs" if isinstance(replies, list) else "one that is no list"
            raise RolloutServerError(
                f"{where}: {len(requests)} prompts were sent and {found} came back; {OTHER_SERVER}"
            )
        outputs = []
        for request, sent, reply in zip(requests, body["infer_requests"], replies, strict=True):
            try:
                self._check_envelope(server, reply["coordexp"], sent["coordexp"])
                ended = bool(reply["coordexp"]["repeat_terminate_triggered"])
                output = self._reader.read(request, reply["response"], decoding, policy_version)
                outputs.append(replace(output, repeat_terminated=ended))
            except RolloutServerError as error:
                raise RolloutServerError(f"{where}: the output for {request.sample_id} {error}") from error
        try:
            return check_prompts(requests, outputs)
        except RolloutError as error:
            raise RolloutServerError(f"{where}: {error}") from error

    def _call(self, connection: ServerConnection, body: dict[str, Any]) -> Any:
        try:
            return connection.call("/infer/", body)
        except BrokenReply:
            with self._lock:
                self.retries += 1
        try:
            return connection.call("/infer/", body)
        except BrokenReply as error:
            raise RolloutServerError(f"{error}. It was asked twice") from error

    def _round(self, requests: Sequence[RolloutRequest], decoding: Decoding, version: int) -> list[RolloutOutput]:
        shares = split_by_capacity(len(requests), [server.capacity for server in self.servers])
        chunks = [(server, requests[begin:end]) for server, (begin, end) in zip(self.servers, shares, strict=True)]
        asked = [(server, chunk) for server, chunk in chunks if chunk]
        if len(asked) == 1:
            return self.ask(*asked[0], decoding, version, self.watch)
        watched = partial(self.ask, decoding=decoding, policy_version=version, watch=self.watch)
        work = [
            (f"answers of {server.connection.base_url}", partial(watched, server, chunk)) for server, chunk in asked
        ]
        return [output for outputs in run_together(work) for output in outputs]

    def _check_envelope(self, server: LiveServer, envelope: Mapping[str, Any], sent: Mapping[str, Any]) -> None:
        loads = self.weight_loads[server.connection.base_url]
        if envelope["server_id"] != server.server_id:
            raise RolloutServerError(
                "comes from another start of the server than the one that was asked at the beginning, so it runs the "
                "weights it was started with; start the run again"
            )
        if envelope["weight_loads"] != loads:
            raise RolloutServerError(
                f"was written after {envelope['weight_loads']} loads of weights, and this learner has made {loads}: "
                "stale weights, or another learner pushes to the server; give each learner one of its own"
            )
        if envelope["seed"] != sent.get("seed"):
            raise RolloutServerError(
                f"was drawn by seed {envelope['seed']}, not by {sent.get('seed')}: outputs are in another order, or "
                f"the server draws by seeds of its own; {OTHER_SERVER}"
            )


def build_body(
    requests: Sequence[RolloutRequest], decoding: Decoding, messages: Sequence[Mapping[str, str]]
) -> dict[str, Any]:
    """The body of `/infer/` (`coordexp:http/infer-request`): every sampling knob as it is, a seed each.

    A greedy answer is not drawn by its seed, but known by it: outputs in another order are told.
    """
    return {
        "infer_requests": [
            {
                "messages": [dict(message) for message in messages],
                "images": encode_images(request),
                "coordexp": {"seed": request_seed(decoding.seed_base, request.index)},
            }
            for request in requests
        ],
        "request_config": render_request_config(decoding),
    }


def render_request_config(decoding: Decoding) -> dict[str, Any]:
    """How the answers of a call are asked for: every sampling knob written out, none left to the server's defaults."""
    return {
        "max_tokens": decoding.max_new_tokens,
        "temperature": float(decoding.temperature),
        "top_p": float(decoding.top_p),
        "top_k": decoding.top_k,
        "repetition_penalty": float(decoding.repetition_penalty),
        "logprobs": True,
        "return_details": True,
        **({} if decoding.grammar is None else {"structured_outputs_regex": decoding.grammar}),
    }


def encode_images(request: RolloutRequest) -> list[str]:
    """Each file in base64 where every reader makes one RGB of it; else a PNG of its pixels as training reads them.

    Raises `RolloutError` for an image that training does not read.
    """
    encoded = []
    for path, picture in zip(request.image_paths, request.read_images(), strict=True):
        if picture.plain:
            content = path.read_bytes()
        else:
            buffer = io.BytesIO()
            picture.image.save(buffer, format="PNG")
            content = buffer.getvalue()
        encoded.append(base64.b64encode(content).decode("ascii"))
    return encoded


def split_by_capacity(count: int, capacities: Sequence[int]) -> list[tuple[int, int]]:
    """Half-open ranges of `count` requests in order, one a server, each within one of its share by capacity."""
    total, ends, taken = sum(capacities), [], 0
    for capacity in capacities:
        taken += capacity
        # Rounded half up in whole numbers, so that every learner splits alike.
        ends.append((2 * count * taken + total) // (2 * total))
    return list(zip([0, *ends[:-1]], ends, strict=True))


def requests_in_a_round(decode_batch_size: int, capacities: Iterable[int], world_size: int) -> int:
    """Requests that a rank may have under way, so that no server device decodes more than `decode_batch_size` at once.

    Raises `RolloutServerError` where that is none.
    """
    total = sum(capacities)
    share = decode_batch_size * total // world_size
    if share < 1:
        raise RolloutServerError(
            f"rollout_matching.decode_batch_size {decode_batch_size} times {total} server devices are fewer than the "
            f"{world_size} learner ranks, so some would never be served; raise it to {-(-world_size // total)} or more"
        )
    return share
