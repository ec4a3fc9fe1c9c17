"""A rollout server that no learner pushes to in, answers of one checkpoint out. Contract id: EVAL-075.

A server does not tell a digest of its weights. So it must say that it was started from the checkpoint's folder and that
nothing was pushed to it since, and its own greedy answer must be the one that the checkpoint gives here: a folder that
was written anew after the server's start is told by that. Every later answer says that the server is still the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from coordexp.encode.vocabulary import fingerprint_tokenizer
from coordexp.rollout.canary import NOISE, Canary
from coordexp.rollout.drift import Expected
from coordexp.rollout.server_plugin.liveness import LOGPROBS_MODE
from coordexp.rollout.server_plugin.repeats import digest_in_force
from coordexp.rollout.types import BackendSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from transformers import PreTrainedTokenizerBase

    from coordexp.config.rollout_sections import RepeatTerminateConfig
    from coordexp.rollout.scoring import TeacherScorer
    from coordexp.rollout.types import Decoding, Progress, RolloutOutput, RolloutRequest
    from coordexp.rollout.vllm_client import LiveServer, VllmServerClient

_FIRST_VERSION = 0
_ADVICE = (
    "Its folder has changed since the server was started, or holds another model: start the server again, from the "
    "checkpoint that is to answer"
)


@dataclass(frozen=True, slots=True)
class ServedCheckpoint:
    """What a server must run: the checkpoint's `folder`, its data type and image cap, and what ends answers that repeat
    themselves.
    """

    folder: Path
    dtype: str
    max_pixels: int | None
    repeats: RepeatTerminateConfig | None


def expected_checkpoint(served: ServedCheckpoint, tokenizer: PreTrainedTokenizerBase) -> Expected:
    """What a server of this checkpoint says of itself."""
    facts: dict[str, tuple[Any, str]] = {
        "model": (str(served.folder.resolve()), "the checkpoint that was named"),
        "weight_loads": (0, "weights were pushed to it, so it runs the checkpoint no more"),
        "dtype": (served.dtype, "model.torch_dtype, training.bf16 and fp16"),
        "max_pixels": (served.max_pixels, "template.max_pixels"),
        "enable_lora": (False, "a whole checkpoint answers"),
        "logprobs_mode": (LOGPROBS_MODE, "the server plugin"),
        "per_request_seeds": (True, "the server plugin"),
        "repeat_terminate": (digest_in_force(served.repeats), "rollout_matching.repeat_terminate"),
    }
    return Expected(facts, fingerprint_tokenizer(tokenizer))


def served_length(server: LiveServer) -> int:
    """Tokens of prompt and answer together that the server takes."""
    return min(int(worker["max_model_len"]) for worker in server.liveness["workers"])


class CheckpointServer:
    """Answers from the one server of `client`, once it has proven that it runs the checkpoint.

    `load_scorer` loads the checkpoint here, in the data type `own`, for one forward.
    """

    def __init__(
        self, client: VllmServerClient, served: ServedCheckpoint, load_scorer: Callable[[], TeacherScorer], own: str
    ) -> None:
        self._client, self._served, self._load_scorer = client, served, load_scorer
        self._noise = max((NOISE[own], NOISE[served.dtype]), key=lambda noise: noise.ceiling)
        self._proven = False

    @property
    def settings(self) -> BackendSettings:
        """The server's data type, and what is under way at once."""
        guarded = self._client.servers[0].guarded
        return BackendSettings("vllm", self._served.dtype, self._client.batch_size, True, guarded)

    def generate(
        self, requests: Sequence[RolloutRequest], decoding: Decoding, progress: Progress | None = None
    ) -> list[RolloutOutput]:
        """One output a request, in order. Raises `RolloutServerError`, also for a server of other weights."""
        if requests and not self._proven:
            self._prove(requests[0])
        return self._client.generate(requests, decoding, _FIRST_VERSION, progress)

    def _prove(self, request: RolloutRequest) -> None:
        canary = Canary(request, self._load_scorer(), self._noise, _ADVICE)
        server = self._client.servers[0]
        (output,) = self._client.ask(server, [request], canary.decoding, _FIRST_VERSION)
        canary.check(server.connection.base_url, output)
        self._proven = True
