"""Hypothesis strategies that several property tests draw from; bounds and patterns come from contracts/."""

from __future__ import annotations

from hypothesis import strategies as st

from coordexp.coords.types import CoordObject
from coordexp.data.texts import desc_fault
from coordexp.spec import read_schema

_COORDINATE = read_schema("record")["$defs"]["coordinate"]["anyOf"]
COORD_TOKENS = st.from_regex(next(form["pattern"] for form in _COORDINATE if "pattern" in form), fullmatch=True)
"""Coord tokens as the record contract spells them."""
BINS = st.integers(0, 999)
FIELD_ORDERS = st.sampled_from(read_schema("config/custom")["properties"]["object_field_order"]["enum"])

ANY_DESCS = st.one_of(
    st.sampled_from(["black cat", "Mr.", "bbox_2d", "]}", "list]", "]}]}", "{", '"', 'he said "hi"', "a\\", ", "]),
    st.sampled_from(["é", "红色", "😀", " a ", "two\nlines", "<|coord_3|>"]),
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12).filter(lambda text: bool(text.strip())),
)
"""Whatever a desc can hold, words of the answer's own syntax among it."""
PLAIN_DESCS = ANY_DESCS.filter(lambda text: desc_fault(text) is None)
"""Descs that a record may hold."""


def boxes(descs: st.SearchStrategy[str]) -> st.SearchStrategy[CoordObject]:
    """Boxes whose corners are in order."""
    sides = st.tuples(BINS, BINS).map(sorted)
    return st.builds(
        lambda desc, xs, ys: CoordObject(desc, "bbox_2d", (xs[0], ys[0], xs[1], ys[1])), descs, sides, sides
    )


def polygons(descs: st.SearchStrategy[str]) -> st.SearchStrategy[CoordObject]:
    """Polygons of three to six points."""
    points = st.lists(st.tuples(BINS, BINS), min_size=3, max_size=6)
    return st.builds(lambda desc, found: CoordObject(desc, "poly", tuple(sum(found, ()))), descs, points)


def coord_objects(descs: st.SearchStrategy[str] = ANY_DESCS) -> st.SearchStrategy[CoordObject]:
    """Boxes and polygons."""
    return boxes(descs) | polygons(descs)
