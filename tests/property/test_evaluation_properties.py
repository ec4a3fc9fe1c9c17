"""F1 against brute force; order never matters; perfect and empty predictions give the extremes."""

from __future__ import annotations

from itertools import combinations, permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordexp.evaluation.matching import count_matches, match_image
from coordexp.evaluation.report import evaluate_detections, render_report
from coordexp.evaluation.types import Detection, ImagePrediction, ImageTruth

NAMES = ("cat", "dog")


@st.composite
def detections(draw, most: int = 4):
    """Boxes on a coarse grid, so that IoU of 0.5 exactly, equal boxes and empty boxes occur."""
    found = []
    for _ in range(draw(st.integers(0, most))):
        x, y = draw(st.integers(0, 6)), draw(st.integers(0, 6))
        w, h = draw(st.integers(0, 4)), draw(st.integers(0, 4))
        score = draw(st.sampled_from((0.25, 0.5, 1.0)))
        found.append(
            Detection(draw(st.sampled_from(NAMES)), (10.0 * x, 10.0 * y, 10.0 * (x + w), 10.0 * (y + h)), score)
        )
    return tuple(found)


@st.composite
def image_sets(draw):
    count = draw(st.integers(1, 4))
    truth = [ImageTruth(f"s{i}", 100, 100, draw(detections())) for i in range(count)]
    found = [ImagePrediction(f"s{i}", draw(detections())) for i in range(count)]
    return truth, found


@st.composite
def sampled_sets(draw):
    """An image set with one to three samples for it."""
    truth, found = draw(image_sets())
    count = draw(st.integers(1, 3))
    return truth, found, [[ImagePrediction(t.sample_id, draw(detections())) for t in truth] for _ in range(count)]


def area(box):
    return max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1])


def plain_iou(a, b):
    inner = area((max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])))
    union = area(a) + area(b) - inner
    return inner / union if union > 0 else 0.0


def best_pairs(truth, found, class_aware):
    """Most pairs, then the largest sum of IoU, over every one-to-one assignment."""
    best = (0, 0.0)
    for size in range(1, min(len(truth), len(found)) + 1):
        for some in combinations(range(len(found)), size):
            for other in permutations(range(len(truth)), size):
                pairs = [(found[p], truth[t]) for p, t in zip(some, other, strict=True)]
                ious = [plain_iou(p.box, t.box) for p, t in pairs]
                if min(ious) >= 0.5 and (not class_aware or all(p.desc == t.desc for p, t in pairs)):
                    best = max(best, (size, sum(ious)))
    return best


@pytest.mark.invariant("EVAL-001")
@given(detections(), detections(), st.booleans())
def test_matching_equals_the_best_of_all_assignments(truth, found, class_aware):
    pairs, total = best_pairs(truth, found, class_aware)
    matches = match_image(truth, found, class_aware=class_aware)
    assert len(matches) == pairs
    assert sum(match.iou for match in matches) == pytest.approx(total)
    assert len({m.prediction for m in matches}) == len({m.truth for m in matches}) == pairs
    counts = count_matches(truth, found, class_aware=class_aware)
    assert (counts.true_positives, counts.false_positives, counts.false_negatives) == (
        pairs,
        len(found) - pairs,
        len(truth) - pairs,
    )


@pytest.mark.invariant("EVAL-001")
def test_three_loose_pairs_beat_two_exact_ones():
    truth = tuple(Detection("cat", (x, 0, x + 10, 10)) for x in (0, 3, 6))
    found = tuple(Detection("cat", (x, 0, x + 10, 10)) for x in (-3, 0, 3))
    assert count_matches(truth, found).true_positives == 3


@pytest.mark.invariant("EVAL-001")
def test_an_overlap_of_exactly_one_half_counts():
    assert count_matches((Detection("cat", (0, 0, 10, 10)),), (Detection("cat", (0, 0, 10, 5)),)).true_positives == 1


