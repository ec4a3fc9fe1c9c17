"""The quick start in miniature: its folder of splits with a few images in each, and configs over the shipped ones."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.plugins.launches import ROOT, merge

EARLY = ROOT / "fixtures/tiny-qwen3vl-early"
STAGE1 = ROOT / "configs/stage1/smoke/quickstart.yaml"
STAGE2 = ROOT / "configs/stage2_two_channel/smoke/quickstart.yaml"


@dataclass(frozen=True)
class DemoKit:
    """Where the miniature's splits lie, cooked; both stages read them."""

    data: Path

    def write(self, folder: Path, shipped: Path, **sections: dict[str, Any]) -> Path:
        """A config in `folder` that extends a shipped one, with its output there; `sections` override it."""
        folder.mkdir(parents=True, exist_ok=True)
        split = "train" if shipped == STAGE1 else "mixed"
        custom = {"train_jsonl": str(self.data / split / "records.jsonl")}
        if shipped == STAGE1:
            custom["val_jsonl"] = str(self.data / "val" / "records.jsonl")
        base = {
            "extends": str(shipped),
            "model": {"model": str(EARLY)},
            "training": {
                "output_dir": str(folder / "run"),
                "logging_dir": str(folder / "tb"),
                "max_steps": 2,
                "logging_steps": 1,
                "effective_batch_size": 2,
            },
            "custom": custom,
        }
        path = folder / "run.yaml"
        path.write_text(yaml.safe_dump(merge(base, sections)), encoding="utf-8")
        return path


@pytest.fixture(scope="session")
def demo_kit(tmp_path_factory: pytest.TempPathFactory) -> DemoKit:
    """Splits of 3 to 12 images; the plain held-out images are those that stage 1 trains on, so that few steps help."""
    from rich.console import Console

    from coordexp.data.shapes import SplitSpec
    from coordexp.demo.images import build_shapes

    data = tmp_path_factory.mktemp("demo") / "data"
    counts = {"train": 12, "val": 3, "mixed": 8, "heldout_crowded": 3}
    splits = [SplitSpec(name, count, "mixed" if name == "mixed" else "plain") for name, count in counts.items()]
    build_shapes(data, splits, 65536, Console(quiet=True))
    (data / "heldout").symlink_to(data / "train")
    return DemoKit(data)
