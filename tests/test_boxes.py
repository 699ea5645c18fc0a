import pathlib

import numpy as np
import pytest

from locloc.boxes import box_iou, boxes_from_map, centred_box, crop_boxes, scale_boxes

golden = np.load(pathlib.Path(__file__).parent / "golden/wsol_metrics_a.npz")


def test_largest_contour_boxes_equal_wsolevaluation():
    ours = [np.concatenate(boxes_from_map(m, golden["thresholds"], inclusive=True)) for m in golden["maps"]]
    np.testing.assert_array_equal(ours, golden["largest_contour_boxes"])


def test_contour_counts_equal_wsolevaluation():
    ours = [[len(b) for b in boxes_from_map(m, golden["thresholds"], "all", inclusive=True)] for m in golden["maps"]]
    np.testing.assert_array_equal(ours, golden["n_contours"])


def test_accuracy_of_the_largest_contour_equals_wsolevaluation():
    hits = [(box_iou(boxes, gt[gt[:, 0] >= 0], inclusive=True).max(1) >= .5)
            for boxes, gt in zip(golden["largest_contour_boxes"], golden["gt_boxes"])]
    recorded = golden["box_acc_iou50_single"]
    np.testing.assert_allclose(np.mean(hits, 0) * (100 if recorded.max() > 1 else 1), recorded)


def test_half_open_differs_only_at_the_far_edge():
    half_open = np.concatenate(boxes_from_map(golden["maps"][0], golden["thresholds"]))
    inclusive = np.concatenate(boxes_from_map(golden["maps"][0], golden["thresholds"], inclusive=True))
    np.testing.assert_array_equal(np.minimum(half_open, 63), inclusive)
    assert half_open.max() == 64


def test_iou_against_counted_pixels():
    rng = np.random.default_rng(0)
    boxes = np.sort(rng.integers(0, 20, (30, 2, 2)), axis=1).reshape(-1, 4)
    y, x = np.mgrid[:20, :20]
    inside = [(x >= x0) & (x < x1) & (y >= y0) & (y < y1) for x0, y0, x1, y1 in boxes]
    counted = [[(p & q).sum() / max((p | q).sum(), 1) for q in inside] for p in inside]
    np.testing.assert_allclose(box_iou(boxes, boxes), counted)
    inside = [(x >= x0) & (x <= x1) & (y >= y0) & (y <= y1) for x0, y0, x1, y1 in boxes]
    counted = [[(p & q).sum() / (p | q).sum() for q in inside] for p in inside]
    np.testing.assert_allclose(box_iou(boxes, boxes, inclusive=True), counted)


@pytest.mark.parametrize("boxes", [[1, 2, 3], [[0, 0, 1]], [5, 5, 1, 9], [0, 0, np.nan, 1], np.zeros((1, 1, 4))])
def test_wrong_boxes_are_refused(boxes):
    with pytest.raises(ValueError, match="boxes must be"):
        box_iou(boxes, [0, 0, 1, 1])


@pytest.mark.parametrize("score_map", [np.full((4, 4), 1.5), np.full((4, 4), -.1), np.full((4, 4), np.nan),
                                       np.zeros((4, 4), np.uint8), np.zeros((1, 4, 4)), np.zeros((0, 4))])
def test_wrong_maps_are_refused(score_map):
    with pytest.raises(ValueError, match="score_map must be"):
        boxes_from_map(score_map, .5)


def test_wrong_options_are_refused():
    with pytest.raises(ValueError, match="contours"):
        boxes_from_map(np.eye(4), .5, contours="both")
    with pytest.raises(ValueError, match="thresholds"):
        boxes_from_map(np.eye(4), 50)


def test_scale_there_and_back_and_crop():
    boxes = np.array([[3., 4, 50, 60], [0, 0, 100, 80]])
    np.testing.assert_allclose(scale_boxes(scale_boxes(boxes, (80, 100), (224, 224)), (224, 224), (80, 100)), boxes)
    np.testing.assert_array_equal(crop_boxes([[0, 0, 5, 5], [8, 8, 30, 30]], [10, 10, 20, 20]), [[0, 0, 0, 0], [0, 0, 10, 10]])
    assert crop_boxes(np.zeros((0, 4)), [0, 0, 5, 5]).shape == (0, 4)
    assert box_iou(centred_box((80, 100), .5), [0, 0, 100, 80])[0, 0] == .25
