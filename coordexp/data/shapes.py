"""Drawn shapes as a data set: COCO-style annotations and PNG files, for the real cooking.

Contract ids: DATA-013, DATA-014.
Enters: a seed, split names, kinds and counts. Leaves: `<out>/<split>/annotations.json` and
`<out>/<split>/images/*.png`. Each image depends on (seed, split, index) alone, so neither the number of workers nor
the other splits change it.
"""

from __future__ import annotations

import re
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

import numpy as np
from PIL import Image, ImageDraw

from coordexp.data.errors import DataError
from coordexp.data.outputs import build_folder, write_json
from coordexp.data.seeds import build_generator
from coordexp.geometry.boxes import pairwise_iou

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

SceneKind = Literal["plain", "crowded"]
SplitKind = Literal["plain", "crowded", "mixed"]
_MIXED: tuple[SceneKind, ...] = ("crowded", "plain", "crowded", "crowded")
"""Kinds of a mixed split's scenes, by turns."""
COLORS = {"red": (214, 40, 40), "green": (38, 150, 62), "blue": (36, 82, 214), "yellow": (236, 196, 18)}
SHAPES = ("circle", "square", "triangle")
CATEGORIES = tuple(f"{color} {shape}" for color in COLORS for shape in SHAPES)
_SUPERSAMPLING = 4


@dataclass(frozen=True, slots=True)
class SplitSpec:
    """One split to draw: its name, how many images, plain or crowded, or mixed: three crowded ones to a plain one."""

    name: str
    count: int
    kind: SplitKind = "plain"

    def scene_kind(self, index: int) -> SceneKind:
        """Kind of the image at `index`."""
        return _MIXED[index % len(_MIXED)] if self.kind == "mixed" else self.kind


@dataclass(frozen=True, slots=True)
class SceneRules:
    """What a kind of scene looks like; sizes in pixels, fractions in [0, 1]."""

    canvas: tuple[int, int]
    objects: tuple[int, int]
    size: tuple[int, int]
    max_iou: float
    max_covered: float
    min_visible: int


RULES: dict[SceneKind, SceneRules] = {
    "plain": SceneRules(canvas=(88, 168), objects=(1, 4), size=(20, 72), max_iou=0.1, max_covered=0.15, min_visible=16),
    "crowded": SceneRules(
        canvas=(120, 200), objects=(5, 10), size=(24, 64), max_iou=0.5, max_covered=0.6, min_visible=8
    ),
}
_ATTEMPTS = 60


@dataclass(frozen=True, slots=True)
class DrawnShape:
    """A shape on the canvas.

    Index into `CATEGORIES` and its coverage, uint8 [h, w], whose corner lies at (left, top).
    """

    category: int
    left: int
    top: int
    coverage: NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class DrawnScene:
    """`pixels` uint8 [H, W, 3]; `objects` = (category, x, y, width, height) of visible pixels, in drawing order."""

    pixels: NDArray[np.uint8]
    objects: tuple[tuple[int, int, int, int, int], ...]


def draw_scene(rng: np.random.Generator, kind: SceneKind) -> DrawnScene:
    """Draw one scene by its rules; boxes are tight around the pixels of a shape that are visible in the end."""
    rules = RULES[kind]
    width, height = (int(rng.integers(rules.canvas[0], rules.canvas[1] + 1)) for _ in range(2))
    wanted = int(rng.integers(rules.objects[0], rules.objects[1] + 1))
    while True:
        shapes = _place_shapes(rng, rules, (width, height), wanted)
        if len(shapes) >= rules.objects[0]:
            break
    background = int(rng.integers(208, 249))
    pixels = np.full((height, width, 3), background, dtype=np.float32)
    owner = np.full((height, width), -1, dtype=np.int16)
    for index, shape in enumerate(shapes):
        _paint(pixels, owner, shape, index, rng)
    boxes = (_visible_box(owner, index) for index in range(len(shapes)))
    objects = tuple((shape.category, *box) for shape, box in zip(shapes, boxes, strict=True))
    return DrawnScene(pixels.round().astype(np.uint8), objects)


