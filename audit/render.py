"""Renders the report: in, a mapping of `coordexp:audit-report`; out, Markdown, a self-contained page, tables."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
from markupsafe import Markup, escape
from rich.table import Table

if TYPE_CHECKING:
    from rich.console import Console

_TEMPLATES = Path(__file__).resolve().parent / "templates"
_SHOWN_PROBLEMS = 25


def render_html(report: dict[str, Any]) -> str:
    """One page with everything inline: it opens from disk without a network."""
    return _environment(escaped=True).get_template("report.html.j2").render(report=report)


def render_markdown(report: dict[str, Any]) -> str:
    """The same facts as text."""
    return _environment(escaped=False).get_template("report.md.j2").render(report=report)


def print_summary(report: dict[str, Any], console: Console) -> None:
    """Tables of areas and requirements, then the problems."""
    console.print(_area_table(report))
    console.print(_requirement_table(report))
    if report["not_run"]:
        console.print(f"{len(report['not_run'])} tests did not run (listed in the report with the reason)")
    for problem in report["problems"][:_SHOWN_PROBLEMS]:
        line = f"{problem['kind']}: {problem['where']}: {problem['text']}"
        console.print(line, style="red", markup=False, highlight=False)
    rest = len(report["problems"]) - _SHOWN_PROBLEMS
    if rest > 0:
        console.print(f"... and {rest} more problems in the report", style="red", highlight=False)
    colour = "bold green" if report["verdict"] == "green" else "bold red"
    console.print(
        f"{report['verdict'].upper()}: {len(report['problems'])} problems in tree {report['tree'][:12]}", style=colour
    )


def _area_table(report: dict[str, Any]) -> Table:
    table = Table(title="Invariants", title_justify="left")
    table.add_column("area")
    for column in ("P0", "P1", "P2", "proved", "failing", "skipped", "not run", "mutants killed"):
        table.add_column(column, justify="right")
    areas = sorted({row["area"] for row in report["invariants"]})
    for area in areas:
        rows = [row for row in report["invariants"] if row["area"] == area]
        severities, states = Counter(row["severity"] for row in rows), Counter(row["state"] for row in rows)
        killed, declared = sum(row["mutants_killed"] for row in rows), sum(row["mutants_declared"] for row in rows)
        numbers = [severities["P0"], severities["P1"], severities["P2"]]
        numbers += [states[state] for state in ("proved", "failing", "skipped", "not run")]
        table.add_row(area, *map(str, numbers), f"{killed} of {declared}")
    return table


def _requirement_table(report: dict[str, Any]) -> Table:
    table = Table(title="Requirements", title_justify="left")
    table.add_column("document")
    for status in ("done", "partly", "not yet"):
        table.add_column(status, justify="right")
    documents = list(dict.fromkeys(row["id"].split("-")[0] for row in report["requirements"]))
    for document in documents:
        statuses = Counter(row["status"] for row in report["requirements"] if row["id"].startswith(document + "-"))
        table.add_row(document, *(str(statuses[status]) for status in ("done", "partly", "not yet")))
    return table


def _environment(escaped: bool) -> jinja2.Environment:
    loader = jinja2.FileSystemLoader(_TEMPLATES)
    environment = jinja2.Environment(
        loader=loader, autoescape=escaped, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["cell"] = lambda text: str(text).replace("|", "\\|").replace("\n", " ")
    environment.filters["identity"] = lambda found: (
        found.get("record_sha256") or found.get("code_sha256") or found["git"]["revision"]
    )
    environment.filters["page"] = _page
    environment.filters["numbered"] = _numbered
    environment.filters["slug"] = lambda text: str(text).replace(" ", "-")
    return environment


def _numbered(place: dict[str, Any]) -> str:
    """The code of a place of evidence, each line with its number in the file."""
    first = int(place["where"].rsplit(":", 1)[1])
    lines = place["code"].splitlines()
    width = len(str(first + len(lines)))
    return "\n".join(f"{number:>{width}}  {line}" for number, line in enumerate(lines, start=first))


def _page(markdown: str) -> Markup:
    """HTML of the map's plain Markdown: headings, tables and lists."""
    lines = []
    for line in markdown.splitlines():
        text = re.sub(r"`([^`]*)`", r"<code>\1</code>", str(escape(line))).replace("&lt;br&gt;", "<br>")
        if text.startswith("| ---"):
            continue
        if text.startswith("|"):
            cells = "".join(f"<td>{cell.strip()}</td>" for cell in text.strip("|").split("|"))
            lines.append(f"<tr>{cells}</tr>")
        elif text.startswith("## "):
            lines.append(f"<h3>{text[3:]}</h3>")
        elif text:
            lines.append(f"<p>{text.removeprefix('- ')}</p>")
    html = "\n".join(lines)
    return Markup(
        re.sub(r"(?:<tr>.*</tr>\n?)+", lambda rows: f'<div class="wide"><table>{rows[0]}</table></div>', html)
    )
