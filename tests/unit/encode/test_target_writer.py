"""The seam of a target on the real vocabulary, what an invalid rollout is taught, and lengths without writing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from transformers import Qwen2TokenizerFast

from coordexp.coordjson import render_answer, render_object
from coordexp.coords.types import CoordObject
from coordexp.data.types import Record
from coordexp.encode.assemble import TokenAlignmentError
from coordexp.encode.encoder import Encoder
from coordexp.encode.pieces import PieceTable
from coordexp.encode.rollout_target import ClosureError, TargetWriter
from coordexp.encode.types import TokenSubset, TokenType
from coordexp.losses.context import build_context
from coordexp.losses.masks import Provenance
from coordexp.matching.targets import fit_target
from coordexp.packing.collate import collate_packed
from tests.unit.encode.target_kit import WEIGHTS, TargetKit, build_kit, no_rope

CAT = CoordObject("black cat.", "bbox_2d", (110, 310, 410, 705))
DOG = CoordObject("dog", "bbox_2d", (1, 2, 3, 4))
TOKENIZERS = ["real_tokenizer", "cut_tokenizer"]


@pytest.fixture(scope="module")
def kit(real_tokenizer: Qwen2TokenizerFast) -> TargetKit:
    return build_kit(real_tokenizer)


def kept_parts(tokenizer: Qwen2TokenizerFast, sign: bytes) -> set[bytes]:
    """Every way in which a token of the vocabulary can be the last kept one, up to a sign in it."""
    table = PieceTable(tokenizer)
    pieces = [table.piece(token) for token in range(len(tokenizer))]
    ends = [(piece, at + 1) for piece in pieces for at in range(len(piece)) if piece[at : at + 1] == sign]
    return {piece[:end] for piece, end in ends}


@pytest.mark.invariant("TGT-003")
@pytest.mark.parametrize("name", TOKENIZERS)
def test_what_is_kept_of_a_token_is_whole_characters(request: pytest.FixtureRequest, name: str) -> None:
    tokenizer = request.getfixturevalue(name)
    parts = kept_parts(tokenizer, b"}") | kept_parts(tokenizer, b"[")
    assert len(parts) > 2
    assert [part for part in parts if part.decode(errors="ignore").encode() != part] == []


@pytest.mark.invariant("TGT-003")
def test_the_comma_of_the_seam_is_in_the_token_of_the_brace(kit: TargetKit) -> None:
    """So no token of the appended text, which is taught, says that the answer goes on after a false positive."""
    for part in kept_parts(kit.tokenizer, b"}"):
        tail = kit.encode(part.decode() + ', {"desc')
        assert [kit.pieces.piece(token) for token in tail[-2:]] == [b' {"', b"desc"]
        assert kit.pieces.piece(tail[-3]).endswith(b"},")


@pytest.mark.invariant("TGT-003")
@pytest.mark.parametrize(
    ("rollout", "truths", "tail"),
    [
        (render_answer([CAT]), [CAT, DOG], [b"]},", b' {"', b"desc"]),
        ('{"objects": [', [DOG], [b' [{"', b"desc"]),
        ('{"objects": [', [], [b" []", b"}"]),
        (render_answer([CAT]), [CAT], [b"]}", b"]}"]),
        ('{"objects": [\n', [DOG], [b' [{"', b"desc"]),
        ('{"objects":[', [], [b'":', b"[]}"]),
    ],
)
def test_the_seam_has_the_tokens_that_stage_1_writes(
    kit: TargetKit, rollout: str, truths: list[CoordObject], tail: list[bytes]
) -> None:
    ids = kit.encode(rollout)
    plan = kit.plan(ids, truths, {0: 0} if "desc" in rollout else {})
    written = kit.writer("desc_first").write(plan).ids[plan.parsed.prefix.tokens - 1 :]
    assert [kit.pieces.piece(token) for token in written[: len(tail)]] == tail


@pytest.mark.invariant("TGT-012")
@pytest.mark.parametrize("objects", [[], [CAT], [CAT, DOG]])
def test_an_invalid_rollout_is_typed_as_stage_1_types_its_answer(
    real_encoder: Encoder, kit: TargetKit, make_record: Callable[..., Record], objects: list[CoordObject]
) -> None:
    truth = real_encoder.ground_truth(make_record(objects))
    found = kit.write(kit.encode("I see a cat"), objects, {})
    assert (found.ids, found.types) == (truth.ids, truth.types)
    assert [(item.positions, item.bins) for item in found.objects] == [
        (item.positions, item.bins) for item in truth.objects
    ]
    assert {item.subset for item in found.objects} <= {TokenSubset.FN}
    context = build_context(collate_packed([kit.sample(found)], no_rope), Provenance.B, WEIGHTS)
    opening = context.of_subset(TokenSubset.OPENING_INJECTED)
    assert context.weight[opening].tolist() == [1.0] * 3
    struct = context.of_type(TokenType.STRUCT, TokenType.EOS)
    assert (
        bool((context.weight[struct] == 1.0).all())
        and int(struct.sum()) == sum(kind is TokenType.STRUCT for kind in found.types) + 1
    )


@pytest.mark.invariant("TGT-004")
def test_slots_of_matched_objects_lie_on_what_was_written_and_aim_at_ground_truth(kit: TargetKit) -> None:
    near = replace(CAT, bins=(111, 311, 411, 706))
    ids = kit.encode(render_answer([DOG, near]))
    found = kit.write(ids, [CAT], {1: 0})
    (slots,) = found.objects
    assert [kit.scribe.bins[found.ids[at]] for at in slots.positions] == list(near.bins)
    assert (slots.subset, slots.bins) == (TokenSubset.MATCHED, CAT.bins)


@pytest.mark.invariant("TGT-005")
def test_a_closure_that_is_not_where_it_was_put_is_told(kit: TargetKit) -> None:
    ids = kit.encode(render_answer([CAT]))
    plan = kit.plan(ids, [CAT], {0: 0})
    brace = next(at for at, token in enumerate(ids) if kit.pieces.piece(token) == b' [{"')
    other = [*ids[:brace], *kit.encode(' ["'), *ids[brace + 1 :]]
    assert len(other) == len(ids)
    with pytest.raises(ClosureError, match=r"the closure was put at bytes \(\d+, \d+\) of the answer, and a"):
        kit.writer("desc_first").write(replace(plan, response=tuple(other)))


@pytest.mark.invariant("TGT-004")
def test_a_missed_coord_that_is_not_one_token_is_refused(kit: TargetKit) -> None:
    swapped = {kit.coords.ids[1]: kit.coords.ids[2], kit.coords.ids[2]: kit.coords.ids[1]}

    def tokenize(text: str) -> list[int]:
        return [swapped.get(token, token) for token in kit.encode(text)]

    writer = TargetWriter(tokenize, kit.pieces, kit.coords, "desc_first")
    with pytest.raises(TokenAlignmentError, match="bin 1 of a missed object is not the one token"):
        writer.write(kit.plan(kit.encode('{"objects": ['), [DOG], {}))


def long_rollout(count: int) -> tuple[str, list[CoordObject]]:
    """As many false positives, then matched objects, then as many that are missed."""
    truths = [CoordObject(f"thing {k % 7}", "bbox_2d", (k % 900, 2, 950, 990)) for k in range(2 * count)]
    wrong = [CoordObject("wrong", "bbox_2d", (1, 2, 3, 4))] * count
    return render_answer([*wrong, *truths[:count]]), truths


@pytest.mark.invariant("TGT-010")
@pytest.mark.parametrize("order", ["desc_first", "geometry_first"])
def test_lengths_are_those_of_what_is_written(kit: TargetKit, order: str) -> None:
    text, truths = long_rollout(6)
    plan = kit.plan(kit.encode(text), truths, {6 + k: 11 - k for k in range(6)})
    writer = kit.writer(order)
    lengths = list(writer.lengths(plan))
    assert len(lengths) == 13
    for limit in (*lengths, min(lengths) - 1, 10_000):
        found = fit_target(plan, limit, writer.lengths)
        longest = next((12 - dropped for dropped, length in enumerate(lengths) if length <= limit), None)
        assert len(found.fates) == (longest or 0)
        if longest is not None:
            assert len(writer.write(found).ids) == lengths[12 - longest] <= limit


@pytest.mark.invariant("TGT-010")
def test_what_is_tokenized_for_all_lengths_grows_no_faster_than_the_answer(kit: TargetKit) -> None:
    """A thousand elements of which none may stay: characters given to the tokenizer, for four times as many objects."""
    given = []
    for count in (125, 500):
        text, truths = long_rollout(count)
        plan = kit.plan(kit.encode(text), truths, {count + k: k for k in range(count)})
        taken = 0

        def tokenize(part: str) -> list[int]:
            nonlocal taken
            taken += len(part)
            return kit.encode(part)

        writer = TargetWriter(tokenize, kit.pieces, kit.coords, "desc_first")
        assert fit_target(plan, 0, writer.lengths).fates == ()
        given.append(taken)
        assert taken < len(text)
    assert given[1] < 6 * given[0]


@pytest.mark.invariant("TGT-002")
def test_ids_before_the_last_kept_one_are_the_rollouts_own(kit: TargetKit) -> None:
    """Signs as tokens of their own, ids without a token and split characters stay as they were sampled."""
    text = render_object(CoordObject("é", "bbox_2d", (1, 2, 3, 4)))
    ids = [token for sign in '{"objects": [' for token in kit.encode(sign)]
    ids += [*kit.encode(text[:10]), 152_700, *kit.encode(text[10:])]
    plan = kit.plan(ids, [DOG], {})
    assert [found.item.desc for found in plan.parsed.objects] == ["�é"]
    found = kit.writer("desc_first").write(plan)
    assert list(found.ids[: len(ids) - 1]) == ids[:-1]
    sample = kit.sample(found)
    assert sample.input_ids.dtype is torch.int64 and 152_700 in sample.input_ids.tolist()
