"""Writes a comparison of two runs: comparison.json, comparison.html and pictures. Contract ids: ART-083.

In: the two sides and what was found. Out: the folder. The document is `coordexp:run-comparison`; the page holds its
pictures, so that it can be sent as one file.
"""

from __future__ import annotations

import base64
import io
import logging
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2

from coordexp.artifacts.comparison_summary import render_number
from coordexp.artifacts.evaluation_files import PICTURE_FAULTS
from coordexp.artifacts.files import write_json, write_text
from coordexp.data.pictures import read_picture
from coordexp.evaluation.comparison import render_comparison
from coordexp.evaluation.detections import on_shown_image
from coordexp.evaluation.gallery import GalleryItem, render_gallery
from coordexp.evaluation.plain_text import plain
from coordexp.spec import check

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from coordexp.artifacts.compared_runs import Compared

DOCUMENT_NAME, PAGE_NAME = "comparison.json", "comparison.html"
_TEMPLATES = Path(__file__).parent / "templates"
SCHEMA_VERSION = 1
_LOG = logging.getLogger(__name__)


def write_comparison(folder: Path, compared: Compared, *, pictures: int = 12) -> Path:
    """Write document and page into `folder` and return it; `pictures` images at most are drawn, most different first.

    A picture that cannot be drawn is a warning.
    """
    differences, comparison = compared.differences, compared.comparison
    document = {
        "schema_version": SCHEMA_VERSION,
        "first": str(compared.first.folder),
        "second": str(compared.second.folder),
        "differences": None if differences is None else [one.as_json() for one in differences],
        "evaluation": None if comparison is None else render_comparison(comparison),
    }
    write_json(folder / DOCUMENT_NAME, check("run-comparison", document))
    write_text(folder / PAGE_NAME, _render_page(document, list(_pictures(compared, pictures))))
    return folder


def _render_page(document: Mapping[str, Any], pages: Sequence[str]) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    environment.filters |= {"number": render_number, "plain": plain}
    differences = document["differences"]
    return environment.get_template(f"{PAGE_NAME}.jinja").render(
        first=plain(document["first"]),
        second=plain(document["second"]),
        differences=None if differences is None else [one for one in differences if one["matters"]],
        harmless=sum(not one["matters"] for one in differences or ()),
        evaluation=document["evaluation"],
        pages=pages,
    )


def _pictures(compared: Compared, limit: int) -> Iterator[str]:
    """Base64 of a picture for each of the images with most objects found once: A on the left, B on the right."""
    found = () if compared.comparison is None else compared.comparison.found_once
    counts = Counter(one.image for one in found)
    drawn = 0
    for number in sorted(counts, key=lambda image: (-counts[image], image)):
        if drawn == limit:
            return
        try:
            page = _draw(compared, number)
        except PICTURE_FAULTS as error:
            stored = compared.first.evaluation
            where = "" if stored is None else plain(str(stored.answers.images[number]))
            _LOG.warning("%s is left out of the page: %s", where, plain(str(error)))
        else:
            drawn += 1
            yield page


def _draw(compared: Compared, number: int) -> str:
    items = []
    for letter, side in zip("AB", (compared.first, compared.second), strict=True):
        assert side.evaluation is not None
        answers = side.evaluation.answers
        truth, prediction = on_shown_image(answers.truth[number], answers.predictions[number])
        path = answers.images[number]
        picture = read_picture(path, (truth.width, truth.height)).image
        items.append(GalleryItem(picture, truth, prediction, f"{letter} · {path.name}"))
    content = io.BytesIO()
    render_gallery(items, columns=2).save(content, "PNG", optimize=True)
    return base64.b64encode(content.getvalue()).decode("ascii")
