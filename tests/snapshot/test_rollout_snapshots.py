"""What is found in the recorded answers of the tiny checkpoint, token by token."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path

import pytest
from syrupy.assertion import SnapshotAssertion
from transformers import AutoTokenizer

from coordexp.coordjson import ParsedObject, ParsedRollout, own_prefix
from coordexp.coords.vocab import build_coord_vocab
from coordexp.encode.pieces import PieceTable
from coordexp.encode.rollout_parse import RolloutParser
from coordexp.spec import Case, load_cases

ROOT = Path(__file__).parents[2]
CASES = load_cases(ROOT / "fixtures/coordjson/recorded_rollouts.json").cases
EVERY = pytest.mark.parametrize("case", CASES, ids=[case.description for case in CASES])


@pytest.fixture(scope="module")
def tokenizer() -> object:
    return AutoTokenizer.from_pretrained(ROOT / "fixtures/tiny-qwen3vl", local_files_only=True)


@pytest.fixture(scope="module")
def parser(tokenizer: object) -> RolloutParser:
    return RolloutParser(tokenizer, build_coord_vocab(tokenizer))


def described(parsed: ParsedRollout, pieces: PieceTable, ids: list[int]) -> str:
    """The flags, a line for each element, the cut, and the kept tokens in runs of the same owners."""
    flags = [name for name in ("invalid_rollout", "truncated", "malformed_tail", "strict") if getattr(parsed, name)]
    lines = [f"{len(ids)} tokens, {parsed.length} before a control token: {', '.join(flags)} ({parsed.failure})"]
    for number, found in enumerate(parsed.elements):
        where = f"{number} {found.span} +{found.offset}"
        if isinstance(found, ParsedObject):
            inside = f"desc {found.desc_span} {found.item.desc!r}, coords {found.coord_positions} {found.item.bins}"
            lines.append(f"{where} {found.item.kind}: {inside}")
        else:
            lines.append(f"{where} {found.reason} at {found.offending}: {found.excerpt!r}")
    cut = parsed.prefix
    lines.append(f"kept: {cut.tokens} tokens, {cut.offset} bytes of the last: {cut.kept!r}")
    held = list(enumerate(own_prefix(parsed)))
    for (first, last, desc), run in groupby(held, key=lambda pair: (pair[1].first, pair[1].last, pair[1].desc)):
        positions = [at for at, _ in run]
        owners = f"{first}" if first == last else f"{first}..{last}"
        text = pieces.text(ids[positions[0] : positions[-1] + 1])
        lines.append(f"  {positions[0]}..{positions[-1]} of {owners}{'' if desc is None else ' desc'}: {text!r}")
    return "\n".join(lines)


@pytest.mark.invariant("PARSE-012")
@EVERY
def test_a_recorded_answer_parses_as_recorded(
    tokenizer: object, parser: RolloutParser, snapshot: SnapshotAssertion, case: Case
) -> None:
    ids = case.input["ids"]
    assert described(parser.parse(ids), PieceTable(tokenizer), ids) == snapshot


@pytest.mark.invariant("PARSE-012")
@EVERY
def test_a_recorded_answer_holds_what_its_case_says(parser: RolloutParser, case: Case) -> None:
    parsed = parser.parse(case.input["ids"])
    drops = [drop.reason for drop in parsed.dropped]
    found = {"failure": parsed.failure, "objects": len(parsed.objects), "dropped": drops}
    assert found == case.expect


@pytest.mark.invariant("PARSE-012")
def test_every_kind_of_answer_is_recorded() -> None:
    kinds = {case.description.split(":")[0] for case in CASES}
    assert kinds == {"good", "repetitive", "truncated", "sampled", "garbage"}
