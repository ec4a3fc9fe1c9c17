"""Records in, the tokens of their answers out, by pieces that many answers share. Contract ids: ENC-030.

A tokenizer encodes what stands between two coord tokens by itself, so an answer's length is a sum over such texts, of
which a file holds few: a name is tokenized once, and not with each object that bears it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from coordexp.coordjson import CLOSURE, OPENING, SEPARATOR
from coordexp.encode.target_length import frame

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from coordexp.coordjson.render import FieldOrder
    from coordexp.coords.types import CoordObject
    from coordexp.data.types import Record
    from coordexp.encode.pieces import PieceTable

_BATCH = 512
"""Records whose new texts are tokenized at once."""
_SEEN_LIMIT = 1_000_000


class AnswerLengths:
    """Counts answers with one tokenizer and one field order; `unspelled` are texts that its tokens spell otherwise."""

    def __init__(self, tokenizer: Any, pieces: PieceTable, order: FieldOrder) -> None:
        self._tokenizer, self._pieces, self._order = tokenizer, pieces, order
        self._frames: dict[tuple[str, str], tuple[str, str]] = {}
        self._lengths: dict[str, int] = {}
        self.unspelled: set[str] = set()
        self._separator = len(tokenizer(SEPARATOR, add_special_tokens=False)["input_ids"])

    def count(self, objects: Sequence[CoordObject]) -> int:
        """Tokens of the answer, without its `<|im_end|>`."""
        texts = self._texts(objects)
        self._learn(texts)
        return self._sum(objects, texts)

    def count_all(self, records: Iterable[Record]) -> Iterator[int]:
        """`count` of each record in turn, new texts tokenized by the batch."""
        batch: list[Record] = []
        for record in records:
            batch.append(record)
            if len(batch) == _BATCH:
                yield from self._count_batch(batch)
                batch = []
        yield from self._count_batch(batch)

    def spells(self, objects: Sequence[CoordObject]) -> bool:
        """Whether the tokens of a counted answer spell all of its texts back."""
        return not self.unspelled or self.unspelled.isdisjoint(self._texts(objects))

    def _count_batch(self, batch: Sequence[Record]) -> Iterator[int]:
        texts = [self._texts(record.objects) for record in batch]
        self._learn(text for found in texts for text in found)
        for record, found in zip(batch, texts, strict=True):
            yield self._sum(record.objects, found)

    def _sum(self, objects: Sequence[CoordObject], texts: Sequence[str]) -> int:
        coords = sum([len(item.bins) for item in objects])
        return sum([self._lengths[text] for text in texts]) + coords + (coords - len(objects)) * self._separator

    def _texts(self, objects: Sequence[CoordObject]) -> list[str]:
        """What stands before, between and behind the coords of the objects."""
        if not objects:
            return [OPENING + CLOSURE]
        texts, before = [], OPENING
        for item in objects:
            head, tail = self._frames.get((item.desc, item.kind)) or self._frame(item)
            texts.append(before + head)
            before = tail + SEPARATOR
        texts.append(tail + CLOSURE)
        return texts

    def _frame(self, item: CoordObject) -> tuple[str, str]:
        found = frame(item, self._order)
        if len(self._frames) < _SEEN_LIMIT:
            self._frames[item.desc, item.kind] = found
        return found

    def _learn(self, texts: Iterable[str]) -> None:
        wanted = set(texts)
        new = [text for text in wanted if text not in self._lengths]
        if not new:
            return
        if len(self._lengths) + len(new) > _SEEN_LIMIT:
            self._lengths, new = {}, list(wanted)
        for text, ids in zip(new, self._tokenizer(new, add_special_tokens=False)["input_ids"], strict=True):
            self._lengths[text] = len(ids)
            if self._pieces.text(ids) != text:
                self.unspelled.add(text)
