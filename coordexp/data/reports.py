"""What the data entry points show: a progress bar on stderr and summary tables as text."""
from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from io import StringIO
from pathlib import Path
from typing import Any

from coordexp.data.errors import DataError


@contextmanager
def progress(title: str, unit: str, total: int | None = None) -> Iterator[Callable[[], None]]:
    """A progress bar on stderr, silent where stderr is no terminal; yields what to call for each item."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn(title), BarColumn(), MofNCompleteColumn(), TextColumn(unit), TimeElapsedColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(title, total=total)
        yield lambda: bar.advance(task)


def render_table(title: str, rows: list[tuple[str, ...]], headings: tuple[str, ...]) -> str:
    """A plain table; the columns after the first are right-aligned."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for index, heading in enumerate(headings):
        table.add_column(heading, justify="right" if index else "left")
    for row in rows:
        table.add_row(*row)
    buffer = StringIO()
    Console(file=buffer, width=100, color_system=None).print(table)
    return buffer.getvalue().rstrip("\n")


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


def load_category_map(path: Path) -> dict[str, str]:
    """COCO category names to descs from a JSON object; raises `DataError`."""
    try:
        mapping = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as JSON ({error}); write {{\"coco name\": \"desc\"}}") from error
    if not isinstance(mapping, dict) or not all(isinstance(desc, str) for desc in mapping.values()):
        raise DataError(f"{path}: a category map is a JSON object of texts; write {{\"coco name\": \"desc\"}}")
    return mapping