def _place_shapes(
    rng: np.random.Generator, rules: SceneRules, canvas: tuple[int, int], wanted: int
) -> list[DrawnShape]:
    shapes: list[DrawnShape] = []
    boxes = np.zeros((0, 4))
    for _ in range(_ATTEMPTS):
        if len(shapes) == wanted:
            break
        candidate = _draw_shape(rng, rules, canvas)
        height, width = candidate.coverage.shape
        box = np.array([[candidate.left, candidate.top, candidate.left + width, candidate.top + height]], dtype=float)
        if any(
            iou >= _iou_limit(rules, candidate, other)
            for iou, other in zip(pairwise_iou(box, boxes)[0], shapes, strict=True)
        ):
            continue
        if _all_remain_visible([*shapes, candidate], rules, canvas):
            shapes.append(candidate)
            boxes = np.concatenate([boxes, box])
    return shapes


def _iou_limit(rules: SceneRules, first: DrawnShape, second: DrawnShape) -> float:
    """Shapes of one colour stay apart: where they overlap, no eye could tell them from one another."""
    same_color = first.category // len(SHAPES) == second.category // len(SHAPES)
    return 1e-6 if same_color else rules.max_iou


def _draw_shape(rng: np.random.Generator, rules: SceneRules, canvas: tuple[int, int]) -> DrawnShape:
    color, shape = int(rng.integers(len(COLORS))), int(rng.integers(len(SHAPES)))
    longest = min(rules.size[1], int(min(canvas) * 0.62))
    size = int(rng.integers(rules.size[0], longest + 1))
    coverage = _rasterize(SHAPES[shape], size)
    height, width = coverage.shape
    left, top = int(rng.integers(0, canvas[0] - width + 1)), int(rng.integers(0, canvas[1] - height + 1))
    return DrawnShape(color * len(SHAPES) + shape, left, top, coverage)


def _rasterize(shape: str, size: int) -> NDArray[np.uint8]:
    """Coverage of a shape of `size` pixels, anti-aliased, cropped to its pixels."""
    big = size * _SUPERSAMPLING
    canvas = Image.new("L", (big, big), 0)
    pen = ImageDraw.Draw(canvas)
    if shape == "circle":
        pen.ellipse((0, 0, big - 1, big - 1), fill=255)
    elif shape == "square":
        pen.rectangle((0, 0, big - 1, big - 1), fill=255)
    else:
        pen.polygon([(big / 2, 0), (big - 1, big - 1), (0, big - 1)], fill=255)
    coverage = np.asarray(canvas.resize((size, size), Image.Resampling.BOX))
    rows, columns = np.flatnonzero((coverage >= 128).any(axis=1)), np.flatnonzero((coverage >= 128).any(axis=0))
    return coverage[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _all_remain_visible(shapes: list[DrawnShape], rules: SceneRules, canvas: tuple[int, int]) -> bool:
    owner = np.full((canvas[1], canvas[0]), -1, dtype=np.int16)
    for index, shape in enumerate(shapes):
        _claim(owner, shape, index)
    for index, shape in enumerate(shapes):
        total = int((shape.coverage >= 128).sum())
        visible = int((owner == index).sum())
        if visible < (1 - rules.max_covered) * total:
            return False
        _, _, width, height = _visible_box(owner, index)
        if min(width, height) < rules.min_visible:
            return False
    return True


def _claim(owner: NDArray[np.int16], shape: DrawnShape, index: int) -> None:
    height, width = shape.coverage.shape
    region = owner[shape.top : shape.top + height, shape.left : shape.left + width]
    region[shape.coverage >= 128] = index


def _paint(
    pixels: NDArray[np.float32], owner: NDArray[np.int16], shape: DrawnShape, index: int, rng: np.random.Generator
) -> None:
    height, width = shape.coverage.shape
    base = np.array(COLORS[CATEGORIES[shape.category].split()[0]], dtype=np.float32)
    color = np.clip(base + rng.integers(-14, 15, size=3), 0, 255).astype(np.float32)
    alpha = (shape.coverage.astype(np.float32) / 255)[..., None]
    region = pixels[shape.top : shape.top + height, shape.left : shape.left + width]
    region[...] = region * (1 - alpha) + color * alpha
    _claim(owner, shape, index)


def _visible_box(owner: NDArray[np.int16], index: int) -> tuple[int, int, int, int]:
    """x, y, width, height of the pixels that belong to shape `index`."""
    mine = owner == index
    rows, columns = np.flatnonzero(mine.any(axis=1)), np.flatnonzero(mine.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1] - columns[0] + 1), int(rows[-1] - rows[0] + 1)


