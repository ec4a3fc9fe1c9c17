"""What the gpu tier shares: drawn shapes of real size, leaves that name a checkpoint, runs through the scripts.

Everything here runs on a CPU as well, and the contracts tier runs it there.
"""

from __future__ import annotations

import json
import math
import os
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from coordexp.training.log_check import check_run_log

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

ROOT = Path(__file__).resolve().parents[2]
CHECKPOINT = "COORDEXP_GPU_CHECKPOINT"
SECONDS = 1500
"""What a run may take on a device; its test has `TIMEOUT`."""
TIMEOUT = SECONDS + 300


@dataclass(frozen=True)
class Run:
    """A run's folder, and its log, line by line."""

    folder: Path
    log: tuple[dict[str, float], ...]

    @property
    def steps(self) -> list[dict[str, float]]:
        """Log lines of training steps."""
        return [line for line in self.log if "loss" in line]

    def manifest(self) -> dict[str, Any]:
        """The run manifest, checked."""
        from coordexp.spec import check

        manifest = json.loads((self.folder / "run_manifest.json").read_text(encoding="utf-8"))
        return dict(check("run-manifest", manifest))


def write_enlarged_shapes(out: Path, counts: Mapping[str, int], factor: int) -> dict[str, Path]:
    """Draw, enlarge by a whole factor and cook splits below `out`; the record file by split.

    Drawn images are 88 to 168 pixels wide; times 4 they are as large as those of real data.
    """
    from PIL import Image

    from coordexp.data.cooking import RECORDS_NAME, cook
    from coordexp.data.cooking_types import CookOptions, CookSource
    from coordexp.data.shapes import SplitSpec, write_splits

    write_splits(out / "raw", [SplitSpec(name, count) for name, count in counts.items()], 20261127)
    for name in counts:
        folder = out / "raw" / name
        document = json.loads((folder / "annotations.json").read_text(encoding="utf-8"))
        for image in document["images"]:
            image["width"], image["height"] = image["width"] * factor, image["height"] * factor
            path = folder / image["file_name"]
            with Image.open(path) as picture:
                picture.resize((image["width"], image["height"]), Image.Resampling.NEAREST).save(path)
        for annotation in document["annotations"]:
            annotation["bbox"] = [side * factor for side in annotation["bbox"]]
            annotation["area"] *= factor * factor
        (folder / "annotations.json").write_text(json.dumps(document), encoding="utf-8")
        cook(CookSource(folder / "annotations.json", folder), out / name, CookOptions(786432))
    return {name: out / name / RECORDS_NAME for name in counts}


def write_leaf(
    folder: Path, shipped: str, checkpoint: str, records: Mapping[str, Path], /, **sections: dict[str, Any]
) -> Path:
    """A config below `folder` that extends a shipped one and names checkpoint, records and folders."""
    folder.mkdir(parents=True)
    own: dict[str, dict[str, Any]] = {
        "model": {"model": checkpoint},
        "training": {
            "output_dir": str(folder / "run"),
            "logging_dir": str(folder / "tb"),
            "add_version": False,
        },
        "custom": {"train_jsonl": str(records["train"]), "val_jsonl": str(records["val"])},
    }
    merged = {key: own.get(key, {}) | sections.get(key, {}) for key in dict.fromkeys([*own, *sections])}
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump({"extends": str(ROOT / shipped), **merged}), encoding="utf-8")
    return path


