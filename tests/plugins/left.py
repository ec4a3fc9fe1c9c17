"""A finished small run with all that a gallery draws, and the page of one read back."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from coordexp.artifacts.files import read_json_lines, write_json_lines
from coordexp.config import load_config
from coordexp.entrypoints import evaluate, gallery
from tests.plugins.stage2 import EARLY

if TYPE_CHECKING:
    from tests.plugins.stage2 import Stage2Kit

DUMP = {"enabled": True, "every_steps": 1, "max_samples": 64}
TRAIN, EVAL, SCORED = "rollouts/step_000000.jsonl", "rollouts/eval_000002.jsonl", "on val/predictions.jsonl"
MATCHED = {"fate": "matched", "desc": "x", "kind": "bbox_2d", "bins": [0, 0, 1, 1], "truth": 0, "iou": 1.0}
"""An object of a dump."""
SOURCES = {"evaluation": 3, "sampled": 6, "train": 12, "eval": 3}


class Cards(HTMLParser):
    """The cards of a page: the attributes of each, its pictures, and its visible text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.cards: list[dict[str, str]] = []
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self._inside = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        self.tags.append((tag, found))
        if tag == "article":
            self.cards.append(found | {"text": ""})
            self._inside = True
        elif tag == "img":
            self.cards[-1]["src"] = found["src"]

    def handle_endtag(self, tag: str) -> None:
        self._inside = self._inside and tag != "article"

    def handle_data(self, data: str) -> None:
        self.text += data
        if self._inside:
            self.cards[-1]["text"] += data


@dataclass(frozen=True)
class Left:
    """A finished run, copied to where a test may change it."""

    folder: Path

    def lines(self, name: str) -> list[dict[str, Any]]:
        return read_json_lines(self.folder / name)

    def change(self, name: str, **values: Any) -> None:
        """Give the first line of a file other values."""
        first, *others = self.lines(name)
        write_json_lines(self.folder / name, [first | values, *others])

    def draw(self, *options: str, place: Path | None = None) -> int:
        return gallery.main([str(place or self.folder), *options])

    def page(self, out: str = "gallery") -> Cards:
        return Cards((self.folder / out / "gallery.html").read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def finished_run(stage2_kit: Stage2Kit) -> Path:
    """Two training steps and an evaluation of a model that errs, and what evaluate says of it with two samples each."""
    from coordexp.training.stage2_rollout_aligned import run_stage2_rollout_aligned

    path = stage2_kit.write(
        "galleried",
        model={"model": str(EARLY)},
        training={"effective_batch_size": 6, "eval_strategy": "steps", "eval_steps": 2, "learning_rate": 1e-4},
        rollout_matching={"decode_batch_size": 6, "max_new_tokens": 160, "monitor_dump": DUMP},
    )
    run_stage2_rollout_aligned(load_config(path))
    run = path.parent / "run"
    asked = ["--config", str(path), "--checkpoint", str(EARLY), "--out", str(run / "on val"), "--max-new-tokens", "160"]
    assert evaluate.main([*asked, "--samples", "2", "--temperature", "1.0"]) == 0
    return run


@pytest.fixture
def left(finished_run: Path, tmp_path: Path) -> Left:
    return Left(Path(shutil.copytree(finished_run, tmp_path / "Läufe [1] 漢字" / "run")))


def counts(card: dict[str, str]) -> tuple[int, ...]:
    found = re.search(r"(\d+) found, (\d+) wrong, (\d+) missed", card["text"])
    assert found is not None
    return tuple(map(int, found.groups()))


def told(line: dict[str, Any]) -> tuple[int, ...]:
    """What a dump says became of an answer."""
    fates = [item["fate"] for item in line["objects"]]
    return fates.count("matched"), fates.count("fp"), len(line["missed"])


def of_kind(cards: list[dict[str, str]], kind: str) -> list[dict[str, str]]:
    return [card for card in cards if card["data-kind"] == kind]
