"""What a line of JSONL becomes once it passed its contract. Contract ids: DATA-*."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from coordexp.coords.types import CoordObject


@dataclass(frozen=True, slots=True)
class Record:
    """One image and its objects.

    `source` is `file:line` and serves as the sample's id; `images` are paths as written in the file; `width` and
    `height` are the image's size in pixels; `objects` keep the file's order and may be empty.
    """

    source: str
    images: tuple[str, ...]
    width: int
    height: int
    objects: tuple[CoordObject, ...]
    summary: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
