"""Writes a comparison of two runs: comparison.json, comparison.html and pictures. Contract ids: ART-083.

In: the two sides and what was found. Out: the folder. The document is `coordexp:run-comparison`; the page holds its
pictures, so that it can be sent as one file.
"""

from __future__ import annotations

import base64
import io
import logging
from collections import Counter
from typing import TYPE_CHECKING, Any

import jinja2

from coordexp.artifacts.evaluation_files import PICTURE_FAULTS, read_shown_picture
from coordexp.artifacts.files import write_json, write_text
from coordexp.evaluation.comparison import render_comparison
from coordexp.evaluation.detections import on_shown_image
from coordexp.evaluation.gallery import GalleryItem, render_gallery
from coordexp.evaluation.plain_text import plain
from coordexp.spec import check

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from coordexp.artifacts.compared_runs import Compared

DOCUMENT_NAME, PAGE_NAME = "comparison.json", "comparison.html"
SCHEMA_VERSION = 1
_LOG = logging.getLogger(__name__)
_TEMPLATE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{{ first }} · {{ second }}</title><style>
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 76rem; color: #1c1e22; padding: 0 1rem }
table { border-collapse: collapse; margin: .5rem 0 2rem } th, td { padding: .25rem .8rem; border-bottom: 1px solid #dde }
td { text-align: right; overflow-wrap: anywhere } th, td:first-child { text-align: left } img { max-width: 100% }
.faint { color: #687078 } figure { margin: 1rem 0 2rem }
</style></head><body>
<h1>A: {{ first }}<br>B: {{ second }}</h1>
<h2>What differs between the runs and could change results</h2>
{% if differences is none %}<p class="faint">One of them has no run manifest.</p>
{% else %}<table><tr><th>key</th><th>A</th><th>B</th></tr>
{% for row in differences %}<tr><td>{{ row.key|plain }}</td><td>{{ row.first|string|plain }}</td><td>{{ row.second|string|plain }}</td></tr>
{% else %}<tr><td colspan="3">nothing</td></tr>
{% endfor %}</table>
<p class="faint">{{ harmless }} more values differ that change no number (places, names, times).</p>{% endif %}
{% if evaluation %}
<h2>On {{ evaluation.images }} images that both answered</h2>
<p>mAP of B minus A: <b>{{ evaluation.mAP_difference.value|number }}</b>{% if evaluation.mAP_difference.low is not none %}, 95% between
{{ "%+.4f"|format(evaluation.mAP_difference.low) }} and {{ "%+.4f"|format(evaluation.mAP_difference.high) }} ({{ evaluation.mAP_difference.resamples }} bootstrap resamples of the images){% endif %}.
B alone finds {{ evaluation.only_second }} objects, A alone {{ evaluation.only_first }}.</p>
<table><tr><th></th><th>A</th><th>B</th></tr>
{% for name, pair in evaluation.numbers.items() %}<tr><td>{{ name }}</td><td>{{ pair[0]|number }}</td><td>{{ pair[1]|number }}</td></tr>
{% endfor %}</table>
<table><tr><th>description</th><th>objects</th><th>AP of A</th><th>AP of B</th><th>A alone finds</th><th>B alone finds</th></tr>
{% for row in evaluation.per_class %}<tr><td>{{ row.desc|plain }}</td><td>{{ row.objects }}</td><td>{{ row.first|number }}</td>
<td>{{ row.second|number }}</td><td>{{ row.only_first }}</td><td>{{ row.only_second }}</td></tr>
{% endfor %}</table>
{% if pages %}<h2>Images on which they differ most</h2>{% endif %}
{% for page in pages %}<figure><img alt="A on the left, B on the right" src="data:image/png;base64,{{ page }}"></figure>
{% endfor %}{% endif %}</body></html>
"""


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
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    environment.filters |= {"number": _number, "plain": plain}
    differences = document["differences"]
    return environment.from_string(_TEMPLATE).render(
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
            _LOG.warning("image %d is left out of the page: %s", number + 1, plain(str(error)))
        else:
            drawn += 1
            yield page


def _draw(compared: Compared, number: int) -> str:
    items = []
    for letter, side in zip("AB", (compared.first, compared.second), strict=True):
        stored = side.evaluation
        assert stored is not None
        truth, prediction = on_shown_image(stored.truth[number], stored.predictions[number])
        picture = read_shown_picture(stored.images[number], truth)
        items.append(GalleryItem(picture, truth, prediction, f"{letter} · {stored.images[number].name}"))
    content = io.BytesIO()
    render_gallery(items, columns=2).save(content, "PNG", optimize=True)
    return base64.b64encode(content.getvalue()).decode("ascii")


def _number(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.4f}" if isinstance(value, float) else str(value)
