"""What a live server answers is what the learner itself would have answered."""

from __future__ import annotations

import json
import statistics
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image

from coordexp.bridges.request_seeds import STEP_TOKENS
from coordexp.coords.types import CoordObject
from coordexp.data.types import Record
from coordexp.rollout.requests import build_requests
from coordexp.rollout.seeding import LARGEST_SEED
from coordexp.rollout.types import Decoding, RolloutError
from tests.server.learners import backend_of, build, greedy, hf_of, ids_of, requests_of

if TYPE_CHECKING:
    from pathlib import Path

    from coordexp.training.trainer import CoordTrainer
    from tests.plugins.live_server import Live
    from tests.plugins.stage2 import Stage2Kit

pytestmark = [pytest.mark.server, pytest.mark.timeout(600), pytest.mark.xdist_group("live")]


@pytest.fixture(scope="module")
def learner(live: Live, stage2_kit: Stage2Kit) -> CoordTrainer:
    """A learner whose weights the server has."""
    trainer = build(stage2_kit, live, "live_answers")
    backend_of(trainer).sync(0)
    return trainer


@pytest.mark.invariant("ROLL-030")
def test_prompts_and_greedy_answers_are_those_of_the_learner(learner: CoordTrainer, stage2_kit: Stage2Kit) -> None:
    requests = requests_of(learner, stage2_kit, 32)
    served = backend_of(learner).generate(requests, greedy())
    own = hf_of(learner).generate(requests, greedy())
    assert len({output.prompt_token_ids for output in own}) > 1 and len(set(ids_of(own))) > 8, "answers differ"
    assert [output.prompt_token_ids for output in served] == [request.prompt_token_ids for request in requests]
    assert ids_of(served) == ids_of(own)
    assert [(o.sample_id, o.text, o.finish_reason) for o in served] == [
        (o.sample_id, o.text, o.finish_reason) for o in own
    ]
    pairs = [p for a, b in zip(served, own, strict=True) for p in zip(a.token_logprobs, b.token_logprobs, strict=True)]
    assert max(abs(a - b) for a, b in pairs) < 1e-4


@pytest.mark.invariant("ROLL-030")
def test_an_answer_that_is_cut_is_told_from_one_that_ended(learner: CoordTrainer, stage2_kit: Stage2Kit) -> None:
    requests = requests_of(learner, stage2_kit, 4)
    cut = backend_of(learner).generate(requests, greedy(5))
    assert [(output.finish_reason, len(output.response_token_ids)) for output in cut] == [("length", 5)] * 4
    assert ids_of(cut) == ids_of(hf_of(learner).generate(requests, greedy(5)))


@pytest.mark.invariant("ROLL-031")
def test_an_answer_depends_on_its_seed_and_not_on_the_batch(learner: CoordTrainer, stage2_kit: Stage2Kit) -> None:
    drawn = Decoding(96, temperature=1.2, seed_base=41)
    requests = [replace(requests_of(learner, stage2_kit, 1)[0], index=i) for i in range(12)]
    backend = backend_of(learner)
    together = ids_of(backend.generate(requests, drawn))
    assert len(set(together)) > 8, "seeds draw differently"
    client, size = backend.client, backend.client.batch_size
    client.batch_size = 5
    try:
        assert ids_of(backend.generate(requests, drawn)) == together
        alone = [backend.generate([request], drawn)[0].response_token_ids for request in (requests[7], requests[0])]
        assert alone == [together[7], together[0]]
        assert ids_of(backend.generate(requests[::-1], drawn)) == together[::-1]
    finally:
        client.batch_size = size
    assert ids_of(backend.generate(requests, replace(drawn, seed_base=42)))[:11] == together[1:]


@pytest.mark.invariant("ROLL-031")
def test_seeds_go_round_at_the_largest_and_zero_is_never_sent(learner: CoordTrainer, stage2_kit: Stage2Kit) -> None:
    first = requests_of(learner, stage2_kit, 1)[0]
    requests = [replace(first, index=i) for i in range(3)]
    drawn = Decoding(48, temperature=1.2, seed_base=LARGEST_SEED)
    backend = backend_of(learner)
    round_the_end = ids_of(backend.generate(requests, drawn))
    # Seeds 2^31 - 1, 1, 2.
    begun = ids_of(backend.generate(requests[:2], replace(drawn, seed_base=1)))
    assert round_the_end[1:] == begun


@pytest.mark.invariant("ROLL-048")
def test_prompts_of_more_tokens_than_a_step_takes_are_drawn(learner: CoordTrainer, tmp_path: Path) -> None:
    """vLLM fills a prompt in parts where a step has no room for it, and winds a seeded request's generator back."""
    Image.linear_gradient("L").convert("RGB").save(tmp_path / "wide.png")
    found = (CoordObject("red circle", "bbox_2d", (1, 2, 30, 40)),)
    record = Record(f"{tmp_path}/records.jsonl:1", ("wide.png",), 256, 256, found)
    (first,) = build_requests([record], learner.parts.run.encoder, tmp_path)
    requests = [replace(first, index=i) for i in range(32)]
    assert sum(len(request.prompt_token_ids) for request in requests) > STEP_TOKENS
    backend, drawn = backend_of(learner), Decoding(24, temperature=1.2, seed_base=3)
    client, size = backend.client, backend.client.batch_size
    client.batch_size = len(requests)
    try:
        together = ids_of(backend.generate(requests, drawn))
    finally:
        client.batch_size = size
    assert len(set(together)) > 8 and ids_of(backend.generate(requests[:3], drawn)) == together[:3]


