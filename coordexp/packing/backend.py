"""An attention implementation in, the proof that it keeps packed samples apart out, or an error. Contract id: PACK-010.

The list is `contracts/packing/backends.yaml`; it names the versions of transformers that the proofs were run on.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Literal

from coordexp.spec import check, contract_path, read_yaml


class UnprovenBackend(ValueError):
    """Packing was asked for with an attention implementation that nothing shows to keep samples apart."""


@dataclass(frozen=True, slots=True)
class PackingBackend:
    """A let-through implementation. `gpu-test`: no CPU test covers it, so the run probes it before training.

    `gpu_evidence` names the test of the kernel that a GPU runs in the place of what CPU tests cover; there too the run
    probes itself. The probe is `coordexp.forward.probe.check_no_leak` on the first samples of the run.
    """

    attn_impl: str
    proven: Literal["cpu-test", "gpu-test"]
    evidence: str
    gpu_evidence: str | None = None

    def needs_probe(self, on_gpu: bool) -> bool:
        """Whether a run has to prove itself first: where what attends on its device is covered by GPU tests alone."""
        return self.proven == "gpu-test" or (on_gpu and self.gpu_evidence is not None)


def check_packing_backend(attn_impl: str, transformers_version: str | None = None) -> PackingBackend:
    """The proof for `attn_impl` under `transformers_version` (the installed one by default), AUDIT-5.5.

    Raises UnprovenBackend, naming what is proven, when either is not in the contract.
    """
    found = transformers_version or version("transformers")
    table: dict[str, Any] = check("packing/backends", read_yaml(contract_path("packing/backends.yaml")))
    proven = ", ".join(sorted(table["backends"]))
    if found not in table["transformers"]:
        raise UnprovenBackend(
            f"training.packing: no attention implementation is proven for transformers {found}; {proven} are, for "
            f"{', '.join(table['transformers'])}. Install that, or turn training.packing off, or run "
            f"tests/unit/packing/test_packing_proofs.py and add the version to contracts/packing/backends.yaml"
        )
    if attn_impl not in table["backends"]:
        raise UnprovenBackend(
            f"training.packing: model.attn_impl {attn_impl!r} is not proven to keep packed samples apart under "
            f"transformers {found}; proven are {proven}. Choose one of them, or turn training.packing off"
        )
    return PackingBackend(attn_impl, **table["backends"][attn_impl])
