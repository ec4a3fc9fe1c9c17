"""Every module of the objective by name, and every logged part of the loss with what divides it. No torch.

The config schema declares the names, in order; `SPEC` of `coordexp.losses.specs.<name>` is what a module registers of
itself. Nothing else lists modules or terms. Contract ids: LOSS-026, LOSS-032.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING

from coordexp.losses.specs.types import Component, Count, ManifestError, ModuleSpec
from coordexp.spec import ContractFileError
from coordexp.spec.logged import diagnostic_names, objective_names

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from coordexp.losses.manifest import ModuleEntry
    from coordexp.losses.modules.types import DiagnosticModule, ObjectiveModule

_SPECS = "coordexp.losses.specs"


def registered_modules(names: Iterable[str]) -> dict[str, ModuleSpec]:
    """The modules of these names; raises `ContractFileError` for a name that no module has registered."""
    return {name: _registered(name) for name in names}


def _registered(name: str) -> ModuleSpec:
    place = f"{_SPECS}.{name}"
    if find_spec(place) is None:
        raise ContractFileError(f"contracts/config/ declares the module {name!r}, but there is no {place}; write it")
    spec: ModuleSpec = import_module(place).SPEC
    if spec.name != name:
        raise ContractFileError(f"{place} registers {spec.name!r}; its file has to be called so")
    return spec


def logged_components(modules: Iterable[ModuleSpec]) -> dict[str, Component]:
    """Components of `modules` by name, in order; raises `ContractFileError` for one that two modules register."""
    found: dict[str, Component] = {}
    for spec in modules:
        for component in spec.components:
            if component.name in found:
                raise ContractFileError(f"{_SPECS}.{spec.name}: component {component.name!r} is another module's")
            found[component.name] = component
    return found


def term_counts(components: Iterable[Component]) -> dict[str, Count]:
    """What divides each term, in a fixed order; raises `ContractFileError` for a term of two components."""
    found: dict[str, Count] = {}
    for component in components:
        own = {component.name: component.count} if component.count else {}
        for name, count in (own | {term.name: term.count for term in component.terms}).items():
            if name in found:
                raise ContractFileError(f"{_SPECS}: two terms are called {name!r}; call the later one otherwise")
            found[name] = count
    return found


OBJECTIVE_MODULES = registered_modules(objective_names())
DIAGNOSTIC_MODULES = registered_modules(diagnostic_names())
COMPONENTS = logged_components(OBJECTIVE_MODULES.values())
TERM_COUNTS = term_counts(COMPONENTS.values())
TERMS = tuple(TERM_COUNTS)


def loss_key(component: str, term: str | None = None, context: str | None = None) -> str:
    """The metric key of a component or of one of its terms, in all contexts or in one: the one place that puts such a
    key together.
    """
    return "/".join(part for part in ("loss", context, component, term) if part is not None)


def module_spec(name: str, modules: Mapping[str, ModuleSpec], section: str) -> ModuleSpec:
    """The registration of `name` among `modules`; raises `ManifestError` with the names that `section` knows."""
    if name not in modules:
        raise ManifestError(f"{name!r} is no {section} module; there are {', '.join(modules)}")
    return modules[name]


def build_objective_module(entry: ModuleEntry) -> ObjectiveModule:
    """The objective module that `entry` names, with its config."""
    return module_spec(entry.name, OBJECTIVE_MODULES, "objective").build(entry.config)


def build_diagnostic_module(entry: ModuleEntry) -> DiagnosticModule:
    """The diagnostics module that `entry` names, with its config."""
    return module_spec(entry.name, DIAGNOSTIC_MODULES, "diagnostics").build(entry.config)
