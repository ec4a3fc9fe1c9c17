"""Records in, rollout requests out: the prompt that training showed and the image it showed. Contract id: ROLL-004."""

from __future__ import annotations

from typing import TYPE_CHECKING

from coordexp.data.paths import resolve_record_images
from coordexp.encode.images import read_image
from coordexp.rollout.types import RolloutRequest

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from coordexp.data.types import Record
    from coordexp.encode.encoder import Encoder


def build_requests(
    records: Iterable[Record], encoder: Encoder, image_root: Path | None = None, first: int = 0
) -> list[RolloutRequest]:
    """One request per record, its sample id the record's source, its index counted from `first`.

    Raises what encoding raises for a record that cannot be shown as it stands: an image that is missing, of another
    size than the record says, or that would have to be resized.
    """
    requests = []
    for index, record in enumerate(records, first):
        paths = resolve_record_images(record, image_root)
        for path in paths:
            read_image(record, path)
        requests.append(RolloutRequest(record.source, encoder.prompt(record).ids, paths, index))
    return requests
