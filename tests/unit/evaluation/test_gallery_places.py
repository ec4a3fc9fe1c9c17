"""The gallery draws each box where it lies: outlines at known pixels of pictures that are not square, and nothing else.

The drawn picture is found on the page by its two background colours, and an outline by its hue: the test knows neither
the page's layout nor the exact colours.
"""

from __future__ import annotations

import colorsys

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from coordexp.evaluation.gallery import GalleryItem, render_gallery
from coordexp.evaluation.types import Box, Detection, ImagePrediction, ImageTruth

Pixels = NDArray[np.uint8]
Size = tuple[int, int]
GROUND, CORNER = (150, 200, 205), (205, 200, 150)
HALO = 4
"""An outline with its white border covers this many pixels on either side of its edge."""
LABEL = (100, 22)
"""A label stands above its box, at its left, in this many columns and rows."""

# On a picture of 320 x 180 pixels. No box has a mirror image or a twin, and no label covers an edge.
CAT, DOG, BIRD = (20, 40, 139, 99), (180, 30, 219, 149), (250, 120, 309, 172)
NEAR_CAT, NEAR_DOG, NOTHING = (24, 36, 145, 95), (187, 24, 230, 135), (60, 130, 149, 170)
OUTLINES = ((CAT, "grey"), (DOG, "grey"), (BIRD, "magenta"), (NEAR_CAT, "green"), (NEAR_DOG, "amber"), (NOTHING, "red"))