def run_script(script: str, leaf: Path, **variables: str) -> Run:
    """Run a script of scripts/ on a leaf, from a folder that is none of its own; the run that it leaves."""
    done = subprocess.run(
        ["bash", str(ROOT / "scripts" / script)],
        env={**os.environ, "config": str(leaf), **variables},
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
        timeout=SECONDS,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    folder = leaf.parent / "run"
    assert check_run_log(folder).problems == ()
    lines = (folder / "logging.jsonl").read_text(encoding="utf-8").splitlines()
    return Run(folder, tuple(json.loads(line) for line in lines))


STAGE1_KEYS = (
    "loss", "loss/struct_ce", "loss/desc_ce", "loss/coord_reg", "data/samples_total", "data/tokens_total",
    "data/supervised_tokens_total", "data/objects_total", "packing/packs_total", "packing/fill_rate", "time/step_s",
    "time/data_s", "grad_norm",
)  # fmt: skip
# Of every step on rollouts, whatever the answers: precision and matched IoU are absent where nothing was predicted.
ROLLOUT_KEYS = (
    "rollout/samples_total", "rollout/gt_objects_total", "rollout/valid_pred_objects_total", "rollout/matched_total",
    "rollout/fp_total", "rollout/fn_total", "rollout/fn_appended_total", "rollout/parse_rate", "rollout/seed_base",
    "rollout/parse_truncated_rate", "rollout/parse_dropped_invalid", "rollout/gen_new_tokens_mean",
    "rollout/gen_new_tokens_p99", "rollout/length_ratio", "rollout/match_recall",
    "time/rollout_generate_s", "time/rollout_parse_s", "time/rollout_match_s", "time/rollout_encode_s",
    "time/rollout_pack_s",
)  # fmt: skip
SERVER_KEYS = (
    "rollout/weight_pushes_total", "rollout/canary_gap_max", "rollout/logprob_gap_mean", "time/rollout_sync_s",
)  # fmt: skip


def check_finite(line: Mapping[str, float], keys: Sequence[str]) -> None:
    """A log line holds all of `keys`, and nothing in it is infinite or no number."""
    missing = [key for key in keys if key not in line]
    assert missing == [], f"not logged: {missing}"
    broken = {key: value for key, value in line.items() if not math.isfinite(value)}
    assert broken == {}, f"not finite: {broken}"


def check_stage1_steps(steps: Sequence[Mapping[str, float]], row: int) -> None:
    """Every step logs every key of stage 1, finite, under names that the metric table has, from packed rows."""
    from coordexp.metrics.table import check_key

    assert steps
    for line in steps:
        check_finite(line, STAGE1_KEYS)
        for key in line:
            assert "/" not in key or check_key(key) == key
        assert line["data/samples_total"] > line["packing/packs_total"], "several samples share a row"
        assert line["data/tokens_total"] == round(line["packing/fill_rate"] * line["packing/packs_total"] * row)
    assert sum(line["packing/fill_rate"] for line in steps) / len(steps) > 0.7


def check_ab_telemetry(run: Run, kinds: str) -> None:
    """The log shows the schedule's channels in order, the losses of each, and what Channel B saw of its rollouts."""
    steps = run.steps
    assert "".join("B" if "rollout/samples_total" in line else "A" for line in steps) == kinds
    for number, (line, kind) in enumerate(zip(steps, kinds, strict=True), start=1):
        assert line["stage2_ab/b_ratio_realized"] == kinds[:number].count("B") / number
        assert ("loss/A1/struct_ce" in line) == ("coord_diag/A2/expected_bin_mae" in line) == (kind == "A")
        check_finite(line, ROLLOUT_KEYS if kind == "B" else ())
        if kind == "B":
            found = line["rollout/matched_total"] + line["rollout/fn_total"]
            assert found == line["rollout/gt_objects_total"] > 0
        else:
            assert not any(key.startswith(("rollout/", "time/rollout_")) for key in line), sorted(line)
    (evaluation,) = [line for line in run.log if "eval_loss" in line]
    assert 0.0 <= evaluation["eval_rollout/mAP"] <= 1.0 and "eval_rollout/f1" in evaluation


def check_server_telemetry(run: Run, visible: str) -> None:
    """Weights were pushed before the first rollout and after updates, each proven; the manifest holds the launch."""
    rolled = [line for line in run.steps if "rollout/samples_total" in line]
    for line in rolled:
        check_finite(line, SERVER_KEYS)
        assert line["rollout/canary_gap_max"] >= 0 and line["rollout/logprob_gap_mean"] >= 0
    assert sum(line["rollout/weight_pushes_total"] for line in rolled) >= len(rolled), "every B step follows an update"
    server = run.manifest()["launch"]["server"]
    assert "--external_plugins" in server["command"]
    assert ",".join(str(device) for device in server["devices"]) == visible


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that nothing listens on, all different."""
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]
    finally:
        for probe in probes:
            probe.close()
