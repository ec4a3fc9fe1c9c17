"""Annotation files as people have them: the cases of fixtures/cases, made-up ones, and cooking them as people do."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from coordexp.entrypoints.cook import main

CASES = Path(__file__).parents[2] / "fixtures/cases"
GOOD: dict[str, Any] = {
    "images": [{"id": 1, "file_name": "a.png", "width": 64, "height": 64}],
    "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [10, 10, 20, 20]}],
    "categories": [{"id": 1, "name": "cell"}],
}


@dataclass
class Cooked:
    """What one call of the entry point left."""

    code: int
    out: str
    err: str
    folder: Path

    @property
    def manifest(self) -> dict[str, Any]:
        return json.loads((self.folder / "manifest.json").read_text(encoding="utf-8"))

    @property
    def records(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.folder / "records.jsonl").read_text(encoding="utf-8").splitlines()]


@dataclass
class Kitchen:
    """A folder with images and an annotation file, and the entry point of cooking."""

    folder: Path
    capsys: pytest.CaptureFixture[str]
    coco: dict[str, Any] = field(
        default_factory=lambda: {"images": [], "annotations": [], "categories": [{"id": 1, "name": "cell"}]}
    )

    def add(self, name: str, *boxes: list[float], size: tuple[int, int] = (64, 64), **more: Any) -> dict[str, Any]:
        """An image, written to the folder `images`, with boxes of category 1; returns its entry."""
        image = {"id": len(self.coco["images"]) + 1, "file_name": name, "width": size[0], "height": size[1]}
        self.coco["images"].append(image)
        for box in boxes:
            known = {"id": len(self.coco["annotations"]) + 1, "image_id": image["id"], "category_id": 1, "bbox": box}
            self.coco["annotations"].append(known | more)
        path = self.folder / "images" / name
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", size, (240, 240, 240)).save(path)
        return image

    def cook(self, *flags: str, content: bytes | None = None, images: Path | None = None) -> Cooked:
        """Cook the annotations, or the bytes given, with `images` under the folder."""
        path = self.folder / "annotations.json"
        path.write_bytes(json.dumps(self.coco, ensure_ascii=False).encode() if content is None else content)
        return self.run(path, images or self.folder / "images", *flags)

    def case(self, name: str, *flags: str) -> Cooked:
        """Cook a case of fixtures/cases."""
        return self.run(CASES / name / "annotations.json", CASES / name, *flags)

    def run(self, annotations: Path, images: Path, *flags: str) -> Cooked:
        """Call the entry point; each call has an output folder of its own."""
        out = self.folder / f"out{len(list(self.folder.glob('out*')))}"
        asked = ["--annotations", str(annotations), "--images", str(images), "--out", str(out)]
        code = main([*asked, *([] if "--max-pixels" in flags else ["--max-pixels", "16384"]), *flags])
        shown = self.capsys.readouterr()
        assert (out / "manifest.json").is_file() == (code == 0)
        return Cooked(code, shown.out, shown.err, out)


@pytest.fixture
def kitchen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Kitchen:
    return Kitchen(tmp_path, capsys)


def check_balance(manifest: dict[str, Any]) -> None:
    """Everything that came in was kept, ignored, merged or dropped, each for exactly one reason."""
    objects, records = manifest["objects"], manifest["records"]
    assert objects["input"] == objects["kept"] + sum(objects["ignored"].values()) + sum(objects["dropped"].values())
    merged = manifest["adjusted"]["image_merged"]
    assert records["input"] == records["kept"] + merged + sum(records["dropped"].values())