def picture(width: int, height: int, ground: tuple[int, int, int] = GROUND) -> Image.Image:
    """One colour, and another one in the upper left: a third of the width, a fifth of the height."""
    image = Image.new("RGB", (width, height), ground)
    image.paste(CORNER, (0, 0, width // 3, height // 5))
    return image


def item(
    size: Size,
    truth: dict[str, Box],
    found: dict[str, Box],
    sample: str = "a.jsonl:1",
    ground: tuple[int, int, int] = GROUND,
) -> GalleryItem:
    objects, answers = (tuple(Detection(desc, box) for desc, box in side.items()) for side in (truth, found))
    return GalleryItem(picture(*size, ground), ImageTruth(sample, *size, objects), ImagePrediction(sample, answers))


def drawn(page: Image.Image, ground: tuple[int, int, int] = GROUND) -> tuple[Pixels, tuple[int, int]]:
    """The one picture of this ground colour on the page, and the column and row where it begins."""
    pixels = np.asarray(page)
    rows, columns = np.nonzero((pixels == ground).all(axis=2))
    top, left = int(rows.min()), int(columns.min())
    # The corner of the other colour holds the picture's own first row and column.
    assert tuple(pixels[top, left]) == CORNER
    return pixels[top : rows.max() + 1, left : columns.max() + 1], (left, top)


def hue(pixel: Pixels) -> str:
    """What a reader would call the colour of an outline; of anything pale, nothing."""
    tone, saturation, value = colorsys.rgb_to_hsv(*(float(channel) / 255 for channel in pixel))
    if saturation < 0.2 and value < 0.5:
        return "grey"
    if saturation < 0.6:
        return ""
    bounds = (
        ("red", 15),
        ("amber", 60),
        ("yellow", 100),
        ("green", 160),
        ("blue", 280),
        ("magenta", 330),
        ("red", 361),
    )
    return next(name for name, end in bounds if tone * 360 < end)


def shares(pixels: Pixels, box: Box, scale: tuple[float, float], wanted: str) -> dict[str, float]:
    """How much of each edge of a box has the wanted colour, `scale` pixels to one of the image.

    The edge's pixel or its inner neighbour has to have it; corners, where edges meet, are left out.
    """
    left, right = round(box[0] * scale[0]), round(box[2] * scale[0])
    top, bottom = round(box[1] * scale[1]), round(box[3] * scale[1])
    found = {}
    for side, rows in (("top", (top, top + 1)), ("bottom", (bottom, bottom - 1))):
        found[side] = [[(x, y) for y in rows] for x in range(left + 5, right - 4)]
    for side, columns in (("left", (left, left + 1)), ("right", (right, right - 1))):
        found[side] = [[(x, y) for x in columns] for y in range(top + 5, bottom - 4)]
    return {
        side: sum(any(hue(pixels[y, x]) == wanted for x, y in across) for across in spots) / len(spots)
        for side, spots in found.items()
    }


def untouched(pixels: Pixels, boxes: list[Box], scale: tuple[float, float]) -> NDArray[np.bool_]:
    """Where nothing may be drawn: away from every edge, and from the rows above each box where its label stands."""
    rows, columns = np.mgrid[: pixels.shape[0], : pixels.shape[1]]
    free = np.ones(pixels.shape[:2], dtype=bool)
    for box in boxes:
        left, right = box[0] * scale[0], box[2] * scale[0]
        top, bottom = box[1] * scale[1], box[3] * scale[1]
        outer = (columns >= left - HALO) & (columns <= right + HALO) & (rows >= top - HALO) & (rows <= bottom + HALO)
        inner = (columns > left + HALO) & (columns < right - HALO) & (rows > top + HALO) & (rows < bottom - HALO)
        free &= ~(outer & ~inner)
        begin = min(left - HALO, pixels.shape[1] - LABEL[0])
        free &= ~((rows >= top - LABEL[1]) & (rows < top) & (columns >= begin) & (columns < begin + LABEL[0]))
    return free


@pytest.mark.invariant("EVAL-010")
@pytest.mark.invariant("EVAL-017")
@pytest.mark.parametrize(
    ("times", "tile"), [(1, 320), (1, 640), (2, 320), (1, 410)], ids=["as it is", "doubled", "halved", "an odd scale"]
)
def test_each_outline_lies_on_its_box_in_its_colour_and_the_rest_of_the_picture_is_untouched(times, tile):
    size = (320 * times, 180 * times)
    real = {box: tuple(float(v * times) for v in box) for box, _ in OUTLINES}
    truth = {"cat": real[CAT], "dog": real[DOG], "bird": real[BIRD]}
    found = {"dog": real[NEAR_DOG], "fox": real[NOTHING], "cat": real[NEAR_CAT]}
    pixels, _ = drawn(render_gallery([item(size, truth, found)], tile=tile))
    assert pixels.shape[:2] == (round(180 * tile / 320), tile)
    scale = ((tile - 1) / (size[0] - 1), (pixels.shape[0] - 1) / (size[1] - 1))
    for box, wanted in OUTLINES:
        for side, share in shares(pixels, real[box], scale, wanted).items():
            # Ground truth is dashed, seven pixels in twelve; a prediction crosses it in places.
            low, high = (0.4, 0.75) if wanted in ("grey", "magenta") else (0.99, 1.0)
            assert low <= share <= high, f"{share:.2f} of the {side} edge of {box} is {wanted}"
    free = untouched(pixels, list(real.values()), scale)
    plain = np.asarray(picture(tile, pixels.shape[0]))
    # Scaling blurs the line between the two background colours.
    free[pixels.shape[0] // 5 - 4 : pixels.shape[0] // 5 + 4, : tile // 3 + 4] = False
    free[: pixels.shape[0] // 5 + 4, tile // 3 - 4 : tile // 3 + 4] = False
    assert free.mean() > 0.5
    assert (pixels[free] == plain[free]).all()


@pytest.mark.invariant("EVAL-017")
@pytest.mark.parametrize(("width", "height"), [(48, 30), (30, 48)])
def test_the_last_coordinate_of_a_small_picture_is_the_last_column_and_row_of_the_large_one(width, height):
    """Bin 999 is the last pixel, so in an eightfold picture it is not eight times its coordinate."""
    page = render_gallery([item((width, height), {}, {"fox": (12.0, 9.0, width - 1.0, height - 1.0)})], tile=384)
    # The outline covers the last column and row, which `drawn` would take for the end of the background.
    _, (left, top) = drawn(page)
    pixels = np.asarray(page)[top : top + 8 * height, left : left + 8 * width]
    for x, y in ((8 * width - 2, 4 * height), (4 * width, 8 * height - 2)):
        assert hue(pixels[y, x]) == "red"
        assert hue(pixels[y - 5, x - 5]) == ""


@pytest.mark.invariant("EVAL-010")
@pytest.mark.parametrize("columns", [1, 4])
def test_the_legend_shows_the_five_colours_in_order_and_ends_on_the_page(columns):
    header = np.asarray(render_gallery([item((64, 96), {}, {})] * columns, tile=320))[:72]
    # The marks begin above the words beside them.
    first = next(row for row in header if any(hue(pixel) == "green" for pixel in row))
    shown = dict.fromkeys(hue(pixel) for pixel in first)
    assert [name for name in shown if name] == ["green", "amber", "red", "grey", "magenta"]
    inked = (header != header[0, 0]).any(axis=(0, 2))
    assert not inked[-10:].any()


@pytest.mark.invariant("EVAL-017")
def test_each_picture_stands_in_its_turn_with_its_own_boxes():
    grounds = ((150, 200, 205), (150, 190, 150), (190, 150, 190), (200, 205, 230), (225, 200, 200))
    sizes = ((96, 64), (64, 128), (160, 96), (96, 160), (128, 96))
    boxes = ((30.0, 40.0, 60.0, 58.0), (20.0, 50.0, 50.0, 110.0), (70.0, 30.0, 150.0, 80.0), (10.0, 60.0, 80.0, 90.0))
    boxes = (*boxes, (30.0, 50.0, 55.0, 80.0))
    items = []
    for number, (size, box, ground) in enumerate(zip(sizes, boxes, grounds, strict=True)):
        truth, found = ({"cat": box}, {}) if number % 2 else ({}, {"cat": box})
        items.append(item(size, truth, found, f"a.jsonl:{9 - number}", ground))
    page = render_gallery(items, columns=3, tile=256)
    places = []
    for number, (size, box, ground) in enumerate(zip(sizes, boxes, grounds, strict=True)):
        pixels, (left, top) = drawn(page, ground)
        scale = 256 / max(size)
        assert pixels.shape[:2] == (round(size[1] * scale), round(size[0] * scale))
        exact = ((pixels.shape[1] - 1) / (size[0] - 1), (pixels.shape[0] - 1) / (size[1] - 1))
        wanted = "magenta" if number % 2 else "red"
        assert all(share >= 0.4 for share in shares(pixels, box, exact, wanted).values())
        places.append((top + pixels.shape[0] // 2, left + pixels.shape[1] // 2))
    rows = [round(row / 40) for row, _ in places]
    assert rows[0] == rows[1] == rows[2] < rows[3] == rows[4]
    columns = [round(column / 40) for _, column in places]
    assert columns[0] < columns[1] < columns[2] and columns[3:] == columns[:2]
