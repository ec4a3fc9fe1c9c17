"""Writes the generated tables of docs/training/ from the contracts. Contract ids: LOSS-029.

In: contracts/losses/ and contracts/metrics/; out: Markdown between `<!-- generated: NAME -->` and `<!-- end -->`.
`python -m coordexp.metrics.document` rewrites the pages.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coordexp.metrics.table import read_metric_table, read_upstream_table
from coordexp.spec import check, contract_path, read_yaml
from coordexp.spec.logged import read_components, read_gauges, read_shared_terms

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from coordexp.spec.situations import LoggedKey

FOLDER = "docs/training"
PAGES = ("METRICS_LOSSES.md", "COORD_OBJECTIVE_AND_ADAPTER.md")
_REGION = re.compile(r"(<!-- generated: (?P<name>[a-z_]+) -->\n).*?(<!-- end -->)", re.DOTALL)
_TYPES = ("struct", "desc", "coord", "eos")


def render_page(text: str) -> str:
    """A page with every generated region as the contracts have it; raises `ValueError` for one that nothing fills."""

    def fill(region: re.Match[str]) -> str:
        name = region["name"]
        if name not in TABLES:
            raise ValueError(f"no generated table is called {name!r}; there are {', '.join(TABLES)}")
        return f"{region[1]}\n{TABLES[name]()}\n\n{region[3]}"

    return _REGION.sub(fill, text)


def definitions_table() -> str:
    """Symbols of the formulas."""
    symbols = read_shared_terms()["definitions"]
    return _table(("symbol", "meaning"), ((f"`{name}`", text) for name, text in symbols.items()))


def losses_table() -> str:
    """Every `loss/*` key."""
    head = ("key", "value", "unit", "mean over", "weight", "module", "contract")
    return _table(head, _loss_rows(read_components()))


def _loss_rows(components: Mapping[str, Any]) -> Iterator[Sequence[str]]:
    for name, component in components.items():
        module = f"`{component['module']}`"
        yield (f"`loss/{name}`", *_facts(component), "", module, _ids(component))
        for term, part in component.get("terms", {}).items():
            yield (f"`loss/{name}/{term}`", *_facts(part), _weight(part["weight"]), module, _ids(part))


def _facts(row: Mapping[str, Any]) -> tuple[str, str, str]:
    return row["formula"], row["unit"], row["mean_over"]


def terms_table() -> str:
    """Terms of `coord_reg` and `bbox_geo`, with what they are checked against."""
    rows = (
        (f"`{term}`", part["formula"], _weight(part["weight"]), part.get("reference", ""), _ids(part))
        for component in read_components().values()
        for term, part in component.get("terms", {}).items()
    )
    return _table(("term", "value at a position or box", "weight", "reference", "contract"), rows)


def diagnostics_table() -> str:
    """Every key of the diagnostics modules."""
    rows = (
        (f"`{module}/<provenance>/{key}`", row["formula"], row["unit"], row["reduction"], _ids(row))
        for module, gauges in read_gauges().items()
        for key, row in gauges.items()
    )
    return _table(("key", "value", "unit", "reduction", "contract"), rows)


def masks_table() -> str:
    """Cross-entropy weights by context, subset and type."""
    table = check("losses/mask-table", read_yaml(contract_path("losses/mask_table.yaml")))
    rows = (
        (context, subset, *(_cell(cells[kind]) if kind in cells else "" for kind in _TYPES))
        for context, subsets in table["contexts"].items()
        for subset, cells in subsets.items()
    )
    return _table(("context", "subset", *_TYPES), rows)


def manifests_table() -> str:
    """Where each key of the default pipelines comes from."""
    manifests = check("losses/manifests", read_yaml(contract_path("losses/manifests.yaml")))
    keys = {
        (module, key): None
        for manifest in manifests.values()
        for module, config in manifest["objective"].items()
        for key in config
    }
    rows = (
        (f"`{module}.{key}`", *(_cell(manifest["objective"][module].get(key, "")) for manifest in manifests.values()))
        for module, key in keys
    )
    return _table(("key", *(f"`{variant}`" for variant in manifests)), rows)


def metrics_table() -> str:
    """Every metric that may reach a log: kind, reduction, when it is there, and what it tells."""
    rows = (
        (f"`{row.key}`", row.kind, str(row.reduction), row.unit, _when(row), row.meaning, row.reading)
        for row in read_metric_table().values()
    )
    return _table(("key", "kind", "reduction", "unit", "when", "meaning", "reading"), rows)


def upstream_table() -> str:
    """What upstream, or the log itself, adds to a line."""
    rows = ((f"`{row.key}`", row.kind, row.unit, _when(row), row.meaning, row.reading) for row in _upstream())
    return _table(("key", "kind", "unit", "when", "meaning", "reading"), rows)


def _upstream() -> Iterable[LoggedKey]:
    return read_upstream_table().values()


def _when(row: LoggedKey) -> str:
    """The situations in words, each once, and what has to be there to divide by."""
    situations = ", ".join(dict.fromkeys(situation.text for situation in row.when))
    amounts = dict.fromkeys(situation.amount for situation in row.when if situation.amount and not situation.module)
    return situations + "".join(f"; may lack where {_code(amount)} is 0" for amount in amounts)


def _code(amount: str) -> str:
    return re.sub(r"[\w/]{2,}", r"`\g<0>`", amount)


TABLES: dict[str, Callable[[], str]] = {
    "definitions": definitions_table,
    "losses": losses_table,
    "terms": terms_table,
    "diagnostics": diagnostics_table,
    "masks": masks_table,
    "manifests": manifests_table,
    "metrics": metrics_table,
    "upstream": upstream_table,
}


def _ids(row: Mapping[str, Any]) -> str:
    return ", ".join(row["invariants"])


def _weight(text: str) -> str:
    return "; ".join(re.sub(r"^\w+", r"`\g<0>`", part) for part in text.split("; "))


def _cell(value: object) -> str:
    if isinstance(value, str):
        return f"`{value}`" if value else ""
    return "null" if value is None else f"{value:g}"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def main() -> int:
    """Rewrite the pages of this checkout."""
    for name in PAGES:
        path = Path(__file__).resolve().parents[2] / FOLDER / name
        path.write_text(render_page(path.read_text(encoding="utf-8")), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
