"""Answers written by the grammar on the learner's own model: what can be chosen, what stays as it was."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from PIL import Image

from coordexp.config import load_config
from coordexp.coordjson import FIELD_ORDERS, render_answer, render_expression, scan_answer
from coordexp.coords.types import CoordObject
from coordexp.coords.vocab import build_coord_vocab
from coordexp.data.types import Record
from coordexp.encode.processor import load_processor
from coordexp.encode.rollout_parse import RolloutParser
from coordexp.encode.vocabulary import END_OF_TURN
from coordexp.forward.tiny import SMALLEST, build_tiny_model
from coordexp.rollout import hf
from coordexp.rollout.grammar import GrammarRows, TokenGrammar, build_expression
from coordexp.rollout.hf import HfBackend
from coordexp.rollout.requests import build_requests
from coordexp.rollout.sampling import TokenChooser
from coordexp.rollout.scoring import TeacherScorer
from coordexp.rollout.types import Decoding, RolloutError, RolloutRequest
from tests.plugins.stage2 import EARLY

if TYPE_CHECKING:
    from collections.abc import Sequence

    from coordexp.rollout.types import RolloutOutput

ROOT = Path(__file__).resolve().parents[3]
BOXES = render_expression("desc_first")
HOT = Decoding(120, temperature=1.5, seed_base=11, grammar=BOXES)
ITEMS = (
    CoordObject('12" \\ruler, é 红色', "bbox_2d", (0, 5, 10, 999)),
    CoordObject("red circle", "bbox_2d", (1, 2, 3, 40)),
)


@pytest.fixture(scope="module")
def early():
    """The trained model that still makes mistakes, and its processor."""
    from coordexp.evaluation.job import load_merged_model

    return load_merged_model(EARLY, "float32", "sdpa"), load_processor(EARLY)


@pytest.fixture(scope="module")
def requests(tmp_path_factory: pytest.TempPathFactory) -> list[RolloutRequest]:
    """32 prompts of two sizes: drawn scenes are not needed to be wrong at temperature 1.5."""
    from coordexp.encode.encoder import build_encoder
    from coordexp.encode.settings import EncodeSettings

    folder, records = tmp_path_factory.mktemp("images"), []
    for number in range(32):
        size = (128, 96) if number % 3 else (96, 64)
        picture = Image.new("RGB", size, (250, 250, 250))
        picture.paste((200, 20 + 7 * number, 30), (5 + number, 8, 40 + number, 50))
        picture.save(folder / f"{number}.png")
        records.append(Record(f"{folder}/records.jsonl:{number + 1}", (f"{number}.png",), *size, ()))
    return build_requests(records, build_encoder(load_processor(EARLY), EncodeSettings()))


@pytest.fixture(scope="module")
def hot(early, requests) -> list[RolloutOutput]:
    model, processor = early
    return HfBackend(model, processor, decode_batch_size=32, logprobs=True).generate(requests, HOT)


def faults(processor, outputs: Sequence[RolloutOutput]) -> list[set[str]]:
    """What the strict, token-aligned parse finds wrong with each answer."""
    parser = RolloutParser(processor.tokenizer, build_coord_vocab(processor.tokenizer))
    found = []
    for output in outputs:
        parsed = parser.parse(output.response_token_ids)
        assert parsed.strict == (parsed.failure is None)
        reasons: set[str] = {drop.reason for drop in parsed.dropped}
        found.append(reasons | ({str(parsed.failure)} if parsed.failure is not None else set()))
    return found


@pytest.mark.invariant("ROLL-051")
def test_at_temperature_1_5_every_answer_that_ends_has_the_right_form(early, requests, hot) -> None:
    model, processor = early
    free = HfBackend(model, processor, decode_batch_size=32).generate(requests, replace(HOT, grammar=None))
    broken = [found - {"bbox_invalid"} for found, output in zip(faults(processor, free), free, strict=True)
              if output.finish_reason == "stop"]  # fmt: skip
    assert sum(map(bool, broken)) > 8, "free answers go wrong here, so the comparison can tell"
    ended = [output for output in hot if output.finish_reason == "stop"]
    assert len(ended) > 16 and len({output.response_token_ids for output in ended}) > 16
    assert set().union(*faults(processor, ended)) <= {"bbox_invalid"}
    for output in ended:
        items = [found.item for found in scan_answer(output.text).objects]
        assert render_answer(items, "desc_first") == output.text
    assert any(scan_answer(output.text).objects for output in ended)


@pytest.mark.invariant("ROLL-051")
def test_an_untrained_model_writes_the_beginning_of_an_answer_and_nothing_else(cut_processor, requests) -> None:
    """Every token is about as likely as any other here, so what is not masked is written."""
    tokenizer = cut_processor.tokenizer
    model = build_tiny_model(tokenizer, SMALLEST, seed=1, tied=False)
    rows = int(model.config.text_config.vocab_size)
    backend = HfBackend(model, cut_processor, decode_batch_size=8)
    few = [replace(request, prompt_token_ids=(5, 6, 7), image_paths=(), image_sizes=()) for request in requests[:8]]
    coords, boxes = set(build_coord_vocab(tokenizer).ids), 0
    for order in FIELD_ORDERS:
        expression = render_expression(order)
        outputs = backend.generate(few, Decoding(60, temperature=1.0, grammar=expression))
        for output in outputs:
            ids = output.response_token_ids
            assert max(ids) < len(tokenizer) <= rows
            assert all(
                "<" not in tokenizer.convert_ids_to_tokens(i) for i in set(ids) - coords - {tokenizer.eos_token_id}
            )
            matcher = TokenGrammar(expression, tokenizer, rows).open_matcher()
            assert all(matcher.accept_token(token) for token in ids)
            boxes += sum(token in coords for token in ids) >= 4
    assert boxes, "some answer holds a box"


def allowed(rows: GrammarRows, ids: Sequence[int], vocabulary: int) -> list[int]:
    """Ids that may follow, in a batch of one."""
    masked = rows.mask(torch.tensor([list(ids)]), torch.zeros(1, vocabulary))
    assert set(masked.flatten().tolist()) <= {0.0, -torch.inf}
    return (masked[0] == 0).nonzero().flatten().tolist()


@pytest.mark.invariant("ROLL-052")
@pytest.mark.parametrize("order", FIELD_ORDERS)
def test_on_the_real_vocabulary_each_canonical_token_may_come_and_the_end_at_the_end_alone(
    real_tokenizer, order
) -> None:
    vocabulary = 152704
    coords = set(build_coord_vocab(real_tokenizer).ids)
    end = real_tokenizer.convert_tokens_to_ids(END_OF_TURN)
    grammar = TokenGrammar(render_expression(order), real_tokenizer, vocabulary)
    for objects in ([], list(ITEMS)):
        rows, ids = GrammarRows(grammar, 1), [7]
        for token in real_tokenizer.encode(render_answer(objects, order), add_special_tokens=False):
            found = allowed(rows, ids, vocabulary)
            assert token in found and end not in found
            assert max(found) < len(real_tokenizer)
            others = [real_tokenizer.convert_ids_to_tokens(index) for index in set(found) - coords]
            assert not [other for other in others if "<" in other]
            assert not coords & set(found) or coords <= set(found)
            ids.append(token)
        assert allowed(rows, ids, vocabulary) == [end]
        assert len(allowed(rows, [*ids, end], vocabulary)) == vocabulary, "a row that has ended is free"


@pytest.mark.invariant("ROLL-052")
def test_an_end_token_that_something_else_forces_ends_the_row_and_no_other(cut_tokenizer) -> None:
    size = len(cut_tokenizer)
    grammar = TokenGrammar(BOXES, cut_tokenizer, size)
    rows, end = GrammarRows(grammar, 2), cut_tokenizer.eos_token_id
    first = cut_tokenizer.encode('{"', add_special_tokens=False)
    assert len(first) == 1
    scores = torch.zeros(2, size)
    rows.mask(torch.tensor([[1], [1]]), scores)
    after = rows.mask(torch.tensor([[1, *first], [1, end]]), scores)
    assert 0 < int((after[0] == 0).sum()) < 30 and bool((after[1] == 0).all())
    second = cut_tokenizer.encode("objects", add_special_tokens=False)[:1]
    again = rows.mask(torch.tensor([[1, *first, *second], [1, end, 0]]), scores)
    assert int((again[0] == 0).sum()) < 30 and bool((again[1] == 0).all())
    with pytest.raises(RolloutError, match="row 0: token 3 was written, and the grammar does not allow it"):
        rows.mask(torch.tensor([[3], [3]]), scores)


@pytest.mark.invariant("ROLL-052")
def test_the_mask_acts_before_the_choice_and_leaves_penalty_and_warping_to_act_on_the_rest(cut_tokenizer) -> None:
    size = len(cut_tokenizer)
    grammar = TokenGrammar(BOXES, cut_tokenizer, size)
    begin = [cut_tokenizer.encode(text, add_special_tokens=False)[0] for text in ("{", '{"')]
    scores = torch.zeros(1, size)
    scores[0, begin[1]], scores[0, 9] = 1.0, 8.0
    for decoding in (Decoding(1), Decoding(1, temperature=0.7, top_k=1), Decoding(1, temperature=0.7, top_p=0.2)):
        chooser = TokenChooser(
            [RolloutRequest("a", (1,))], decoding, torch.device("cpu"), grammar=GrammarRows(grammar, 1)
        )
        assert int(chooser(torch.tensor([[1]]), scores).argmax()) == begin[1]
        assert float(chooser.logprobs[0]) == pytest.approx(float(scores[0].log_softmax(-1)[begin[1]]))
    penalized = TokenChooser(
        [RolloutRequest("a", (begin[1],))], Decoding(1, repetition_penalty=3.0), torch.device("cpu"),
        grammar=GrammarRows(grammar, 1),
    )  # fmt: skip
    scores[0, begin[0]] = 0.5
    assert int(penalized(torch.tensor([[begin[1]]]), scores).argmax()) == begin[0]


@pytest.mark.invariant("ROLL-052")
def test_log_probabilities_are_the_model_s_own(early, requests, hot) -> None:
    model, processor = early
    scorer = TeacherScorer(model, processor)
    moved = 0
    for request, output in list(zip(requests, hot, strict=True))[:6]:
        scores = scorer.score(request, output.response_token_ids)
        assert scores.logprobs == pytest.approx(output.token_logprobs, abs=2e-4)
        moved += sum(
            likeliest != token for likeliest, token in zip(scores.likeliest, output.response_token_ids, strict=True)
        )
    assert moved > 10


@pytest.mark.invariant("ROLL-051")
def test_answers_do_not_depend_on_the_batch_and_the_grammar_is_compiled_once(
    early, requests, hot, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, processor = early
    made: list[str] = []

    class Counted(TokenGrammar):
        def __init__(self, expression, tokenizer, rows) -> None:
            made.append(expression)
            super().__init__(expression, tokenizer, rows)

    monkeypatch.setattr(hf, "TokenGrammar", Counted)
    backend = HfBackend(model, processor, decode_batch_size=5)
    again = backend.generate(requests[:9][::-1], HOT)[::-1]
    assert [output.response_token_ids for output in again] == [output.response_token_ids for output in hot[:9]]
    backend.generate(requests[:2], replace(HOT, max_new_tokens=3))
    assert made == [BOXES]
    backend.generate(requests[:2], Decoding(3))
    backend.generate(requests[:2], Decoding(3, grammar=render_expression("geometry_first")))
    assert len(made) == 2


@pytest.mark.invariant("ROLL-051")
def test_an_expression_that_cannot_be_read_is_one_error(cut_tokenizer) -> None:
    with pytest.raises(RolloutError, match="grammar: no expression that xgrammar reads"):
        TokenGrammar("(", cut_tokenizer, len(cut_tokenizer))
    with pytest.raises(RolloutError, match="grammar is ; it must be a regular expression"):
        Decoding(1, grammar="")


@pytest.mark.invariant("ROLL-051")
def test_a_configuration_s_expression_has_its_order_and_what_it_can_teach(tmp_path: Path) -> None:
    stage1, stage2 = ("configs/stage1/smoke/shapes.yaml", "configs/stage2_rollout_aligned/smoke/hf.yaml")
    both = ("bbox_2d", "poly")
    assert build_expression(load_config(ROOT / stage1)) == render_expression("desc_first", both)
    assert build_expression(load_config(ROOT / stage2)) == render_expression("desc_first")
    for name, kinds in ((stage1, both), (stage2, ("bbox_2d",))):
        path = tmp_path / "turned.yaml"
        path.write_text(json.dumps({"extends": str(ROOT / name), "custom": {"object_field_order": "geometry_first"}}))
        assert build_expression(load_config(path)) == render_expression("geometry_first", kinds)
