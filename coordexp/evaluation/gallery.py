"""Draws ground truth and predictions over their images. In: pictures and boxes in pixels; out: one picture (RGB).

A dashed outline is ground truth (dark: found, magenta: missed), a solid one a prediction, coloured by the IoU of its
match. Contract ids: EVAL-010, EVAL-017.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from matplotlib import get_data_path
from PIL import Image, ImageDraw, ImageFont

from coordexp.evaluation.matching import match_image
from coordexp.evaluation.types import Box, ImagePrediction, ImageTruth

if TYPE_CHECKING:
    from collections.abc import Sequence

Color = tuple[int, int, int]
CLOSE_IOU = 0.75
CLOSE, LOOSE, WRONG, MISSED, FOUND = (16, 150, 72), (232, 150, 0), (220, 30, 40), (200, 0, 190), (70, 70, 78)
_PAGE, _CARD, _INK, _FAINT = (244, 245, 247), (255, 255, 255), (28, 30, 34), (104, 108, 116)
_GAP, _HEADER, _CAPTION = 16, 76, 52
_LABEL_HEIGHT = 17
_LEGEND_WIDTH = 848


@dataclass(frozen=True, eq=False)
class GalleryItem:
    """One image with what is on it and what was answered; `picture` has the size that `truth` states."""

    picture: Image.Image
    truth: ImageTruth
    prediction: ImagePrediction


def render_gallery(items: Sequence[GalleryItem], *, columns: int = 4, tile: int = 384, title: str = "") -> Image.Image:
    """A grid of `items` in the order given, each scaled to fit `tile` x `tile` pixels, with a legend above.

    Raises `ValueError` without items or for a picture of another size than its ground truth states.
    """
    if not items:
        raise ValueError("a gallery needs at least one image")
    columns = min(columns, len(items))
    rows = -(-len(items) // columns)
    width = max(columns * (tile + _GAP) + _GAP, _LEGEND_WIDTH)
    page = Image.new("RGB", (width, _HEADER + rows * (tile + _CAPTION + _GAP)), _PAGE)
    pen = ImageDraw.Draw(page)
    _draw_header(pen, title)
    for number, item in enumerate(items):
        left = _GAP + (number % columns) * (tile + _GAP)
        top = _HEADER + (number // columns) * (tile + _CAPTION + _GAP)
        pen.rounded_rectangle(
            (left - 1, top - 1, left + tile, top + tile + _CAPTION), 6, fill=_CARD, outline=(218, 220, 224)
        )
        _draw_item(page, item, (left, top), tile)
    return page


def _draw_item(page: Image.Image, item: GalleryItem, corner: tuple[int, int], tile: int) -> None:
    width, height = item.truth.width, item.truth.height
    if item.picture.size != (width, height):
        raise ValueError(
            f"sample {item.truth.sample_id}: the picture is {item.picture.size}, its ground truth {(width, height)}"
        )
    scale = min(tile / width, tile / height)
    size = (round(width * scale), round(height * scale))
    canvas = item.picture.convert("RGB").resize(size, Image.Resampling.BICUBIC)
    # A box lies in 0..width-1, as bins do: its last coordinate is the canvas's last column.
    found, missed = _draw_boxes(canvas, item, ((size[0] - 1) / max(1, width - 1), (size[1] - 1) / max(1, height - 1)))
    page.paste(canvas, (corner[0] + (tile - size[0]) // 2, corner[1] + (tile - size[1]) // 2))
    _draw_caption(ImageDraw.Draw(page), item, (corner[0] + 12, corner[1] + tile + 6), (found, missed))


def _draw_boxes(canvas: Image.Image, item: GalleryItem, scale: tuple[float, float]) -> tuple[int, int]:
    """Outline everything, then label, so that no outline crosses a label. Returns (true positives, missed objects)."""
    truth, predictions = item.truth.objects, item.prediction.detections
    matches = match_image(truth, predictions)
    of_prediction = {match.prediction: match for match in matches}
    seen = {match.truth for match in matches}
    pen, placed = ImageDraw.Draw(canvas), list[Box]()
    for number, obj in enumerate(truth):
        _dashed(pen, _scaled(obj.box, scale), FOUND if number in seen else MISSED)
    for number, detection in enumerate(predictions):
        match = of_prediction.get(number)
        _solid(pen, _scaled(detection.box, scale), _color(None if match is None else match.iou))
    for number, detection in enumerate(predictions):
        match = of_prediction.get(number)
        text = detection.desc if match is None else f"{detection.desc} {match.iou:.2f}"
        _label(pen, _scaled(detection.box, scale), text, _color(None if match is None else match.iou), placed)
    for number, obj in enumerate(truth):
        if number not in seen:
            _label(pen, _scaled(obj.box, scale), f"missed: {obj.desc}", MISSED, placed)
    return len(matches), len(truth) - len(seen)


def _color(iou: float | None) -> Color:
    if iou is None:
        return WRONG
    return CLOSE if iou >= CLOSE_IOU else LOOSE


def _scaled(box: Box, scale: tuple[float, float]) -> Box:
    x1, y1, x2, y2 = box
    return x1 * scale[0], y1 * scale[1], x2 * scale[0], y2 * scale[1]


def _solid(pen: ImageDraw.ImageDraw, box: Box, color: Color) -> None:
    x1, y1, x2, y2 = box
    pen.rectangle((x1 - 1, y1 - 1, x2 + 1, y2 + 1), outline=(255, 255, 255), width=5)
    pen.rectangle(box, outline=color, width=3)


def _dashed(pen: ImageDraw.ImageDraw, box: Box, color: Color) -> None:
    x1, y1, x2, y2 = box
    dash, gap = 7.0, 5.0
    for start, stop, fixed, across in (
        (x1, x2, y1, True),
        (x1, x2, y2, True),
        (y1, y2, x1, False),
        (y1, y2, x2, False),
    ):
        at = start
        while at < stop:
            end = min(at + dash, stop)
            line = (at, fixed, end, fixed) if across else (fixed, at, fixed, end)
            pen.line(line, fill=(255, 255, 255), width=5)
            pen.line(line, fill=color, width=3)
            at += dash + gap


def _label(pen: ImageDraw.ImageDraw, box: Box, text: str, color: Color, placed: list[Box]) -> None:
    """A tag at the box: above it, else inside its top, below it or inside its bottom, where none is."""
    canvas_width, canvas_height = pen.im.size
    font = _font(12)
    width = pen.textlength(text, font=font) + 8
    x = max(0.0, min(box[0] - 1, canvas_width - width))
    choices = [box[1] - _LABEL_HEIGHT - 1, box[1] + 2, box[3] + 3, box[3] - _LABEL_HEIGHT - 1]
    choices += [choices[1] + step * (_LABEL_HEIGHT + 1) for step in range(1, 8)]
    fitting = [(x, y, x + width, y + _LABEL_HEIGHT) for y in choices if 0 <= y <= canvas_height - _LABEL_HEIGHT]
    fallback = (x, max(0.0, min(box[1], canvas_height - _LABEL_HEIGHT)), x + width, box[1] + _LABEL_HEIGHT)
    spot = next(
        (area for area in fitting if not any(_overlap(area, other) for other in placed)), (fitting or [fallback])[0]
    )
    placed.append(spot)
    pen.rectangle(spot, fill=color)
    pen.text((spot[0] + 4, spot[1] + _LABEL_HEIGHT / 2), text, fill=(255, 255, 255), font=font, anchor="lm")


def _overlap(first: Box, second: Box) -> bool:
    return first[0] < second[2] and second[0] < first[2] and first[1] < second[3] and second[1] < first[3]


def _draw_caption(
    pen: ImageDraw.ImageDraw, item: GalleryItem, corner: tuple[int, int], outcome: tuple[int, int]
) -> None:
    true_positives, missed = outcome
    extra = len(item.prediction.detections) - true_positives
    pen.text(corner, _shortened(item.truth.sample_id, 46), fill=_FAINT, font=_font(11))
    x, y = float(corner[0]), corner[1] + 18
    parts = ((f"{true_positives} found", CLOSE), (f"{extra} wrong", WRONG), (f"{missed} missed", MISSED))
    for (text, color), number in zip(parts, (true_positives, extra, missed), strict=True):
        pen.text((x, y), text, fill=color if number else _FAINT, font=_font(14))
        x += pen.textlength(text, font=_font(14)) + 18
    if item.prediction.parse.failure is not None:
        pen.text((x, y + 2), f"does not parse: {item.prediction.parse.failure}", fill=WRONG, font=_font(11))


def _draw_header(pen: ImageDraw.ImageDraw, title: str) -> None:
    pen.text((_GAP, 10), title, fill=_INK, font=_font(18))
    x = float(_GAP)
    legend = (
        (CLOSE, False, f"prediction, IoU ≥ {CLOSE_IOU}"),
        (LOOSE, False, "prediction, IoU ≥ 0.5"),
        (WRONG, False, "wrong prediction"),
        (FOUND, True, "ground truth"),
        (MISSED, True, "ground truth, missed"),
    )
    for color, dashed, text in legend:
        outline = _dashed if dashed else _solid
        outline(pen, (x + 2, 45, x + 26, 59), color)
        pen.text((x + 34, 52), text, fill=_INK, font=_font(12), anchor="lm")
        x += 34 + pen.textlength(text, font=_font(12)) + 22


def _shortened(text: str, limit: int) -> str:
    return text if len(text) <= limit else "…" + text[-(limit - 1) :]


@lru_cache(maxsize=8)
def _font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(Path(get_data_path()) / "fonts/ttf/DejaVuSans.ttf", size)


def pick_examples(truth: Sequence[ImageTruth], count: int) -> tuple[int, ...]:
    """Indices of `count` images spread evenly over the set, in order: the gallery shows neither the best nor the
    first.
    """
    if count >= len(truth):
        return tuple(range(len(truth)))
    return tuple(number * len(truth) // count for number in range(count))
