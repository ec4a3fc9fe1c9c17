"""Shapes drawn at known places, shown to the committed tiny model through the command: reported where they are."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

from coordexp.coords.codec import pixel_to_bin, render_coord_token
from coordexp.entrypoints.evaluate import main
from coordexp.geometry.boxes import pairwise_iou

ROOT = Path(__file__).parents[3]
DRAWN = (
    ((160, 96), "red circle", (214, 40, 40), (84, 18, 131, 65)),
    ((96, 160), "blue square", (36, 82, 214), (12, 90, 59, 137)),
    ((128, 160), "green triangle", (38, 150, 62), (20, 20, 80, 70)),
)
"""Size, name, colour and box of one shape an image. No two images have one size, and none is square."""
SMOOTH = 4


def draw(path: Path, size: tuple[int, int], desc: str, color: tuple[int, int, int], box: tuple[int, ...]) -> None:
    large = Image.new("RGB", (size[0] * SMOOTH, size[1] * SMOOTH), (230, 230, 230))
    x1, y1, x2, y2 = (value * SMOOTH for value in box)
    pen = ImageDraw.Draw(large)
    if desc.endswith("circle"):
        pen.ellipse((x1, y1, x2, y2), fill=color)
    elif desc.endswith("square"):
        pen.rectangle((x1, y1, x2, y2), fill=color)
    else:
        pen.polygon(((x1, y2), (x2, y2), ((x1 + x2) // 2, y1)), fill=color)
    large.resize(size, Image.Resampling.BOX).save(path)


@pytest.mark.invariant("EVAL-019")
def test_what_the_model_sees_is_reported_where_it_is(tmp_path: Path) -> None:
    lines = []
    for number, (size, desc, color, box) in enumerate(DRAWN):
        draw(tmp_path / f"{number}.png", size, desc, color, box)
        tokens = [render_coord_token(pixel_to_bin(value, size[axis % 2])) for axis, value in enumerate(box)]
        objects = [{"desc": desc, "bbox_2d": tokens}]
        record = {"images": [f"{number}.png"], "width": size[0], "height": size[1], "objects": objects}
        lines.append(json.dumps(record | {"metadata": {"split": "flat" if size[0] > size[1] else "tall"}}) + "\n")
    (tmp_path / "drawn.jsonl").write_text("".join(lines), encoding="utf-8")
    files = {
        "--jsonl": tmp_path / "drawn.jsonl",
        "--out": tmp_path / "out",
        "--checkpoint": ROOT / "fixtures/tiny-qwen3vl",
    }
    given = files | {"--config": ROOT / "configs/stage1/smoke/shapes.yaml", "--max-new-tokens": 64, "--batch-size": 2}
    assert main([str(part) for pair in given.items() for part in pair]) == 0

    written = (tmp_path / "out/predictions.jsonl").read_text(encoding="utf-8").splitlines()
    for line, (size, desc, _, box) in zip(map(json.loads, written), DRAWN, strict=True):
        assert (line["width"], line["height"]) == size
        (found,), (annotated,) = line["predictions"], line["ground_truth"]
        assert found["desc"] == annotated["desc"] == desc
        assert pairwise_iou([found["box"]], [box])[0, 0] > 0.8
        assert annotated["box"] == pytest.approx(box, abs=0.1)
        # Bin k of the answer's text is k/999 of the last pixel's coordinate, x and y in turn.
        bins = [int(k) for k in re.findall(r"<\|coord_(\d+)\|>", line["text"])]
        by_hand = [k / 999 * (size[axis % 2] - 1) for axis, k in enumerate(bins)]
        assert found["box"] == pytest.approx(by_hand, abs=0.0006)
        assert 0 < found["score"] < 1

    report = json.loads((tmp_path / "out/report.json").read_text(encoding="utf-8"))
    parts = (report, report["splits"]["flat"], report["splits"]["tall"])
    assert [part["detection"]["true_positives"] for part in parts] == [3, 1, 2]
    assert [part["detection"]["f1"] for part in parts] == [1.0, 1.0, 1.0]
