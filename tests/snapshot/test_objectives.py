"""The identity of every objective that is shipped: another checksum is another objective, and has to be meant."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from syrupy.assertion import SnapshotAssertion

from coordexp.config import load_config
from coordexp.config.document import shipped_runs
from coordexp.losses.defaults import resolve_manifest
from coordexp.losses.manifest import checksum, render_canonical, resolved_document

CONFIGS = Path(__file__).parents[2] / "configs"
# One of each form: stage 1, flat weights, authored, rollout-aligned.
WHOLE = (
    "stage1/smoke/shapes",
    "stage2_two_channel/prod/ab_mixed",
    "stage2_two_channel/smoke/ab_mixed_pipeline",
    "stage2_rollout_aligned/smoke/hf",
)


@pytest.mark.invariant("LOSS-016")
def test_every_shipped_configuration_has_its_recorded_checksum(snapshot: SnapshotAssertion) -> None:
    lines = []
    for path in shipped_runs(CONFIGS):
        manifest = resolve_manifest(load_config(path))
        assert checksum(manifest) == hashlib.sha256(render_canonical(manifest).encode()).hexdigest()
        lines.append(f"{path.relative_to(CONFIGS).with_suffix('').as_posix()}: {checksum(manifest)}")
    assert "\n".join(lines) == snapshot


@pytest.mark.invariant("LOSS-015")
@pytest.mark.invariant("LOSS-016")
@pytest.mark.parametrize("name", WHOLE)
def test_a_shipped_objective_is_the_recorded_one(name: str, snapshot: SnapshotAssertion) -> None:
    manifest = resolve_manifest(load_config(CONFIGS / f"{name}.yaml"))
    assert json.dumps(resolved_document(manifest), indent=1, sort_keys=True) == snapshot
