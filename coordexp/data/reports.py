"""What the data entry points show: a progress bar on stderr and summary tables as text."""

from __future__ import annotations

from contextlib import contextmanager
from io import StringIO
from typing import TYPE_CHECKING, Any

from coordexp.data.errors import DataError
from coordexp.spec import ContractFileError, read_json, violations

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from coordexp.data.survey import FileSurvey


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
        rows += [(f"{what} dropped: {reason}", str(count)) for reason, count in counts["dropped"].items() if count]
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


def load_category_map(path: Path) -> dict[str, str]:
    """COCO category names to descs from a JSON object; raises `DataError`."""
    try:
        mapping = read_json(path)
    except ContractFileError as error:
        raise DataError(f'{path}: cannot be read as JSON ({error}); write {{"coco name": "desc"}}') from error
    if not isinstance(mapping, dict) or not all(isinstance(desc, str) for desc in mapping.values()):
        raise DataError(f'{path}: a category map is a JSON object of texts; write {{"coco name": "desc"}}')
    return mapping