@pytest.mark.invariant("EVAL-001")
def test_the_name_must_be_the_same_string_for_detection_and_plays_no_part_in_localization():
    truth, found = (Detection("cat", (0, 0, 10, 10)),), (Detection("Cat", (0, 0, 10, 10)),)
    assert count_matches(truth, found).true_positives == 0
    assert count_matches(truth, found, class_aware=False).true_positives == 1


@pytest.mark.invariant("EVAL-002")
@settings(max_examples=25)
@given(sampled_sets(), st.randoms(use_true_random=False))
def test_no_order_changes_the_report(images, random):
    def shuffled(answers):
        return [
            ImagePrediction(p.sample_id, tuple(random.sample(p.detections, len(p.detections))))
            for p in random.sample(answers, len(answers))
        ]

    truth, found, samples = images
    shuffled_truth = [ImageTruth(t.sample_id, 100, 100, tuple(random.sample(t.objects, len(t.objects)))) for t in truth]
    random.shuffle(shuffled_truth)
    again = evaluate_detections(shuffled_truth, shuffled(found), samples=[shuffled(sample) for sample in samples])
    assert again == evaluate_detections(truth, found, samples=samples)


@pytest.mark.invariant("EVAL-016")
@settings(max_examples=25)
@given(sampled_sets())
def test_each_sample_counts_as_f1_counts_it_and_together_they_never_find_less(images):
    truth, found, samples = images
    report = evaluate_detections(truth, found, samples=samples)
    measured = report.samples
    assert measured.greedy == report.detection.true_positives
    assert list(measured.found) == [evaluate_detections(truth, s).detection.true_positives for s in samples]
    assert measured.found_together[0] == measured.found[0]
    pairs = zip(measured.found_together, measured.found_together[1:], measured.found[1:], strict=False)
    assert all(max(before, own) <= now <= before + own for before, now, own in pairs)
    assert measured.greedy + measured.seen_not_said + measured.not_seen == measured.objects
    render_report(report)


@pytest.mark.invariant("EVAL-002")
def test_equal_scores_are_ranked_alike_whatever_the_order():
    hit, miss = Detection("cat", (0, 0, 10, 10)), Detection("cat", (50, 50, 60, 60))
    truth = [ImageTruth("a", 100, 100, (hit,)), ImageTruth("b", 100, 100, (hit,))]
    first = [ImagePrediction("a", (hit, miss)), ImagePrediction("b", (miss,))]
    second = [ImagePrediction("b", (miss,)), ImagePrediction("a", (miss, hit))]
    assert evaluate_detections(truth, first) == evaluate_detections(truth[::-1], second)


@pytest.mark.invariant("EVAL-005")
@settings(max_examples=25)
@given(st.lists(detections(), min_size=1, max_size=4))
def test_the_ground_truth_itself_scores_one_and_nothing_scores_zero(sets):
    solid = [tuple(d for d in found if area(d.box) > 0) for found in sets]
    # Equal boxes of one name are interchangeable, which COCO and the matching both allow.
    truth = [ImageTruth(f"s{i}", 100, 100, objects) for i, objects in enumerate(solid)]
    perfect = evaluate_detections(truth, [ImagePrediction(t.sample_id, t.objects) for t in truth])
    empty = evaluate_detections(truth, [ImagePrediction(t.sample_id, ()) for t in truth])
    known = any(solid)
    for report, value in ((perfect, 1.0), (empty, 0.0)):
        assert report.detection.f1 == (value if known else None)
        assert report.coco.summary["mAP"] == (pytest.approx(value) if known else None)
        assert report.detection.recall == (value if known else None)
    assert perfect.detection.precision == (1.0 if known else None)
    assert empty.detection.precision is None


@pytest.mark.invariant("EVAL-004")
@settings(max_examples=25)
@given(image_sets())
def test_every_report_fits_its_contract(images):
    document = render_report(evaluate_detections(*images))
    numbers = [
        *document["coco"].values(),
        document["parse_rate"],
        *(document["detection"][k] for k in ("precision", "f1")),
    ]
    assert all(value is None or 0 <= value <= 1 for value in numbers)
