"""Cases of fixtures/targets/rollout_targets.json: owner, type and weight of every token, and the slots."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path

import pytest
from transformers import Qwen2TokenizerFast

from coordexp.coords.types import CoordObject
from coordexp.encode.types import EncodedSample, TokenSubset, TokenType
from coordexp.losses.context import build_context
from coordexp.losses.masks import Provenance
from coordexp.matching.targets import shorten_prefix
from coordexp.packing.collate import collate_packed
from coordexp.spec import Case, load_cases
from tests.rollout_faults import UNKNOWN_ID
from tests.unit.encode.target_kit import WEIGHTS, TargetKit, build_kit, no_rope
from tests.unit.encode.target_reference import Target

CASES = load_cases(Path(__file__).parents[3] / "fixtures/targets/rollout_targets.json").cases
EVERY = pytest.mark.parametrize("case", [pytest.param(case, id=case.description) for case in CASES])


@pytest.fixture(scope="module")
def kit(real_tokenizer: Qwen2TokenizerFast) -> TargetKit:
    return build_kit(real_tokenizer)


def read(kit: TargetKit, case: Case) -> tuple[list[int], list[CoordObject], dict[int, int]]:
    """Response, ground truth and pairs. A token of a case is text, encoded by itself, or an id that has no token."""
    tokens = [[UNKNOWN_ID] if isinstance(token, dict) else kit.encode(token) for token in case.input["rollout"]]
    ids = [token for part in tokens for token in part]
    truths = [CoordObject(desc, "bbox_2d", tuple(bins)) for desc, bins in case.input["truths"]]
    return ids, truths, dict(case.input["pairs"])


def write(kit: TargetKit, case: Case) -> EncodedSample:
    ids, truths, pairs = read(kit, case)
    plan = kit.plan(ids, truths, pairs)
    if case.input["keep"] is not None:
        plan = shorten_prefix(plan, case.input["keep"])
    return kit.sample(kit.writer(case.input["order"]).write(plan))


def shown(piece: bytes) -> str:
    try:
        return piece.decode()
    except UnicodeDecodeError:
        return f"hex {piece.hex()}"


def runs(rows: list[tuple[str, str]]) -> list[list[object]]:
    """Pieces under what they are, for as long as it stays the same."""
    return [[name, [piece for _, piece in run]] for name, run in groupby(rows, lambda row: row[0])]


@pytest.mark.invariant("TGT-001")
@pytest.mark.invariant("TGT-002")
@pytest.mark.invariant("TGT-003")
@pytest.mark.invariant("TGT-012")
@pytest.mark.invariant("TGT-006")
@pytest.mark.invariant("TGT-009")
@EVERY
def test_each_token_has_its_owner_its_type_and_its_weight(kit: TargetKit, case: Case) -> None:
    sample = write(kit, case)
    context = build_context(collate_packed([sample], no_rope), Provenance.B, WEIGHTS)
    weights = dict(zip((context.predict + 1).tolist(), context.weight.tolist(), strict=True))
    rows = []
    for at in range(sample.prompt_length, len(sample) - 1):
        owner = TokenSubset(int(sample.subsets[at])).name.lower()
        kind = TokenType(int(sample.token_types[at])).name.lower()
        piece = kit.pieces.any_piece(int(sample.input_ids[at]))
        rows.append((f"{owner} {kind} {weights.pop(at, 0.0):g}", shown(piece)))
    assert runs(rows) == case.expect["tokens"]
    assert weights == {}


@pytest.mark.invariant("TGT-004")
@EVERY
def test_slots_aim_at_ground_truth(kit: TargetKit, case: Case) -> None:
    sample = write(kit, case)
    found = [
        [slots.subset.name.lower(), [at - sample.prompt_length for at in slots.positions], list(slots.bins)]
        for slots in sample.objects
    ]
    assert found == case.expect["slots"]


@pytest.mark.invariant("TGT-006")
@EVERY
def test_the_slow_target_says_the_same(kit: TargetKit, case: Case) -> None:
    ids, truths, pairs = read(kit, case)
    slow: Target = kit.write_slowly(ids, truths, pairs, case.input["order"], case.input["keep"])
    cells = zip(slow.owners, slow.types, slow.weights, slow.ids, strict=True)
    rows = [(f"{owner} {kind} {weight:g}", shown(kit.pieces.any_piece(token))) for owner, kind, weight, token in cells]
    assert runs(rows) == case.expect["tokens"]
    assert [[owner, list(at), list(bins)] for owner, at, bins in slow.slots] == case.expect["slots"]


@pytest.mark.invariant("TGT-006")
def test_the_cases_hold_every_owner_with_every_weight_it_can_have() -> None:
    cells = {name for case in CASES for name, _ in case.expect["tokens"]}
    structure = {"matched struct 0.4", "matched struct 1", "fn struct 1", "fn struct 2.5", "closure struct 1"}
    assert cells >= structure | {"closure struct 2.5", "closure eos 1", "opening_injected struct 1", "fn desc 0.6"}
    neutral = {name for name in cells if name.endswith(" 0")}
    assert neutral == {
        *("opening struct 0", "matched desc 0", "matched coord 0", "fn coord 0"),
        *("fp struct 0", "fp desc 0", "fp coord 0", "dropped struct 0"),
    }
