"""What the tests of rollout targets need of the real tokenizer: parse, plan and write, beside the slow reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from transformers import Qwen2TokenizerFast

from coordexp.coordjson import CLOSURE, OPENING, FieldOrder, ParsedRollout, render_object
from coordexp.coords.types import CoordObject
from coordexp.coords.vocab import CoordVocab, build_coord_vocab
from coordexp.encode.assemble import Prompt, TurnTokens, assemble
from coordexp.encode.pieces import PieceTable
from coordexp.encode.rollout_parse import RolloutParser
from coordexp.encode.rollout_target import TargetWriter
from coordexp.encode.types import EncodedSample, TargetPlan, TypedAnswer
from coordexp.encode.vocabulary import CONTROL_TOKENS, END_OF_TURN
from coordexp.losses.specs.types import MaskWeights
from coordexp.matching.targets import plan_target
from coordexp.matching.types import Match, MatchResult
from tests.unit.coordjson.rollout_reference import Reading, read_reference
from tests.unit.encode.target_reference import Given, Scribe, Target, write_reference

Pairs = Mapping[int, int]
# Distinct, and none of them 0 or 1, so that no weight can stand for another unseen.
KNOBS = {
    "rollout_matched_prefix_struct_weight": 0.4,
    "rollout_fn_desc_weight": 0.6,
    "rollout_drop_invalid_struct_ce_multiplier": 2.5,
}
WEIGHTS = MaskWeights(**KNOBS, desc_ce_weight=1.7, self_context_struct_ce_weight=0.13, coord_ce_weight=0.35)


@dataclass(frozen=True)
class TargetKit:
    """Pairs map a valid object of a rollout, by its number among them, to the ground truth that it is."""

    tokenizer: Qwen2TokenizerFast
    pieces: PieceTable
    coords: CoordVocab
    parser: RolloutParser
    scribe: Scribe
    control: tuple[int, ...]

    def encode(self, text: str) -> list[int]:
        return [int(token) for token in self.tokenizer(text, add_special_tokens=False)["input_ids"]]

    def spelled(self, ids: Sequence[int]) -> bytes:
        return b"".join(map(self.pieces.any_piece, ids))

    def writer(self, order: FieldOrder) -> TargetWriter:
        return TargetWriter(self.encode, self.pieces, self.coords, order)

    def plan(self, ids: Sequence[int], truths: Sequence[CoordObject], pairs: Pairs) -> TargetPlan:
        return plan_target(ids, self.parser.parse(ids), truths, matching(pairs, truths))

    def write(
        self, ids: Sequence[int], truths: Sequence[CoordObject], pairs: Pairs, order: FieldOrder = "desc_first"
    ) -> TypedAnswer:
        return self.writer(order).write(self.plan(ids, truths, pairs))

    def read_slowly(self, ids: Sequence[int]) -> Reading:
        return read_reference(ids, self.scribe.piece, self.scribe.bins, self.control, False)

    def write_slowly(
        self,
        ids: Sequence[int],
        truths: Sequence[CoordObject],
        pairs: Pairs,
        order: str,
        keep: int | None = None,
    ) -> Target:
        given = Given(ids, self.read_slowly(ids), truths, pairs, order)
        return write_reference(self.scribe, given, KNOBS, keep)

    def sample(self, answer: TypedAnswer) -> EncodedSample:
        """The answer to a prompt of three tokens, in the turn's words."""
        turn = TurnTokens(image=-1, end=self.scribe.end, newline=tuple(self.encode("\n")))
        return assemble(Prompt("a sample", tuple(self.encode("Find them all.")[:3]), ()), answer, turn)


def build_kit(tokenizer: Qwen2TokenizerFast) -> TargetKit:
    coords, pieces = build_coord_vocab(tokenizer), PieceTable(tokenizer)

    def encode(text: str) -> list[int]:
        return [int(token) for token in tokenizer(text, add_special_tokens=False)["input_ids"]]

    bins = {token: value for value, token in enumerate(coords.ids)}
    end = int(tokenizer.convert_tokens_to_ids(END_OF_TURN))
    control = tuple(int(token) for token in tokenizer.convert_tokens_to_ids(list(CONTROL_TOKENS)))
    scribe = Scribe(pieces.any_piece, encode, bins, end)
    return TargetKit(tokenizer, pieces, coords, RolloutParser(tokenizer, coords), scribe, control)


def matching(pairs: Pairs, truths: Sequence[CoordObject]) -> MatchResult:
    """A result with these pairs; false positives are read off the parse, so none are listed."""
    missed = tuple(sorted(set(range(len(truths))) - set(pairs.values())))
    return MatchResult(tuple(Match(p, t, 1.0) for p, t in sorted(pairs.items())), (), missed, 0)


def no_rope(sample: EncodedSample) -> torch.Tensor:
    """Positions that no test looks at."""
    return torch.zeros(3, len(sample), dtype=torch.int64)


def usable(pairs: Pairs, parsed: ParsedRollout, truths: Sequence[CoordObject]) -> dict[int, int]:
    """The pairs whose two sides are there."""
    return {p: t for p, t in pairs.items() if p < len(parsed.objects) and t < len(truths)}


def restyled(objects: Sequence[CoordObject], order: FieldOrder, signs: Mapping[str, str]) -> str:
    """An answer whose structural signs are written otherwise: `{` and the like outside descs, by `signs`.

    A desc keeps its text, since signs are replaced between quotes of structure alone.
    """
    texts = [render_object(item, order) for item in objects]
    written = OPENING + ", ".join(texts) + CLOSURE
    found, quoted, escaped = [], False, False
    for character in written:
        if not quoted:
            found.append(signs.get(character, character))
        else:
            found.append(character)
        if character == '"' and not escaped:
            quoted = not quoted
        escaped = quoted and character == "\\" and not escaped
    return "".join(found)
