"""Every random stream follows from training.seed, and no code draws from anything else."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from coordexp.data.seeds import STREAMS, build_generator, derive_seed, render_seed_record

ROOT = Path(__file__).parents[3]
SEEDERS = {"seed", "manual_seed", "default_rng", "RandomState", "PCG64", "SeedSequence", "set_seed", "Random"}

pytestmark = pytest.mark.invariant("DATA-012")


def test_streams_have_the_seeds_they_had_when_they_were_recorded() -> None:
    assert derive_seed(17, "epoch_order") == 3169719374404824057
    assert derive_seed(17, "epoch_order", 1) == 5491071482335576423
    assert derive_seed(17, "object_ordering", "train.jsonl:5") == 6862186734883278425


def test_streams_parts_and_training_seeds_all_differ() -> None:
    seeds = [
        derive_seed(seed, stream, *parts) for seed in (0, 1) for stream in STREAMS for parts in ((), (0,), (1,), (0, 1))
    ]
    assert len(set(seeds)) == len(seeds)
    assert derive_seed(0, "epoch_order", 1, 2) != derive_seed(0, "epoch_order", 12)
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_the_record_names_training_seed_and_every_stream() -> None:
    record = render_seed_record(17)
    assert record == {"training_seed": 17, **{stream: derive_seed(17, stream) for stream in STREAMS}}


def test_the_same_seed_draws_the_same_numbers() -> None:
    draws = [build_generator(3, "shapes", "train", 5).integers(0, 2**60, size=4).tolist() for _ in range(2)]
    assert draws[0] == draws[1] != build_generator(3, "shapes", "train", 6).integers(0, 2**60, size=4).tolist()


@pytest.mark.parametrize("seed", [-1, 1.0, True, "1", None])
def test_a_bad_training_seed_is_refused(seed: object) -> None:
    with pytest.raises(ValueError, match=r"training\.seed"):
        derive_seed(seed, "torch")  # type: ignore[arg-type]


def test_a_stream_without_a_name_cannot_be_drawn_from() -> None:
    with pytest.raises(ValueError, match="no random stream is called 'dropout'"):
        derive_seed(1, "dropout")


def fixed_seeds(source: str) -> Iterator[str]:
    """Calls that seed a generator with a literal, or from the clock by passing nothing."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        values = [*node.args, *(keyword.value for keyword in node.keywords if keyword.arg)]
        named = [keyword.value for keyword in node.keywords if keyword.arg and keyword.arg.endswith("seed")]
        drawn = values[:1] if name in SEEDERS else named
        if name in SEEDERS and not values:
            yield f"{node.lineno}: {name}() without a seed"
        for value in drawn:
            if isinstance(value, ast.Constant) and isinstance(value.value, int):
                yield f"{node.lineno}: {name}({value.value})"


@pytest.mark.parametrize(
    "line",
    [
        "torch.manual_seed(42)",
        "np.random.default_rng()",
        "rng = np.random.default_rng(0)",
        "train(seed=17)",
        "random.seed()",
    ],
)
def test_the_inventory_sees_a_fixed_seed(line: str) -> None:
    assert list(fixed_seeds(line))


def test_no_module_seeds_anything_with_a_constant() -> None:
    paths = sorted((ROOT / "coordexp").rglob("*.py"))
    assert len(paths) > 20
    assert [f"{path}:{found}" for path in paths for found in fixed_seeds(path.read_text(encoding="utf-8"))] == []
