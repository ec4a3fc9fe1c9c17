"""What the learner says of an answer's tokens is what it says while it writes them; gaps to a server's are measured."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from PIL import Image

from coordexp.data.types import Record
from coordexp.forward.tiny import SMALLEST, build_tiny_model
from coordexp.rollout.hf import HfBackend
from coordexp.rollout.requests import build_requests
from coordexp.rollout.scoring import TeacherScorer
from coordexp.rollout.types import BackendSettings, Decoding, RolloutError, RolloutOutput, RolloutRequest
from coordexp.rollout.vllm_server import VllmServerBackend

if TYPE_CHECKING:
    from transformers import ProcessorMixin, Qwen3VLForConditionalGeneration

    from coordexp.encode.encoder import Encoder

SIZES = [(64, 64), (96, 64)]


@pytest.fixture(scope="module")
def model(cut_processor: ProcessorMixin) -> Qwen3VLForConditionalGeneration:
    built = build_tiny_model(cut_processor.tokenizer, SMALLEST, seed=1, tied=False)
    with torch.no_grad():
        for weight in built.parameters():
            if weight.ndim >= 2:
                weight.mul_(3)
    return built


@pytest.fixture(scope="module")
def requests(tmp_path_factory: pytest.TempPathFactory, cut_encoder: Encoder) -> list[RolloutRequest]:
    folder, noise = tmp_path_factory.mktemp("scoring"), np.random.default_rng(0)
    records = []
    for number, (width, height) in enumerate(SIZES):
        Image.fromarray(noise.integers(0, 255, (height, width, 3), dtype=np.uint8)).save(folder / f"{number}.png")
        records.append(Record(f"{folder}/records.jsonl:{number + 1}", (f"{number}.png",), width, height, ()))
    return build_requests(records, cut_encoder)


@pytest.fixture(scope="module")
def scorer(model: Qwen3VLForConditionalGeneration, cut_processor: ProcessorMixin) -> TeacherScorer:
    return TeacherScorer(model, cut_processor)


@pytest.mark.invariant("ROLL-019")
def test_scores_are_those_that_greedy_decoding_had(
    model: Qwen3VLForConditionalGeneration,
    cut_processor: ProcessorMixin,
    requests: list[RolloutRequest],
    scorer: TeacherScorer,
) -> None:
    backend = HfBackend(model, cut_processor, decode_batch_size=2, logprobs=True)
    for request, output in zip(requests, backend.generate(requests, Decoding(12)), strict=True):
        scores = scorer.score(request, output.response_token_ids)
        assert scores.logprobs == pytest.approx(output.token_logprobs, abs=1e-4)
        assert scores.likeliest == output.response_token_ids and scores.best == pytest.approx(scores.logprobs)


@pytest.mark.invariant("ROLL-019")
def test_another_token_has_its_own_score_and_the_likeliest_is_told(
    requests: list[RolloutRequest], scorer: TeacherScorer
) -> None:
    request = requests[0]
    first = scorer.score(request, [7]).likeliest[0]
    other = first + 1 if first < 300 else first - 1
    scores = scorer.score(request, [other, 9])
    assert scores.likeliest[0] == first and scores.best[0] > scores.logprobs[0]
    assert scores.best[0] == pytest.approx(scorer.score(request, [first]).logprobs[0], abs=1e-5)
    assert scores.logprobs[1] != pytest.approx(scorer.score(request, [first, 9]).logprobs[1], abs=1e-3)


@pytest.mark.invariant("ROLL-019")
@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_given_back_as_it_was(
    model: Qwen3VLForConditionalGeneration, requests: list[RolloutRequest], scorer: TeacherScorer, training: bool
) -> None:
    model.train(training)
    scorer.score(requests[0], [7, 8])
    assert model.training is training and all(p.grad is None for p in model.parameters())


@pytest.mark.invariant("ROLL-019")
def test_a_token_that_the_model_has_not_is_refused(requests: list[RolloutRequest], scorer: TeacherScorer) -> None:
    rows = scorer.rows
    assert len(scorer.score(requests[0], [rows - 1]).logprobs) == 1
    with pytest.raises(RolloutError, match=f"the token {rows}, and the model has {rows}: 0 to {rows - 1}"):
        scorer.score(requests[0], [3, rows])


class Client:
    """Answers each request with three tokens, each a nat away from what the scorer says."""

    def __init__(self, scorer: TeacherScorer) -> None:
        self.weight_loads: dict[str, int] = {}
        self.retries, self.batch_size, self.watch = 2, 5, None
        self.servers = [SimpleNamespace(guarded=False)]
        self._scorer = scorer

    def generate(
        self, requests: list[RolloutRequest], decoding: Decoding, policy_version: int, progress: object = None
    ) -> list[RolloutOutput]:
        ids = (5, 6, 7)
        return [
            RolloutOutput(r.sample_id, r.prompt_token_ids, ids, "", "length", policy_version,
                          token_logprobs=tuple(value - 1 for value in self._scorer.score(r, ids).logprobs))
            for r in requests
        ]  # fmt: skip


@pytest.mark.invariant("ROLL-027")
def test_the_gap_to_the_server_is_measured_on_each_rollout(
    requests: list[RolloutRequest], scorer: TeacherScorer
) -> None:
    backend = VllmServerBackend(Client(scorer), None, scorer, "float32")  # type: ignore[arg-type]
    assert backend.settings == BackendSettings("vllm", "float32", 5, logprobs=True)
    assert backend.policy_version == -1
    assert [o.policy_version for o in backend.generate(requests, Decoding(3))] == [-1, -1]
    backend.generate(requests, Decoding(3))
    observed = dict(backend.take_observed())
    total, tokens = observed.pop("rollout/logprob_gap_mean")
    assert tokens == 6 and total / tokens == pytest.approx(1.0, abs=1e-5), "one answer of each call, three tokens each"
    assert observed == {"rollout/server_retries_total": (2.0, 0.0)}
    assert backend.take_observed() == {"rollout/server_retries_total": (0.0, 0.0)}


@pytest.mark.invariant("ROLL-027")
def test_nothing_is_observed_where_nothing_was_asked(scorer: TeacherScorer) -> None:
    backend = VllmServerBackend(Client(scorer), None, scorer, "float32")  # type: ignore[arg-type]
    assert backend.generate([], Decoding(3)) == []
    assert "rollout/logprob_gap_mean" not in backend.take_observed()
