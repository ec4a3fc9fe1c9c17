"""A live server that decodes by the grammar writes what the learner's own model would have written by it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from coordexp.coordjson import FIELD_ORDERS, render_answer, render_expression, scan_answer
from coordexp.evaluation.detections import build_answer_parser
from coordexp.forward.unwrap import unwrap_model
from coordexp.rollout.scoring import TeacherScorer
from coordexp.rollout.types import Decoding
from tests.server.learners import backend_of, build, greedy, hf_of, ids_of, requests_of

if TYPE_CHECKING:
    from coordexp.coordjson import FieldOrder
    from coordexp.rollout.types import RolloutOutput
    from coordexp.training.trainer import CoordTrainer
    from tests.plugins.live_server import Live
    from tests.plugins.stage2 import Stage2Kit

pytestmark = [pytest.mark.server, pytest.mark.timeout(600), pytest.mark.xdist_group("live")]
HOT = Decoding(160, temperature=1.5, seed_base=23, grammar=render_expression("desc_first"))


@pytest.fixture(scope="module")
def learner(live: Live, stage2_kit: Stage2Kit) -> CoordTrainer:
    """A learner whose weights the server has, with the grammar on in its configuration."""
    trainer = build(stage2_kit, live, "live_grammar", rollout_matching={"decoding": {"grammar": True}})
    backend_of(trainer).sync(0)
    return trainer


@pytest.fixture(scope="module")
def hot(learner: CoordTrainer, stage2_kit: Stage2Kit) -> list[RolloutOutput]:
    return backend_of(learner).generate(requests_of(learner, stage2_kit, 48), HOT)


@pytest.mark.invariant("ROLL-054")
@pytest.mark.parametrize("order", FIELD_ORDERS)
def test_greedy_answers_are_those_of_the_hf_backend_token_for_token(
    learner: CoordTrainer, stage2_kit: Stage2Kit, order: FieldOrder
) -> None:
    """The other order is one that the model has not learnt, so the mask decides nearly everywhere."""
    asked = replace(greedy(), grammar=render_expression(order))
    requests = requests_of(learner, stage2_kit, 32)
    served, own = (backend.generate(requests, asked) for backend in (backend_of(learner), hf_of(learner)))
    assert ids_of(served) == ids_of(own) and len(set(ids_of(own))) > 8
    assert [(o.text, o.finish_reason) for o in served] == [(o.text, o.finish_reason) for o in own]
    free = backend_of(learner).generate(requests, greedy())
    assert ids_of(free) == ids_of(hf_of(learner).generate(requests, greedy())), "the mask is gone again"
    assert order == "desc_first" or not set(ids_of(free)) & set(ids_of(own))


@pytest.mark.invariant("ROLL-054")
def test_at_temperature_1_5_every_answer_that_ends_has_the_right_form(
    learner: CoordTrainer, stage2_kit: Stage2Kit, hot: list[RolloutOutput]
) -> None:
    parser = build_answer_parser(learner.parts.run.encoder)

    def broken(outputs: list[RolloutOutput]) -> int:
        """Answers that ended and are wrong otherwise than by the order of a box's corners."""
        parsed = [parser.parse(output.response_token_ids) for output in outputs if output.finish_reason == "stop"]
        faults = [{found.failure, *(drop.reason for drop in found.dropped)} for found in parsed]
        return sum(not found <= {None, "bbox_invalid"} for found in faults)

    free = backend_of(learner).generate(requests_of(learner, stage2_kit, 48), replace(HOT, grammar=None))
    assert broken(free) > 8, "so the comparison can tell"
    assert broken(hot) == 0
    ended = [output for output in hot if output.finish_reason == "stop"]
    assert len(ended) > 24 and len({output.response_token_ids for output in ended}) > 24
    for output in ended:
        assert render_answer([found.item for found in scan_answer(output.text).objects], "desc_first") == output.text


@pytest.mark.invariant("ROLL-054")
def test_log_probabilities_are_the_learner_s_own(
    learner: CoordTrainer, stage2_kit: Stage2Kit, hot: list[RolloutOutput]
) -> None:
    scorer = TeacherScorer(unwrap_model(learner.model), learner.parts.run.encoder.processor)
    forced = 0
    for request, output in list(zip(requests_of(learner, stage2_kit, 48), hot, strict=True))[:8]:
        scores = scorer.score(request, output.response_token_ids)
        assert output.token_logprobs == pytest.approx(scores.logprobs, abs=2e-4)
        forced += sum(
            likeliest != token for likeliest, token in zip(scores.likeliest, output.response_token_ids, strict=True)
        )
    assert forced > 10, "other tokens than the model's likeliest were written"


@pytest.mark.invariant("ROLL-055")
def test_the_configuration_s_grammar_reaches_evaluations_and_the_manifest(learner: CoordTrainer) -> None:
    assert learner.parts.rollouts is not None
    assert learner.parts.rollouts.settings.decoding.grammar == HOT.grammar
    assert learner.parts.launch["request_config"]["structured_outputs_regex"] == HOT.grammar
