"""An encoded sample in, what a person looks at out: its text and a row per run of tokens. Contract ids: ENC-016."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from coordexp.encode.types import IGNORE_INDEX, TokenType
from coordexp.encode.vocabulary import IMAGE_PAD

if TYPE_CHECKING:
    from coordexp.encode.encoder import Encoder
    from coordexp.encode.types import EncodedSample


@dataclass(frozen=True, slots=True)
class TokenRow:
    """`count` equal tokens in a row (image placeholders), or one token: `position` is the first of them."""

    position: int
    count: int
    token_id: int
    text: str
    type: str
    supervised: bool


@dataclass(frozen=True, slots=True)
class Inspection:
    """A sample as text and tokens. `text` writes a run of image placeholders once, with its length."""

    sample_id: str
    text: str
    rows: tuple[TokenRow, ...]
    length: int
    supervised: int


def render_inspection(found: Inspection) -> dict[str, object]:
    """The same as plain JSON values; a row is [position, count, id, text, type, supervised]."""
    rows = [[row.position, row.count, row.token_id, row.text, row.type, row.supervised] for row in found.rows]
    return {
        "sample": found.sample_id,
        "tokens": found.length,
        "supervised": found.supervised,
        "text": found.text,
        "rows": rows,
    }


def inspect_sample(encoder: Encoder, sample: EncodedSample) -> Inspection:
    """Describe a sample; runs of one image placeholder are folded."""
    ids = sample.input_ids.tolist()
    types = sample.token_types.tolist()
    labels = sample.labels.tolist()
    rows: list[TokenRow] = []
    position = 0
    while position < len(ids):
        count = 1
        if sample.mm_token_type_ids[position]:
            while position + count < len(ids) and ids[position + count] == ids[position]:
                count += 1
        kind = TokenType(types[position]).name.lower()
        text = encoder.pieces.text([ids[position]])
        rows.append(TokenRow(position, count, ids[position], text, kind, labels[position] != IGNORE_INDEX))
        position += count
    pad = re.escape(IMAGE_PAD)
    text = re.sub(f"({pad})+", lambda run: f"{IMAGE_PAD}x{len(run[0]) // len(IMAGE_PAD)}", encoder.pieces.text(ids))
    supervised = sum(label != IGNORE_INDEX for label in labels)
    return Inspection(sample.sample_id, text, tuple(rows), len(ids), supervised)
