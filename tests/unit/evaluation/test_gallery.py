"""The gallery: colours say what was found, wrong and missed; sizes and order are kept."""

from __future__ import annotations

from dataclasses import replace

import pytest
from PIL import Image

from coordexp.data.regions import IgnoreRegion
from coordexp.evaluation.gallery import (
    CLOSE,
    FOUND,
    IGNORED,
    LOOSE,
    MISSED,
    WRONG,
    GalleryItem,
    pick_examples,
    render_gallery,
)
from coordexp.evaluation.types import NO_ANSWER, Detection, ImagePrediction, ImageTruth

CAT = Detection("cat", (20, 20, 79, 79))


def item(*found: Detection, failure: str | None = None, size: tuple[int, int] = (96, 128)) -> GalleryItem:
    truth = ImageTruth("a.jsonl:1", 96, 128, (CAT,))
    prediction = ImagePrediction("a.jsonl:1", found, replace(NO_ANSWER, failure=failure))
    return GalleryItem(Image.new("RGB", size, (250, 250, 250)), truth, prediction)


def amount(picture: Image.Image, color: tuple[int, int, int], header: int = 80) -> int:
    """Pixels of exactly `color` below the legend."""
    below = picture.crop((0, header, *picture.size))
    return dict((value, count) for count, value in below.getcolors(1 << 24)).get(color, 0)


@pytest.mark.invariant("EVAL-010")
@pytest.mark.parametrize(
    ("found", "shown", "absent"),
    [
        ((CAT,), [CLOSE], [LOOSE, WRONG, MISSED]),
        ((Detection("cat", (20, 20, 79, 60)),), [LOOSE], [WRONG, MISSED]),
        ((Detection("dog", (20, 20, 79, 79)),), [WRONG, MISSED], [CLOSE, LOOSE, FOUND]),
        ((), [MISSED], [CLOSE, LOOSE, WRONG, FOUND]),
    ],
)
def test_colours_say_how_well_a_prediction_fits(found, shown, absent):
    picture = render_gallery([item(*found)])
    assert all(amount(picture, color) > 100 for color in shown)
    assert all(amount(picture, color) == 0 for color in absent)


@pytest.mark.invariant("EVAL-010")
def test_an_answer_that_does_not_parse_says_so_in_its_caption():
    assert amount(render_gallery([item(CAT)]), WRONG) == 0
    assert amount(render_gallery([item(CAT, failure="wrong_arity")]), WRONG) > 0


def test_sixteen_images_make_four_rows_of_four():
    picture = render_gallery([item(CAT)] * 16, tile=200)
    narrow = render_gallery([item(CAT)] * 4, tile=200)
    assert picture.width == narrow.width
    assert picture.height - narrow.height == 3 * (narrow.height - 76)


def test_labels_of_crowded_small_objects_stay_inside_the_picture():
    tiny = [Detection(f"object {i}", (i, 0, i + 2, 3)) for i in range(30)]
    assert render_gallery([item(*tiny)]).size[0] > 0


def test_a_picture_of_another_size_is_refused():
    with pytest.raises(ValueError, match="the picture is \\(64, 64\\), its ground truth \\(96, 128\\)"):
        render_gallery([item(size=(64, 64))])
    with pytest.raises(ValueError, match="at least one image"):
        render_gallery([])


@pytest.mark.parametrize(
    ("images", "count", "expected"), [(3, 5, (0, 1, 2)), (10, 5, (0, 2, 4, 6, 8)), (5, 5, (0, 1, 2, 3, 4))]
)
def test_examples_are_spread_over_the_set(images, count, expected):
    assert pick_examples([ImageTruth(str(i), 1, 1, ()) for i in range(images)], count) == expected


def ignoring(*found: Detection, **scope) -> Image.Image:
    plain = item(*found)
    return render_gallery([replace(plain, truth=replace(plain.truth, **scope))])


@pytest.mark.invariant("EVAL-047")
def test_what_is_not_scored_is_drawn_gray_and_stands_in_the_legend():
    region = IgnoreRegion("cat", (5, 90, 90, 120))
    inside = Detection("cat", (20, 95, 60, 115))
    hatched = ignoring(CAT, ignore=(region,))
    assert amount(hatched, IGNORED, 105) > 100, "the region"
    assert amount(hatched, WRONG, 105) == 0
    solid = ignoring(CAT, inside, ignore=(region,))
    assert amount(solid, IGNORED, 105) > amount(hatched, IGNORED, 105) + 100 and amount(solid, WRONG, 105) == 0
    wrong = ignoring(CAT, inside, ignore=(replace(region, desc="dog"),))
    assert amount(wrong, WRONG, 105) > 100
    unasked = ignoring(CAT, Detection("emu", (20, 95, 60, 115)), verified_absent=frozenset())
    assert amount(unasked, IGNORED, 105) > 100 and amount(unasked, WRONG, 105) == 0
    plain = render_gallery([item(CAT)])
    assert IGNORED not in dict((value, count) for count, value in plain.getcolors(1 << 24)), "nothing to explain"
    assert IGNORED in dict((value, count) for count, value in solid.crop((0, 66, 848, 90)).getcolors(1 << 24))
    assert solid.height == plain.height + 24 and solid.width == plain.width


@pytest.mark.invariant("EVAL-047")
def test_the_second_row_of_the_legend_ends_on_the_page():
    page = ignoring(CAT, ignore=(IgnoreRegion(None, (0, 0, 9, 9)),))
    row = page.crop((0, 66, page.width, 90))
    ground = row.getpixel((0, 0))
    inked = [x for x in range(row.width) if any(row.getpixel((x, y)) != ground for y in range(row.height))]
    assert inked[-1] < page.width - 16


@pytest.mark.invariant("EVAL-047")
@pytest.mark.parametrize("box", [(-50, -50, 500, 500), (90, 0, 40, 9), (200, 200, 300, 300), (4, 4, 4, 4)])
def test_a_region_of_any_place_and_form_can_be_drawn(box):
    assert ignoring(CAT, ignore=(IgnoreRegion(None, box),)).width > 0
