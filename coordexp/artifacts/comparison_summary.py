"""What a comparison of two runs shows in a terminal. Contract ids: ART-083."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.table import Table

from coordexp.evaluation.comparison import render_comparison
from coordexp.evaluation.plain_text import plain

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from coordexp.artifacts.compared_runs import Compared
    from coordexp.artifacts.run_differences import Difference

SHOWN_CLASSES = 20


def render_lines(compared: Compared, *, everything: bool = False) -> Iterator[str | Table]:
    """What differs and, where both were evaluated, the numbers; `everything` lists also what changes none."""
    yield plain(f"A: {compared.first.folder}")
    yield plain(f"B: {compared.second.folder}")
    if compared.differences is None:
        yield "one of them has no run manifest: what differs between the runs is not known"
    else:
        yield from _difference_lines(compared.differences, everything=everything)
    if compared.comparison is None:
        yield "one of them has no evaluation: run evaluate --out for both to compare what they find"
        return
    document = render_comparison(compared.comparison)
    yield f"{document['images']} images that both answered"
    yield _numbers_table(document)
    yield _difference_line(document)
    yield _class_table(document["per_class"])


def _difference_lines(differences: Sequence[Difference], *, everything: bool) -> Iterator[str | Table]:
    shown = [one for one in differences if everything or one.matters]
    hidden = len(differences) - len(shown)
    if shown:
        table = Table("what differs", "A", "B")
        for one in shown:
            table.add_row(*(plain(str(value)) for value in (one.key, one.first, one.second)))
        yield table
    else:
        yield "nothing differs that could change results"
    if hidden:
        yield f"{hidden} more values differ that change no number; --all lists them"


def _numbers_table(document: Mapping[str, Any]) -> Table:
    table = Table("", "A", "B")
    for name, pair in document["numbers"].items():
        table.add_row(name, *(render_number(value) for value in pair))
    return table


def _difference_line(document: Mapping[str, Any]) -> str:
    gap = document["mAP_difference"]
    if gap["low"] is None:
        return "mAP of B minus A: not defined, no image has an object"
    return (
        f"mAP of B minus A: {gap['value']:+.4f}, 95% between {gap['low']:+.4f} and {gap['high']:+.4f} "
        f"({gap['resamples']} bootstrap resamples; B is ahead in {gap['share_above']:.0%} of them); "
        f"objects that B alone finds: {document['only_second']}, A alone: {document['only_first']}"
    )


def _class_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    title = "AP by description, largest difference first"
    if len(rows) > SHOWN_CLASSES:
        title += f" ({SHOWN_CLASSES} of {len(rows)}; comparison.json has all)"
    table = Table(title=title, title_justify="left")
    for name in ("", "objects", "A", "B", "A alone finds", "B alone finds"):
        table.add_column(name, justify="right" if name else "left")
    for row in rows[:SHOWN_CLASSES]:
        cells = (str(row["objects"]), render_number(row["first"]), render_number(row["second"]))
        table.add_row(plain(row["desc"]), *cells, str(row["only_first"]), str(row["only_second"]))
    return table


def render_number(value: float | None) -> str:
    """A number of a comparison as a cell; a dash for one that is not defined."""
    if value is None:
        return "–"
    return f"{value:.4f}" if isinstance(value, float) else str(value)
