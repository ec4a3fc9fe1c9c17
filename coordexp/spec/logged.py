"""Reads what is logged: components and gauges out of the modules' contracts, and every metric key. No torch.

In: `contracts/losses/<module>.schema.json` (`x-components`, `x-gauges`) of the modules that the config schema declares,
and `contracts/metrics/metrics.yaml`; out: plain rows. A key of the objective stands in its module's contract alone.
Contract ids: LOSS-029, ART-006.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from coordexp.spec.documents import read_yaml
from coordexp.spec.root import contract_path
from coordexp.spec.schemas import check, read_schema, schema_path, violations
from coordexp.spec.types import ContractFileError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_MODES = ("train", "eval")
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


def read_metric_rows() -> list[dict[str, Any]]:
    """Every metric: key, reduction, modes, unit and meaning; the objective's come first, then those of metrics.yaml.

    Raises `ContractViolation` for a row, derived or written, that breaks the naming rules of the metric table.
    """
    table = read_yaml(contract_path("metrics/metrics.yaml"))
    check("metric-table", table)
    rows: list[dict[str, Any]] = [*_loss_rows(), *_gauge_rows(), *table["metrics"]]
    check("metric-table", table | {"metrics": rows})
    return rows


def _loss_rows() -> Iterator[dict[str, Any]]:
    parts: dict[str, dict[str, Any]] = {}
    for name, component in read_components().items():
        parts[name] = component
        parts |= {f"{name}/{term}": part for term, part in component.get("terms", {}).items()}
    for name, part in parts.items():
        yield _row(f"loss/{name}", part, "ratio", part["meaning"])
    for context, where in read_shared_terms()["provenances"].items():
        if context in OWN_LOSSES:
            for name, part in parts.items():
                yield _row(f"loss/{context}/{name}", part, "ratio", _placed(part, where), ["train"])


def _gauge_rows() -> Iterator[dict[str, Any]]:
    provenances = read_shared_terms()["provenances"]
    for module, gauges in read_gauges().items():
        for provenance, where in provenances.items():
            for name, gauge in gauges.items():
                yield _row(f"{module}/{provenance}/{name}", gauge, gauge["reduction"], _placed(gauge, where))


def _placed(part: dict[str, Any], where: str) -> str:
    return f"{part['meaning'].removesuffix('.')}, {where}."


def _row(key: str, part: dict[str, Any], reduction: str, meaning: str, modes: Sequence[str] = _MODES) -> dict[str, Any]:
    return {"key": key, "reduction": reduction, "modes": list(modes), "unit": part["unit"], "meaning": meaning}
