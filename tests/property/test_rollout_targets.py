"""Targets of rollouts against a slow one, and what any target holds, on real tokens and broken answers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import Qwen2TokenizerFast

from coordexp.coordjson import ParsedObject, find_closure, render_answer
from coordexp.coords.types import CoordObject
from coordexp.encode.types import TokenSubset, TokenType, TypedAnswer
from coordexp.losses.context import build_context
from coordexp.losses.masks import Provenance
from coordexp.matching.targets import fit_target, shorten_prefix
from coordexp.packing.collate import collate_packed
from tests.rollout_faults import MUTATORS, SPLIT, UNKNOWN, broken, encode, much_broken
from tests.strategies import ANY_DESCS, FIELD_ORDERS, PLAIN_DESCS, boxes
from tests.unit.encode.target_kit import WEIGHTS, TargetKit, build_kit, no_rope, restyled, usable
from tests.unit.encode.target_reference import Target, fit_reference

TRUTHS = st.lists(boxes(PLAIN_DESCS), max_size=4)
ANSWERS = st.builds(render_answer, st.lists(boxes(ANY_DESCS), min_size=1, max_size=4), FIELD_ORDERS)
PAIRS = st.tuples(st.permutations(range(5)), st.permutations(range(4)), st.integers(0, 4)).map(
    lambda drawn: dict(zip(drawn[0][: drawn[2]], drawn[1], strict=False))
)
SPACE = st.sampled_from(["", "", " ", "\n", "\n\n  ", "\t"])
STYLES = st.fixed_dictionaries(
    {
        "{": st.tuples(st.just("{"), SPACE).map("".join),
        "}": st.tuples(SPACE, st.just("}"), st.sampled_from(["", "", "\n", SPLIT])).map("".join),
        "[": st.tuples(st.just("["), SPACE).map("".join),
        "]": st.tuples(SPACE, st.just("]"), SPACE).map("".join),
        ",": st.sampled_from([",", " ,", ",\n"]),
        " ": st.sampled_from([" ", ""]),
    }
)
STYLED = st.builds(restyled, st.lists(boxes(ANY_DESCS), min_size=1, max_size=4), FIELD_ORDERS, STYLES)
NAMES = {subset: subset.name.lower() for subset in TokenSubset}


@pytest.fixture(scope="module")
def kit(real_tokenizer: Qwen2TokenizerFast) -> TargetKit:
    return build_kit(real_tokenizer)


def check_against_the_slow_target(
    kit: TargetKit, ids: Sequence[int], truths: Sequence[CoordObject], pairs: Mapping[int, int], order: str
) -> Counter[str]:
    """Every length of the prefix; returns what the longest holds, for tests that ask whether a case is met at all."""
    parsed = kit.parser.parse(ids)
    pairs = usable(pairs, parsed, truths)
    plan, writer = kit.plan(ids, truths, pairs), kit.writer(order)
    lengths = list(writer.lengths(plan))[::-1]
    assert len(lengths) == len(parsed.elements) + 1
    slow = Target()
    for keep, length in enumerate(lengths):
        shorter = shorten_prefix(plan, keep)
        found = writer.write(shorter)
        slow = kit.write_slowly(ids, truths, pairs, order, keep)
        compare(found, slow)
        assert length == len(found.ids)
        fates = Counter(NAMES[fate.subset] for fate in shorter.fates)
        counted = [fates["matched"], fates["fp"], fates["dropped"], len(shorter.missed)]
        assert counted == [slow.counts[name] for name in ("matched", "fp", "dropped", "fn")]
    return Counter(slow.owners)


def compare(found: TypedAnswer, slow: Target) -> None:
    assert list(found.ids) == slow.ids[:-1]
    types = [kind.name.lower() for kind in found.types]
    assert list(zip(types, (NAMES[s] for s in found.subsets), strict=True)) == list(
        zip(slow.types[:-1], slow.owners[:-1], strict=True)
    )
    assert NAMES[found.end_subset] == slow.owners[-1]
    assert [(NAMES[slots.subset], slots.positions, slots.bins) for slots in found.objects] == slow.slots


@pytest.mark.invariant("TGT-006")
@pytest.mark.parametrize("name", sorted(MUTATORS))
@given(data=st.data())
def test_the_target_of_an_answer_broken_in_one_way_is_the_slow_one(
    kit: TargetKit, name: str, data: st.DataObject
) -> None:
    ids = encode(kit.tokenizer, data.draw(broken(name, ANSWERS)))
    check_against_the_slow_target(kit, ids, data.draw(TRUTHS), data.draw(PAIRS), data.draw(FIELD_ORDERS))


@pytest.mark.invariant("TGT-006")
@given(much_broken(ANSWERS | STYLED) | STYLED, TRUTHS, PAIRS, FIELD_ORDERS)
def test_the_target_of_any_answer_is_the_slow_one(
    kit: TargetKit, text: str, truths: list[CoordObject], pairs: dict[int, int], order: str
) -> None:
    check_against_the_slow_target(kit, encode(kit.tokenizer, text), truths, pairs, order)


ITEMS = [
    CoordObject("black cat.", "bbox_2d", (110, 310, 410, 705)),
    CoordObject('a "quoted" {brace}]}', "bbox_2d", (1, 2, 3, 4)),
    CoordObject("红色 café 😀", "bbox_2d", (5, 6, 7, 8)),
    CoordObject("two\nlines ", "bbox_2d", (0, 0, 999, 999)),
]
BAD = '{"desc": "a", "bbox_2d": [5]}'
COMPACT = {" ": "", "}": "}\n"}


@pytest.mark.invariant("TGT-006")
@pytest.mark.parametrize("order", ["desc_first", "geometry_first"])
@pytest.mark.parametrize("signs", [{}, COMPACT, {"[": "[\n  ", "]": "\n]", ",": " ,"}], ids=["", "compact", "wide"])
def test_the_target_of_an_answer_cut_after_any_token_is_the_slow_one(
    kit: TargetKit, order: str, signs: dict[str, str]
) -> None:
    text = restyled(ITEMS, order, signs)
    at = text.index("{", 5)
    ids = encode(kit.tokenizer, text[:at] + BAD + "," + SPLIT + text[at:].replace("café", f"caf{UNKNOWN}é"))
    held: Counter[str] = Counter()
    for length in range(len(ids) + 1):
        held += check_against_the_slow_target(kit, ids[:length], ITEMS[1:], {0: 2, 2: 0}, order)
    assert set(held) == {"opening", "opening_injected", "matched", "fp", "dropped", "fn", "closure"}


@pytest.mark.invariant("TGT-002")
@pytest.mark.invariant("TGT-008")
@given(much_broken(ANSWERS | STYLED) | STYLED, TRUTHS, PAIRS, FIELD_ORDERS)
def test_a_target_holds_the_prefix_as_written_and_each_ground_truth_once(
    kit: TargetKit, text: str, truths: list[CoordObject], pairs: dict[int, int], order: str
) -> None:
    ids = encode(kit.tokenizer, text)
    parsed = kit.parser.parse(ids)
    pairs = usable(pairs, parsed, truths)
    target = kit.write(ids, truths, pairs, order)
    cut = parsed.prefix
    unchanged = max(0, cut.tokens - 1)
    assert list(target.ids[:unchanged]) == ids[:unchanged]
    again = kit.parser.parse(target.ids)
    missed = [item for number, item in enumerate(truths) if number not in pairs.values()]
    assert [found.item for found in again.objects] == [*(found.item for found in parsed.objects), *missed]
    assert [drop.reason for drop in again.dropped] == [drop.reason for drop in parsed.dropped]
    assert not (again.invalid_rollout or again.truncated or again.malformed_tail)
    assert again.strict is not bool(parsed.dropped)
    content = kit.spelled(target.ids)
    assert find_closure(content) == (len(content) - 2, len(content)) and content.endswith(b"]}")


@pytest.mark.invariant("TGT-003")
@given(much_broken(ANSWERS | STYLED) | STYLED, TRUTHS, PAIRS, FIELD_ORDERS)
def test_the_tail_has_the_tokens_of_its_text(
    kit: TargetKit, text: str, truths: list[CoordObject], pairs: dict[int, int], order: str
) -> None:
    ids = encode(kit.tokenizer, text)
    parsed = kit.parser.parse(ids)
    target = kit.write(ids, truths, usable(pairs, parsed, truths), order)
    tail = list(target.ids[max(0, parsed.prefix.tokens - 1) :])
    written = kit.spelled(tail)
    assert tail == kit.encode(written.decode())
    assert written.startswith(parsed.prefix.kept)


@pytest.mark.invariant("TGT-003")
@given(st.lists(boxes(PLAIN_DESCS), max_size=5), st.integers(0, 5), FIELD_ORDERS, st.data())
def test_an_answer_that_begins_as_ground_truth_becomes_ground_truth_id_for_id(
    kit: TargetKit, truths: list[CoordObject], held: int, order: str, data: st.DataObject
) -> None:
    """Cut anywhere after the objects that it holds, or closed there, whatever the tokens at the cut were."""
    whole = kit.encode(render_answer(truths, order))
    ends = [found.span[1] for found in kit.parser.parse(whole).objects[:held]]
    closed = kit.encode(render_answer(truths[: len(ends)], order))
    last = ends[-1] if ends else next(at for at in range(len(whole)) if b"[" in kit.pieces.piece(whole[at])) + 1
    beginnings = [closed, [*closed, kit.scribe.end], whole[: data.draw(st.integers(last, len(whole)))]]
    for ids in beginnings:
        kept = len(kit.parser.parse(ids).objects)
        assert list(kit.write(ids, truths, {number: number for number in range(kept)}, order).ids) == whole


@pytest.mark.invariant("TGT-012")
@given(TRUTHS, FIELD_ORDERS, st.sampled_from(["", "{", "Sure: ", '{"objects":', '{"object_1": {', '[{"desc": "a"}]']))
def test_an_invalid_rollout_is_taught_the_ground_truths_answer(
    kit: TargetKit, truths: list[CoordObject], order: str, text: str
) -> None:
    ids = kit.encode(text)
    assert kit.parser.parse(ids).invalid_rollout
    target = kit.write(ids, truths, {}, order)
    assert list(target.ids) == kit.encode(render_answer(truths, order))
    opened = [subset for subset in target.subsets if subset is TokenSubset.OPENING_INJECTED]
    assert len(opened) == 3 and set(target.subsets[:3]) == {TokenSubset.OPENING_INJECTED}
    assert TokenSubset.OPENING not in target.subsets


@pytest.mark.invariant("TGT-007")
@given(much_broken(ANSWERS | STYLED) | STYLED, TRUTHS, PAIRS, FIELD_ORDERS, st.integers(0, 160))
def test_a_target_too_long_loses_objects_from_its_end_until_it_fits(
    kit: TargetKit, text: str, truths: list[CoordObject], pairs: dict[int, int], order: str, limit: int
) -> None:
    ids = encode(kit.tokenizer, text)
    parsed = kit.parser.parse(ids)
    pairs = usable(pairs, parsed, truths)
    plan, writer = kit.plan(ids, truths, pairs), kit.writer(order)
    found = fit_target(plan, limit, writer.lengths)
    slow = fit_reference(
        limit + 1, len(parsed.elements), lambda keep: kit.write_slowly(ids, truths, pairs, order, keep)
    )
    if slow is not None:
        compare(writer.write(found), slow)
        assert len(plan.fates) - len(found.fates) == slow.counts["cut"]
        assert found.response == plan.response and found.parsed.truncated == parsed.truncated
    else:
        assert (found.fates, found.missed) == ((), tuple(truths))
        assert list(writer.write(found).ids) == kit.encode(render_answer(truths, order))


@pytest.mark.invariant("TGT-009")
@given(much_broken(ANSWERS | STYLED) | STYLED, TRUTHS, PAIRS, FIELD_ORDERS)
def test_weights_follow_from_owner_and_type_and_each_token_is_predicted_by_the_one_before(
    kit: TargetKit, text: str, truths: list[CoordObject], pairs: dict[int, int], order: str
) -> None:
    """Two targets side by side in a row, the first of them with its prefix cut."""
    ids = encode(kit.tokenizer, text)
    pairs = usable(pairs, kit.parser.parse(ids), truths)
    plan, slow = kit.plan(ids, truths, pairs), [kit.write_slowly(ids, truths, pairs, order, k) for k in (1, None)]
    samples = [kit.sample(kit.writer(order).write(p)) for p in (shorten_prefix(plan, len(plan.fates[:1])), plan)]
    context = build_context(collate_packed(samples, no_rope), Provenance.B, WEIGHTS)
    predicted = dict(zip(context.predict.tolist(), context.weight.tolist(), strict=True))
    aims = dict(zip(context.slot_predict.tolist(), context.slot_bins.tolist(), strict=True))
    start = 0
    for sample, target in zip(samples, slow, strict=True):
        first = start + sample.prompt_length
        expected = {first + at - 1: weight for at, weight in enumerate(target.weights) if weight}
        here = {at: weight for at, weight in predicted.items() if start <= at < start + len(sample)}
        assert here == pytest.approx(expected)
        slots = {first + at - 1: value for _, ats, bins in target.slots for at, value in zip(ats, bins, strict=True)}
        assert {at: value for at, value in aims.items() if start <= at < start + len(sample)} == slots
        start += len(sample)


@pytest.mark.invariant("TGT-004")
@given(much_broken(ANSWERS | STYLED) | STYLED, TRUTHS, PAIRS, FIELD_ORDERS)
def test_false_positives_have_no_slots_and_matched_ones_aim_at_ground_truth(
    kit: TargetKit, text: str, truths: list[CoordObject], pairs: dict[int, int], order: str
) -> None:
    ids = encode(kit.tokenizer, text)
    parsed = kit.parser.parse(ids)
    pairs = usable(pairs, parsed, truths)
    target = kit.write(ids, truths, pairs, order)
    slots = {at: value for item in target.objects for at, value in zip(item.positions, item.bins, strict=True)}
    valid = [element for element in parsed.elements if isinstance(element, ParsedObject)]
    for number, element in enumerate(valid):
        aims = [slots.get(at) for at in element.coord_positions]
        assert aims == (list(truths[pairs[number]].bins) if number in pairs else [None] * 4)
    for at, (kind, subset) in enumerate(zip(target.types, target.subsets, strict=True)):
        is_slot = kind is TokenType.COORD and subset in (TokenSubset.MATCHED, TokenSubset.FN)
        assert is_slot is (at in slots)
    injected = [item for item in target.objects if item.subset is TokenSubset.FN]
    assert [item.bins for item in injected] == [
        truth.bins for number, truth in enumerate(truths) if number not in pairs.values()
    ]
    for item in injected:
        assert [kit.scribe.bins[target.ids[at]] for at in item.positions] == list(item.bins)