@pytest.mark.invariant("ROLL-032")
@pytest.mark.parametrize(
    "knobs", [{"temperature": 0.9}, {"temperature": 1.3, "top_k": 3}, {"temperature": 1.3, "top_p": 0.6}]
)
def test_drawn_answers_have_the_hf_backend_s_distribution(
    learner: CoordTrainer, stage2_kit: Stage2Kit, knobs: dict[str, Any]
) -> None:
    """Other generators, the same distribution: the model's own log-probability of the drawn tokens, and lengths."""
    first = requests_of(learner, stage2_kit, 1)[0]
    requests = [replace(first, index=i) for i in range(192)]
    drawn = Decoding(24, seed_base=7, **knobs)
    served, own = (backend.generate(requests, drawn) for backend in (backend_of(learner), hf_of(learner, batch=64)))
    assert len(set(ids_of(served))) > 20 and ids_of(served) != ids_of(own)
    samples = [[sum(output.token_logprobs) for output in side] for side in (served, own)]
    error = (sum(statistics.variance(side) / len(side) for side in samples)) ** 0.5
    assert abs(statistics.mean(samples[0]) - statistics.mean(samples[1])) < 4 * error
    assert error < 1.0, "the comparison can tell"


@pytest.mark.invariant("ROLL-032")
def test_a_repetition_penalty_is_the_hf_backend_s(learner: CoordTrainer, stage2_kit: Stage2Kit) -> None:
    requests = requests_of(learner, stage2_kit, 6)
    asked = Decoding(40, repetition_penalty=1.4)
    own = ids_of(hf_of(learner).generate(requests, asked))
    assert own != ids_of(hf_of(learner).generate(requests, greedy(40))), "the penalty changes answers"
    assert ids_of(backend_of(learner).generate(requests, asked)) == own


@pytest.mark.invariant("ROLL-033")
@pytest.mark.parametrize("form", ["jpeg", "palette", "rgba", "grey", "turned"])
def test_pictures_of_every_kind_are_seen_alike(
    learner: CoordTrainer, stage2_kit: Stage2Kit, tmp_path: Path, form: str
) -> None:
    # The declared size decides the orientation of a picture that is not square.
    request = next(r for r in requests_of(learner, stage2_kit, 14) if r.image_sizes[0][0] != r.image_sizes[0][1])
    path = tmp_path / ("image.jpg" if form in ("jpeg", "turned") else "image.png")
    with Image.open(request.image_paths[0]) as opened:
        image = opened.convert("RGB")
    if form == "palette":
        image.convert("P", palette=Image.Palette.ADAPTIVE, colors=7).save(path)
    elif form == "rgba":
        image.putalpha(Image.linear_gradient("L").resize(image.size))
        image.save(path)
    elif form == "grey":
        image.convert("L").save(path)
    else:
        exif = image.getexif()
        if form == "turned":
            exif[0x0112] = 6
        image.save(path, exif=exif, quality=60)
    request = replace(request, image_paths=(path,))
    served = backend_of(learner).generate([request], greedy())[0]
    own = hf_of(learner).generate([request], greedy())[0]
    assert served.response_token_ids == own.response_token_ids
    assert max(abs(a - b) for a, b in zip(served.token_logprobs, own.token_logprobs, strict=True)) < 1e-4


@pytest.mark.invariant("ROLL-030")
def test_a_prompt_that_does_not_fit_is_refused_before_it_is_sent(learner: CoordTrainer, stage2_kit: Stage2Kit) -> None:
    with pytest.raises(RolloutError, match=r"rollout_matching\.vllm\.max_model_len 1024"):
        backend_of(learner).generate(requests_of(learner, stage2_kit, 2), greedy(1020))


@pytest.mark.invariant("ROLL-030")
def test_what_a_server_refuses_has_the_form_of_the_contract(live: Live) -> None:
    from coordexp.rollout.exchange import Sent, exchange, parse_address
    from coordexp.spec import check

    address, key = parse_address(live.base_url), {"Authorization": f"Bearer {live.key}"}
    asked = {
        401: Sent("POST", "/infer/", {"Authorization": "Bearer another"}, b"{}"),
        404: Sent("GET", "/nowhere/", key, None),
        422: Sent("POST", "/infer/", {**key, "Content-Type": "application/json"}, b"{}"),
        # A worker that fails answers nothing, and the app stumbles over that.
        500: Sent(
            "POST", "/infer/", {**key, "Content-Type": "application/json"}, b'{"infer_requests": [{"messages": 1}]}'
        ),
    }
    for status, sent in asked.items():
        reply = exchange(address, sent, 60.0)
        assert reply.status == status
        if status != 500:
            check("http/error", json.loads(reply.body))


@pytest.mark.invariant("ROLL-034")
def test_every_rollout_step_says_how_far_the_server_is(learner: CoordTrainer, stage2_kit: Stage2Kit) -> None:
    backend = backend_of(learner)
    backend.take_observed()
    backend.generate(requests_of(learner, stage2_kit, 3), greedy())
    total, tokens = backend.take_observed()["rollout/logprob_gap_mean"]
    assert tokens > 10 and 0 < total / tokens < 1e-4
