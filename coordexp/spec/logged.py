"""Reads what is logged: components and gauges out of the modules' contracts, and every metric key. No torch.

In: `contracts/losses/<module>.schema.json` (`x-components`, `x-gauges`) of the modules that the config schema declares,
and `contracts/metrics/{metrics,situations}.yaml`; out: rows that say when each key is there. A key of the
objective stands in its module's contract alone. Contract ids: LOSS-029, ART-006, ART-040.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from coordexp.spec.documents import read_yaml
from coordexp.spec.root import contract_path
from coordexp.spec.schemas import check, read_schema, schema_path, violations
from coordexp.spec.situations import LoggedKey, Situation
from coordexp.spec.types import ContractFileError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

_TABLE = "metrics/metrics.yaml"
EVALUATED = "stage1"
"""The context of every evaluation's loss: ground truth, as in stage 1, whatever is trained."""
OWN_LOSSES = ("A1", "A2", "B")
"""Provenances whose losses stand under their own keys too: contexts of one trainer, which one mean would mix."""


def objective_names() -> tuple[str, ...]:
    """Names of the objective modules, in the order of the config schema."""
    return _names("objective")


def diagnostic_names() -> tuple[str, ...]:
    """Names of the diagnostics modules, in the order of the config schema."""
    return _names("diagnostic")


def _names(kind: str) -> tuple[str, ...]:
    return tuple(read_schema(f"config/pipeline.{kind}")["properties"]["name"]["enum"])


def read_components() -> dict[str, dict[str, Any]]:
    """Every component of the loss by name, with its `module`; raises `ContractFileError` for one of two modules."""
    found: dict[str, dict[str, Any]] = {}
    for module in objective_names():
        for name, component in _part(module, "x-components", "losses/components").items():
            if name in found:
                owner = found[name]["module"]
                raise ContractFileError(f"{schema_path(f'losses/{module}')}: component {name!r} is {owner}'s already")
            found[name] = {"module": module, **component}
    return found


def read_gauges() -> dict[str, dict[str, Any]]:
    """The gauges of every diagnostics module, by module and by the last part of their key."""
    return {module: _part(module, "x-gauges", "losses/gauges") for module in diagnostic_names()}


def _part(module: str, keyword: str, form: str) -> dict[str, Any]:
    schema = read_schema(f"losses/{module}")
    part: dict[str, Any] = schema.get(keyword, {})
    for problem in violations(form, part):
        path = schema_path(f"losses/{module}")
        raise ContractFileError(f"{path}: {keyword}: {problem.dotted or '(the whole)'}: {problem.message}")
    return part


def read_shared_terms() -> dict[str, Any]:
    """What the losses' contracts share: `definitions` of symbols, and `provenances` in words."""
    shared: dict[str, Any] = check("losses/terms", read_yaml(contract_path("losses/terms.yaml")))
    return shared


def read_situations() -> dict[str, Situation]:
    """The situations that keys name, by name."""
    document = check("metric-situations", read_yaml(contract_path("metrics/situations.yaml")))
    return {name: Situation.of(row) for name, row in document["situations"].items()}


def read_metric_rows() -> list[LoggedKey]:
    """Every metric; the objective's come first, then those of metrics.yaml.

    Raises `ContractViolation` for a row, derived or written, that breaks the naming rules of the metric table, and
    `ContractFileError` for a situation that is nowhere described.
    """
    return [*_loss_rows(), *_gauge_rows(), *_written("metrics")]


def read_upstream_rows() -> list[LoggedKey]:
    """Every key that upstream, or the log itself, adds to a line; the same errors."""
    return _written("upstream")


def _written(part: str) -> list[LoggedKey]:
    situations, rows = read_situations(), _table()[part]
    if strange := sorted({name for row in rows for name in row["when"]} - situations.keys()):
        raise ContractFileError(f"{_TABLE}: {part}: no situation of situations.yaml is called {', '.join(strange)}")
    return [LoggedKey.of(row, [situations[name].over(row.get("over")) for name in row["when"]]) for row in rows]


def _table() -> dict[str, Any]:
    return check("metric-table", read_yaml(contract_path(_TABLE)))


def _loss_rows() -> Iterator[LoggedKey]:
    parts: dict[str, tuple[dict[str, Any], list[Situation]]] = {}
    amounts = read_shared_terms()["amounts"]
    for name, component in read_components().items():
        module = component["module"]
        terms = {f"{name}/{term}": part for term, part in component.get("terms", {}).items()}
        found = {key: list(_computed(module, part, amounts)) for key, part in (terms or {name: component}).items()}
        parts[name] = (component, [each for situations in found.values() for each in situations])
        parts |= {key: (part, found[key]) for key, part in terms.items()}
    for name, (part, situations) in parts.items():
        yield _derived(f"loss/{name}", part, "ratio", part["meaning"], situations)
    for context, where in read_shared_terms()["provenances"].items():
        for name, (part, situations) in parts.items():
            own = [each for each in situations if each.line == "training" and each.contexts == (context,)]
            if context in OWN_LOSSES and own:
                yield _derived(f"loss/{context}/{name}", part, "ratio", _placed(part, where), own)


def _computed(module: str, part: Mapping[str, Any], amounts: Mapping[str, Any]) -> Iterator[Situation]:
    for context, weight in part["contexts"].items():
        yield from _forwards(context, module, weight, amounts[part["over"]].get(context))


def _gauge_rows() -> Iterator[LoggedKey]:
    shared = read_shared_terms()
    for module, gauges in read_gauges().items():
        for context, where in shared["provenances"].items():
            for name, gauge in gauges.items():
                over = shared["amounts"][gauge["over"]].get(context)
                situations = list(_forwards(context, module, None, over))
                key = f"{module}/{context}/{name}"
                yield _derived(key, gauge, gauge["reduction"], _placed(gauge, where), situations)


def _forwards(context: str, module: str, weight: str | None, over: str | None) -> Iterator[Situation]:
    """A forward of training, and, of ground truth, of every evaluation, where the module runs and weighs something."""
    asked = f"`{module}`" if weight is None else f"`{module}.{weight}`"
    for line in ("training", "validation") if context == EVALUATED else ("training",):
        place = f"`{context}`" if line == "training" else "evaluations"
        yield Situation(f"{place} with {asked}", line, (context,), module=module, weight=weight, amount=over)


def _placed(part: Mapping[str, Any], where: str) -> str:
    return f"{part['meaning'].removesuffix('.')}, {where}."


def _derived(
    key: str, part: Mapping[str, Any], reduction: str, meaning: str, situations: Sequence[Situation]
) -> LoggedKey:
    row = {"key": key, "kind": part.get("kind", "mean"), "reduction": reduction, "unit": part["unit"]}
    row |= {"meaning": meaning, "reading": part["reading"]}
    check("metric-table", {"description": "One row of a module.", "metrics": [row | {"when": [key]}], "upstream": []})
    return LoggedKey.of(row, situations)
