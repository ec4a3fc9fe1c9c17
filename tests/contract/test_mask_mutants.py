"""Every row of the mask table has a mutant that changes it, and the mutants are those of declared P0 invariants."""

from __future__ import annotations

import types
from pathlib import Path

import pytest
import torch

from coordexp.encode.types import TokenSubset, TokenType
from coordexp.losses.masks import ContextKind, weight_table
from coordexp.losses.specs.types import MaskWeights
from coordexp.spec import Mutant, check, contracts_root, load_invariants, read_yaml

ROOT = Path(__file__).resolve().parents[2]
MASKS = "coordexp/losses/masks.py"
TABLE = check("losses/mask-table", read_yaml(contracts_root() / "losses" / "mask_table.yaml"))["contexts"]
# Distinct and none of them 0 or 1, so that a cell that is mixed up with another one shows.
WEIGHTS = MaskWeights(1.7, 0.13, 0.6, 0.4, 2.5, 0.35)
Cell = tuple[str, str, str]


def mutants() -> list[Mutant]:
    """Mutants of the mask table's module among the P0 invariants of the losses."""
    found = [m for i in load_invariants() if i.severity == "P0" and i.id.startswith("LOSS-") for m in i.mutants]
    return [mutant for mutant in found if mutant.file == MASKS]


def changed_cells(mutant: Mutant) -> set[Cell]:
    """Cells in which the mutated module's table is another one."""
    source = (ROOT / MASKS).read_text(encoding="utf-8")
    assert source.count(mutant.find) == 1
    module = types.ModuleType("coordexp.losses.mutated_masks")
    exec(compile(source.replace(mutant.find, mutant.replace), MASKS, "exec"), module.__dict__)
    cells = set()
    for kind in ContextKind:
        theirs = module.weight_table(module.ContextKind(kind.value), WEIGHTS)
        for subset, token in torch.nonzero(theirs != weight_table(kind, WEIGHTS)).tolist():
            cells.add((kind.value, TokenSubset(subset).name.lower(), TokenType(token).name.lower()))
    return cells


CHANGED = {cell for mutant in mutants() for cell in changed_cells(mutant)}


@pytest.mark.invariant("LOSS-001")
@pytest.mark.parametrize(("context", "subset"), [(context, subset) for context in TABLE for subset in TABLE[context]])
def test_a_row_has_a_mutant_for_each_supervised_cell_and_for_a_neutral_one(context: str, subset: str) -> None:
    row = TABLE[context][subset]
    supervised = {(context, subset, kind) for kind, weight in row.items() if weight != 0}
    neutral = {(context, subset, kind) for kind, weight in row.items() if weight == 0}
    assert supervised <= CHANGED
    assert not neutral or neutral & CHANGED
