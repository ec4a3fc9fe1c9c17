"""The gate between packing and attention implementations."""

from __future__ import annotations

from pathlib import Path

import pytest

from coordexp.packing.backend import UnprovenBackend, check_packing_backend
from coordexp.spec import contract_path, load_cases, read_yaml

ROOT = Path(__file__).parents[3]
PROVEN = ("segments", "sdpa", "eager", "flash_attention_2")
CASES = load_cases(ROOT / "fixtures/packing/backends.json").cases


@pytest.mark.invariant("PACK-010")
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.description)
def test_packing_is_let_through_with_a_proven_backend_only(case):
    attn_impl, transformers_version = case.input["attn_impl"], case.input["transformers"]
    if case.valid:
        assert check_packing_backend(attn_impl, transformers_version).attn_impl == attn_impl
    else:
        with pytest.raises(UnprovenBackend, match="eager, flash_attention_2, sdpa, segments"):
            check_packing_backend(attn_impl, transformers_version)


@pytest.mark.invariant("PACK-010")
def test_the_installed_transformers_is_a_proven_one():
    assert check_packing_backend("sdpa").proven == "cpu-test"


@pytest.mark.invariant("PACK-010")
def test_a_backend_that_only_a_gpu_can_prove_says_so():
    assert check_packing_backend("flash_attention_2").proven == "gpu-test"
    probed = {name: [check_packing_backend(name).needs_probe(on_gpu) for on_gpu in (False, True)] for name in PROVEN}
    assert probed == {
        "segments": [False, True], "sdpa": [False, False], "eager": [False, False], "flash_attention_2": [True, True]
    }  # fmt: skip


@pytest.mark.invariant("PACK-010")
def test_the_error_names_the_config_keys_and_the_way_out():
    with pytest.raises(
        UnprovenBackend, match=r"training\.packing: model\.attn_impl 'flex_attention'.*turn training\.packing off"
    ):
        check_packing_backend("flex_attention")


@pytest.mark.invariant("PACK-010")
def test_every_backend_points_at_a_proof_that_exists():
    table = read_yaml(contract_path("packing/backends.yaml"))
    proofs = [backend[key] for backend in table["backends"].values() for key in backend if key.endswith("evidence")]
    assert len(proofs) > len(table["backends"])
    assert all((ROOT / proof).is_file() for proof in proofs)