def write_splits(
    out: Path, splits: list[SplitSpec], seed: int, *, workers: int = 1, on_image: Callable[[], None] = lambda: None
) -> None:
    """Draw all splits under `out`, which must not exist. Raises `DataError` for a bad request."""
    names = [split.name for split in splits]
    if len(set(names)) != len(names):
        raise DataError(f"split names are {names}; each split has a name of its own")
    for split in splits:
        if split.count < 1 or not split.name.replace("_", "").isalnum():
            raise DataError(
                f"split {split.name!r} of {split.count} images: a name is letters, digits, _; a count is at least 1"
            )
    with build_folder(out) as folder:
        for split in splits:
            _write_split(folder / split.name, split, seed, workers, on_image)


def _write_split(folder: Path, split: SplitSpec, seed: int, workers: int, on_image: Callable[[], None]) -> None:
    (folder / "images").mkdir(parents=True)
    draw = partial(_write_image, folder, split, seed)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []

    def collect(index: int, size: tuple[int, int], objects: tuple[tuple[int, int, int, int, int], ...]) -> None:
        images.append({"id": index + 1, "file_name": f"images/{index:06d}.png", "width": size[0], "height": size[1]})
        for category, x, y, width, height in objects:
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": index + 1,
                    "category_id": category + 1,
                    "bbox": [x, y, width, height],
                    "area": width * height,
                    "iscrowd": 0,
                }
            )
        on_image()

    if workers == 1:
        for index in range(split.count):
            collect(index, *draw(index))
    else:
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            for index, (size, objects) in enumerate(pool.map(draw, range(split.count), chunksize=64)):
                collect(index, size, objects)
    write_json(
        folder / "annotations.json",
        {
            "info": {"description": f"drawn shapes, {split.kind}", "seed": seed, "split": split.name},
            "images": images,
            "annotations": annotations,
            "categories": [{"id": index + 1, "name": name} for index, name in enumerate(CATEGORIES)],
        },
    )


def _write_image(
    folder: Path, split: SplitSpec, seed: int, index: int
) -> tuple[tuple[int, int], tuple[tuple[int, int, int, int, int], ...]]:
    scene = draw_scene(build_generator(seed, "shapes", split.name, index), split.scene_kind(index))
    picture = Image.fromarray(scene.pixels)
    picture.save(folder / "images" / f"{index:06d}.png", compress_level=1)
    return picture.size, scene.objects


def parse_split(text: str) -> SplitSpec:
    """A split from `NAME=COUNT` or `NAME=COUNT:KIND`; raises `DataError`."""
    kinds = "|".join(get_args(SplitKind))
    match = re.fullmatch(rf"([A-Za-z0-9_]+)=([1-9][0-9]*)(?::({kinds}))?", text)
    if match is None:
        raise DataError(
            f"split {text!r} is not NAME=COUNT or NAME=COUNT:{kinds}, such as train=2000 or busy=200:crowded"
        )
    return SplitSpec(match[1], int(match[2]), cast("SplitKind", match[3] or "plain"))
