"Boxes: against wsolevaluation's recorded answers and counted pixels, wrong input, there and back"
from pathlib import Path

import numpy as np
import pytest
from numba import njit

from locloc.boxes import box_iou, boxes_from_map, centred_box, crop_boxes, on_compiling, scale_boxes

golden = np.load(Path(__file__).parent/"golden/wsol_metrics_a.npz")


def golden_boxes(contours):
    "Of each map at each threshold"
    return [boxes_from_map(one, golden["thresholds"], contours, inclusive=True) for one in golden["maps"]]


def test_largest_contour_boxes_equal_wsolevaluation():
    ours = [np.concatenate(boxes) for boxes in golden_boxes("largest")]
    np.testing.assert_array_equal(ours, golden["largest_contour_boxes"])


def test_contour_counts_equal_wsolevaluation():
    ours = [[len(some) for some in boxes] for boxes in golden_boxes("all")]
    np.testing.assert_array_equal(ours, golden["n_contours"])


def test_accuracy_of_the_largest_contour_equals_wsolevaluation():
    hits = []
    for boxes, true_boxes in zip(golden["largest_contour_boxes"], golden["gt_boxes"], strict=True):
        known = true_boxes[true_boxes[:, 0] >= 0]
        hits.append(box_iou(boxes, known, inclusive=True).max(1) >= .5)
    recorded = golden["box_acc_iou50_single"]
    np.testing.assert_allclose(np.mean(hits, 0) * (100 if recorded.max() > 1 else 1), recorded)


def test_half_open_differs_only_at_the_far_edge():
    half_open = np.concatenate(boxes_from_map(golden["maps"][0], golden["thresholds"]))
    inclusive = np.concatenate(boxes_from_map(golden["maps"][0], golden["thresholds"], inclusive=True))
    np.testing.assert_array_equal(np.minimum(half_open, 63), inclusive)
    assert half_open.max() == 64


def counted_iou(boxes, inclusive):
    "Of each box with each, by counting the pixels of a 20 x 20 picture"
    y, x = np.mgrid[:20, :20]
    inside = []
    for x0, y0, x1, y1 in boxes + np.array([0, 0, inclusive, inclusive]):
        inside.append((x >= x0) & (x < x1) & (y >= y0) & (y < y1))
    return [[(p & q).sum() / max((p | q).sum(), 1) for q in inside] for p in inside]


@pytest.mark.parametrize("inclusive", [False, True])
def test_iou_against_counted_pixels(inclusive):
    corners = np.random.default_rng(0).integers(0, 20, (30, 2, 2))
    boxes = np.sort(corners, axis=1).reshape(-1, 4) # (30, 2 corners, xy) -> x0 y0 x1 y1
    np.testing.assert_allclose(box_iou(boxes, boxes, inclusive), counted_iou(boxes, inclusive))


@pytest.mark.parametrize("boxes", [[1, 2, 3], [[0, 0, 1]], [5, 5, 1, 9], [0, 0, np.nan, 1], np.zeros((1, 1, 4))])
def test_wrong_boxes_are_refused(boxes):
    with pytest.raises(ValueError, match="boxes must be"):
        box_iou(boxes, [0, 0, 1, 1])


@pytest.mark.parametrize("score_map", [
    np.full((4, 4), 1.5), np.full((4, 4), -.1), np.full((4, 4), np.nan),
    np.zeros((4, 4), np.uint8), np.zeros((1, 4, 4)), np.zeros((0, 4))])
def test_wrong_maps_are_refused(score_map):
    with pytest.raises(ValueError, match="score_map must be"):
        boxes_from_map(score_map, .5)


def test_other_contours_are_refused():
    with pytest.raises(ValueError, match="contours"):
        boxes_from_map(np.eye(4), .5, contours="both")


def test_thresholds_above_one_are_refused():
    with pytest.raises(ValueError, match="thresholds"):
        boxes_from_map(np.eye(4), 50)


def test_scaled_there_and_back_boxes_are_the_same():
    boxes = np.array([[3., 4, 50, 60], [0, 0, 100, 80]])
    there = scale_boxes(boxes, (80, 100), (224, 224))
    np.testing.assert_allclose(scale_boxes(there, (224, 224), (80, 100)), boxes)


def test_cropped_boxes_stay_inside_the_crop():
    cropped = crop_boxes([[0, 0, 5, 5], [8, 8, 30, 30]], [10, 10, 20, 20])
    np.testing.assert_array_equal(cropped, [[0, 0, 0, 0], [0, 0, 10, 10]])


def test_no_boxes_can_be_cropped():
    assert crop_boxes(np.zeros((0, 4)), [0, 0, 5, 5]).shape == (0, 4)


def test_a_centred_box_of_half_the_sides_is_a_quarter_of_the_picture():
    assert box_iou(centred_box((80, 100), .5), [0, 0, 100, 80])[0, 0] == .25


def test_a_compilation_is_told_once():
    double, said = njit(lambda x: 2*x), []
    with on_compiling(lambda: said.append("compiling")):
        assert double(1) == 2 and double(1.5) == 3.
    assert said == ["compiling"]
    with on_compiling(lambda: said.append("again")):
        double(2)
    assert said == ["compiling"]
