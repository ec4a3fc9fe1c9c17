"""Draws ground truth and predictions over their images. In: pictures and boxes in pixels; out: pictures (RGB).

A dashed outline is ground truth (dark: found, magenta: missed), a solid one a prediction, coloured by the IoU of its
match, or light where it counts neither way; a hatched area is not scored. Contract ids: EVAL-010, EVAL-017, EVAL-047,
EVAL-076.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from matplotlib import get_data_path
from PIL import Image, ImageDraw, ImageFont

from coordexp.evaluation.matching import Judgement, judge_image
from coordexp.evaluation.plain_text import plain
from coordexp.evaluation.types import IOU_THRESHOLD, Box, Detection, ImagePrediction, ImageTruth, MatchCounts

if TYPE_CHECKING:
    from collections.abc import Sequence

Color = tuple[int, int, int]
CLOSE_IOU = 0.75
CLOSE, LOOSE, WRONG, MISSED, FOUND = (16, 150, 72), (232, 150, 0), (220, 30, 40), (200, 0, 190), (70, 70, 78)
IGNORED = (140, 146, 156)
_PAGE, _CARD, _INK, _FAINT = (244, 245, 247), (255, 255, 255), (28, 30, 34), (104, 108, 116)
_GAP, _HEADER, _CAPTION = 16, 76, 52
_LEGEND_ROW, _LABEL_LETTERS, _TITLE_LETTERS = 24, 40, 120
_LABEL_HEIGHT = 17
_LEGEND_WIDTH = 848
_LEAST_SIDE, _MOST_SIDE, _BAND = 480, 1600, 24
KINDS = ((16, 110, 210), (16, 140, 72), (196, 70, 0), (150, 40, 170), (0, 128, 140), (190, 24, 60), (110, 90, 0))
"""Colours of descriptions where a box is neither right nor wrong."""


@dataclass(frozen=True, eq=False)
class GalleryItem:
    """One image with what is on it and what was answered; `picture` has the size that `truth` states.

    `caption` names it; None stands for its sample id. `stated` is how the answer was judged elsewhere, such as in
    training; None has it judged here, as an evaluation does.
    """

    picture: Image.Image
    truth: ImageTruth
    prediction: ImagePrediction
    caption: str | None = None
    stated: Judgement | None = None

    @cached_property
    def judgement(self) -> Judgement:
        """With what each prediction is matched, and which count neither way."""
        return judge_image(self.truth, self.prediction.detections) if self.stated is None else self.stated

    @property
    def counts(self) -> MatchCounts:
        """How many predictions and objects ended how."""
        return self.judgement.count(len(self.truth.objects), len(self.prediction.detections))

    @property
    def partial(self) -> bool:
        """Whether something of it is not scored."""
        return bool(self.truth.ignore or self.judgement.ignored) or self.truth.verified_absent is not None


def render_gallery(items: Sequence[GalleryItem], *, columns: int = 4, tile: int = 384, title: str = "") -> Image.Image:
    """A grid of `items` in the order given, each scaled to fit `tile` x `tile` pixels, with a legend above.

    Raises `ValueError` without items or for a picture of another size than its ground truth states.
    """
    if not items:
        raise ValueError("a gallery needs at least one image")
    columns = min(columns, len(items))
    rows = -(-len(items) // columns)
    width = max(columns * (tile + _GAP) + _GAP, _LEGEND_WIDTH)
    partial = any(item.partial for item in items)
    stated = any(item.stated is not None for item in items)
    header = _HEADER + _LEGEND_ROW * partial
    page = Image.new("RGB", (width, header + rows * (tile + _CAPTION + _GAP)), _PAGE)
    pen = ImageDraw.Draw(page)
    _draw_header(pen, title, partial=partial, stated=stated)
    for number, item in enumerate(items):
        left = _GAP + (number % columns) * (tile + _GAP)
        top = header + (number // columns) * (tile + _CAPTION + _GAP)
        pen.rounded_rectangle(
            (left - 1, top - 1, left + tile, top + tile + _CAPTION), 6, fill=_CARD, outline=(218, 220, 224)
        )
        _draw_item(page, item, (left, top), tile)
    return page


def draw_picture(item: GalleryItem, tile: int) -> Image.Image:
    """The picture of `item` alone with all that is drawn on it, scaled to fit `tile` x `tile` pixels.

    Raises `ValueError` for a picture of another size than its ground truth states.
    """
    width, height = item.truth.width, item.truth.height
    if item.picture.size != (width, height):
        raise ValueError(
            f"sample {item.truth.sample_id}: the picture is {item.picture.size}, its ground truth {(width, height)}"
        )
    scale = min(tile / width, tile / height)
    size = (round(width * scale), round(height * scale))
    canvas = item.picture.convert("RGB").resize(size, Image.Resampling.BICUBIC)
    _draw_boxes(canvas, item, _edge_scales(size, (width, height)))
    return canvas


def _edge_scales(size: tuple[int, int], own: tuple[int, int]) -> tuple[float, float]:
    """Of a canvas of `size` over a picture of size `own`: a box lies in 0..width-1, as bins do, and its last coordinate
    is the canvas's last column.
    """
    width, height = own
    return ((size[0] - 1) / max(1, width - 1), (size[1] - 1) / max(1, height - 1))


def _draw_item(page: Image.Image, item: GalleryItem, corner: tuple[int, int], tile: int) -> None:
    canvas = draw_picture(item, tile)
    width, height = canvas.size
    page.paste(canvas, (corner[0] + (tile - width) // 2, corner[1] + (tile - height) // 2))
    _draw_caption(ImageDraw.Draw(page), item, (corner[0] + 12, corner[1] + tile + 6))


def _draw_boxes(canvas: Image.Image, item: GalleryItem, scale: tuple[float, float]) -> None:
    """Outline everything, then label, so that no outline crosses a label."""
    truth, ignored = item.truth.objects, item.judgement.ignored
    iou = {match.prediction: match.iou for match in item.judgement.matches}
    seen = {match.truth for match in item.judgement.matches}
    shown = [
        (found, iou.get(number), IGNORED if number in ignored else _color(iou.get(number)))
        for number, found in enumerate(item.prediction.detections)
    ]
    pen, placed = ImageDraw.Draw(canvas), list[Box]()
    for region in item.truth.ignore:
        _hatched(pen, _scaled(region.box, scale))
    for number, obj in enumerate(truth):
        _dashed(pen, _scaled(obj.box, scale), FOUND if number in seen else MISSED)
    for found, _, color in shown:
        _solid(pen, _scaled(found.box, scale), color)
    for found, fit, color in shown:
        name = plain(found.desc, _LABEL_LETTERS)
        _label(pen, _scaled(found.box, scale), name if fit is None else f"{name} {fit:.2f}", color, placed)
    for number, obj in enumerate(truth):
        if number not in seen:
            _label(pen, _scaled(obj.box, scale), f"missed: {plain(obj.desc, _LABEL_LETTERS)}", MISSED, placed)


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


def _hatched(pen: ImageDraw.ImageDraw, box: Box) -> None:
    """A dotted outline with thin slanted lines inside, cut to the picture."""
    width, height = pen.im.size
    x1, y1, x2, y2 = max(0.0, box[0]), max(0.0, box[1]), min(width - 1.0, box[2]), min(height - 1.0, box[3])
    if x2 < x1 or y2 < y1:
        return
    step = 10.0
    start = x1 + y1 + step
    while start < x2 + y2:
        top, bottom = max(y1, start - x2), min(y2, start - x1)
        pen.line((start - top, top, start - bottom, bottom), fill=IGNORED, width=1)
        start += step
    for fixed in (y1, y2):
        pen.point([(x1 + at, fixed) for at in range(0, int(x2 - x1) + 1, 3)], fill=IGNORED)
    for fixed in (x1, x2):
        pen.point([(fixed, y1 + at) for at in range(0, int(y2 - y1) + 1, 3)], fill=IGNORED)


def _dashed(pen: ImageDraw.ImageDraw, box: Box, color: Color) -> None:
    x1, y1, x2, y2 = box
    dash, gap = 7.0, 5.0
    for start, stop, fixed, across in (
        (x1, x2, y1, True),
        (x1, x2, y2, True),
        (y1, y2, x1, False),
        (y1, y2, x2, False),
    ):
        # A box may lie far outside, and nobody waits for dashes there.
        at = max(start, -dash)
        while at < min(stop, max(pen.im.size) + dash):
            end = min(at + dash, stop)
            line = (at, fixed, end, fixed) if across else (fixed, at, fixed, end)
            pen.line(line, fill=(255, 255, 255), width=5)
            pen.line(line, fill=color, width=3)
            at += dash + gap


def _label(pen: ImageDraw.ImageDraw, box: Box, text: str, color: Color, placed: list[Box]) -> None:
    """A tag at the box: above it, else inside its top, below it or inside its bottom, where none is."""
    canvas_width, canvas_height = pen.im.size
    font = load_font(12)
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


def _draw_caption(pen: ImageDraw.ImageDraw, item: GalleryItem, corner: tuple[int, int]) -> None:
    caption = plain(item.truth.sample_id if item.caption is None else item.caption)
    pen.text(corner, _shortened(caption, 46), fill=_FAINT, font=load_font(11))
    x, y = float(corner[0]), corner[1] + 18
    counts = item.counts
    parts = [
        (counts.true_positives, "found", CLOSE),
        (counts.false_positives, "wrong", WRONG),
        (counts.false_negatives, "missed", MISSED),
    ]
    if item.partial:
        parts.append((counts.ignored, "not scored", IGNORED))
    for number, name, color in parts:
        text = f"{number} {name}"
        pen.text((x, y), text, fill=color if number else _FAINT, font=load_font(14))
        x += pen.textlength(text, font=load_font(14)) + 18
    if item.prediction.parse.failure is not None:
        fault = plain(item.prediction.parse.failure, _LABEL_LETTERS)
        pen.text((x, y + 2), f"does not parse: {fault}", fill=WRONG, font=load_font(11))


def _draw_header(pen: ImageDraw.ImageDraw, title: str, *, partial: bool, stated: bool) -> None:
    pen.text((_GAP, 10), plain(title, _TITLE_LETTERS), fill=_INK, font=load_font(18))
    legend = (
        (_solid, CLOSE, f"prediction, IoU ≥ {CLOSE_IOU}"),
        # Training may match at less.
        (_solid, LOOSE, "prediction, matched" if stated else f"prediction, IoU ≥ {IOU_THRESHOLD}"),
        (_solid, WRONG, "wrong prediction"),
        (_dashed, FOUND, "ground truth"),
        (_dashed, MISSED, "ground truth, missed"),
    )
    x = float(_GAP)
    for outline, color, text in legend:
        outline(pen, (x + 2, 45, x + 26, 59), color)
        x = _draw_legend_text(pen, (x, 52), text)
    if partial:
        _hatched(pen, (_GAP + 2, 69, _GAP + 26, 83))
        x = _draw_legend_text(pen, (_GAP, 76), "region that is not scored")
        _solid(pen, (x + 2, 69, x + 26, 83), IGNORED)
        _draw_legend_text(
            pen, (x, 76), "prediction that counts neither way: in such a region, or of a category nobody looked for"
        )


def _draw_legend_text(pen: ImageDraw.ImageDraw, at: tuple[float, float], text: str) -> float:
    """Write beside the sign at `at`; returns where the next sign begins."""
    pen.text((at[0] + 34, at[1]), text, fill=_INK, font=load_font(12), anchor="lm")
    return at[0] + 34 + pen.textlength(text, font=load_font(12)) + 22


def _shortened(text: str, limit: int) -> str:
    return text if len(text) <= limit else "…" + text[-(limit - 1) :]


@lru_cache(maxsize=8)
def load_font(size: int) -> ImageFont.FreeTypeFont:
    """The font of captions and labels, read once."""
    return ImageFont.truetype(Path(get_data_path()) / "fonts/ttf/DejaVuSans.ttf", size)


def pick_examples(truth: Sequence[ImageTruth], count: int) -> tuple[int, ...]:
    """Indices of `count` images spread evenly over the set, in order: the gallery shows neither the best nor the
    first.
    """
    if count >= len(truth):
        return tuple(range(len(truth)))
    return tuple(number * len(truth) // count for number in range(count))


def render_answer(
    picture: Image.Image, detections: Sequence[Detection], caption: str, failure: str | None = None
) -> Image.Image:
    """The picture with every box of an answer, its description and its score, where nothing is known of the truth.

    Boxes are in pixels of `picture`, which is drawn smaller or larger where its size needs that; a colour stands for a
    description. Below it stand how many boxes there are, the `failure` of an answer that does not parse, and `caption`.
    """
    width, height = picture.size
    longest = max(width, height)
    scale = min(max(longest, _LEAST_SIDE), _MOST_SIDE) / longest
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    canvas = picture.convert("RGB").resize(size, Image.Resampling.BICUBIC)
    scales = _edge_scales(size, picture.size)
    pen, placed = ImageDraw.Draw(canvas), list[Box]()
    kinds = list(dict.fromkeys(found.desc for found in detections))
    shown = [(found, _scaled(found.box, scales), KINDS[kinds.index(found.desc) % len(KINDS)]) for found in detections]
    for _, box, color in shown:
        _solid(pen, box, color)
    for found, box, color in shown:
        _label(pen, box, f"{plain(found.desc, _LABEL_LETTERS)} {found.score:.2f}", color, placed)
    return _with_caption(canvas, plain(caption), len(shown), failure)


def _with_caption(canvas: Image.Image, caption: str, boxes: int, failure: str | None) -> Image.Image:
    page = Image.new("RGB", (max(canvas.width, _LEAST_SIDE), canvas.height + _BAND), _CARD)
    page.paste(canvas, ((page.width - canvas.width) // 2, 0))
    pen, font = ImageDraw.Draw(page), load_font(12)
    left = f"{boxes} object{'' if boxes == 1 else 's'}"
    fault = "" if failure is None else f"does not parse: {failure}"
    x, y = 8.0, canvas.height + _BAND / 2
    for text, color in ((left, _INK), (fault, WRONG)):
        pen.text((x, y), text, fill=color, font=font, anchor="lm")
        x += (pen.textlength(text, font=font) + 16) if text else 0
    letters = len(caption)
    while letters > 1 and pen.textlength(_shortened(caption, letters), font=font) > page.width - x - 8:
        letters -= 1
    pen.text((x, y), _shortened(caption, letters), fill=_FAINT, font=font, anchor="lm")
    return page
