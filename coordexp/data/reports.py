"""What the data entry points show: a progress bar on stderr and summary tables as text."""

from __future__ import annotations

from contextlib import contextmanager
from io import StringIO
from typing import TYPE_CHECKING, Any

from coordexp.data.cooking_types import DropExample
from coordexp.spec import read_json, violations

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from coordexp.data.survey import FileSurvey


_NAMED_DROPS = 3


@contextmanager
def progress(title: str, unit: str, total: int | None = None) -> Iterator[Callable[[], None]]:
    """A progress bar on stderr, silent where stderr is no terminal; yields what to call for each item."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn(title), BarColumn(), MofNCompleteColumn(), TextColumn(unit), TimeElapsedColumn())
    console = Console(stderr=True, markup=False, emoji=False)
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(title, total=total)
        yield lambda: bar.advance(task)


def render_table(title: str, rows: list[tuple[str, ...]], headings: tuple[str, ...]) -> str:
    """The title on a line of its own, as it is however long, and a plain table; columns after the first are
    right-aligned.
    """
    from rich.console import Console
    from rich.table import Table

    table = Table()
    for index, heading in enumerate(headings):
        table.add_column(heading, justify="right" if index else "left")
    for row in rows:
        table.add_row(*row)
    buffer = StringIO()
    Console(file=buffer, width=100, color_system=None, markup=False, emoji=False, highlight=False).print(table)
    return title + "\n" + buffer.getvalue().rstrip("\n")


def render_manifest(manifest: Mapping[str, Any]) -> str:
    """The counts of a cook manifest as a table; reasons that did not occur are left out."""
    rows: list[tuple[str, ...]] = []
    for what in ("records", "objects"):
        counts = manifest[what]
        rows += [(f"{what} read", str(counts["input"])), (f"{what} kept", str(counts["kept"]))]
        if "kept_empty" in counts:
            rows.append(("records kept without objects", str(counts["kept_empty"])))
        for group in ("ignored", "dropped"):
            if group in counts:
                rows += [(f"{what} {group}: {reason}", str(count)) for reason, count in counts[group].items() if count]
    rows += [(f"adjusted: {what}", str(count)) for what, count in manifest["adjusted"].items() if count]
    return render_table("cooked", rows, ("what", "count"))


def render_surveys(surveys: list[FileSurvey]) -> str:
    """What each file holds; a cook manifest beside it adds what was dropped on the way to it."""
    return "\n".join(render_table(str(survey.path), _survey_rows(survey), ("what", "count")) for survey in surveys)


def _survey_rows(survey: FileSurvey) -> list[tuple[str, ...]]:
    rows = [
        ("lines", survey.lines),
        ("records in order", survey.records),
        ("records without objects", survey.empty),
        ("objects", survey.objects),
        ("polygons among them", survey.polygons),
        ("most objects in a record", survey.most_objects),
        ("commonest size", _render_sizes(survey)),
        ("dropped when cooked", _render_drops(survey.path)),
        ("problems", len(survey.problems)),
    ]
    return [(what, str(count)) for what, count in rows]


def _render_sizes(survey: FileSurvey) -> str:
    if not survey.sizes:
        return "-"
    (width, height), _ = survey.sizes.most_common(1)[0]
    rest = len(survey.sizes) - 1
    return f"{width}x{height}" + (f" and {rest} others" if rest else "")


def _render_drops(path: Path) -> str:
    manifest = path.with_name("manifest.json")
    if not manifest.is_file():
        return "-"
    counts = read_json(manifest)
    if violations("cook-manifest", counts):
        return "?"
    return f"{sum(counts['records']['dropped'].values())} records, {sum(counts['objects']['dropped'].values())} objects"


def named_drops(manifest: Mapping[str, Any]) -> list[str]:
    """The first dropped records of each reason, a line each; where the manifest names more, the line says so."""
    lines = []
    for reason, examples in manifest["dropped_examples"].items():
        total = manifest["records"]["dropped"][reason]
        named = [DropExample(**example) for example in examples[:_NAMED_DROPS]]
        lines += [f"dropped, {reason}, {example}" for example in named]
        if total > _NAMED_DROPS:
            more = f"{total - _NAMED_DROPS} more; manifest.json names the first {len(examples)}"
            lines.append(f"dropped, {reason}: {more}")
    return lines
