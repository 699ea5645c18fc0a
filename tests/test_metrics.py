"MaxBoxAcc against wsolevaluation's recorded figures; counters that survive several processes."
import json
import pathlib
import socket

import cv2
import numpy as np
import pytest
import torch.distributed as dist
import torch.multiprocessing as mp

from locloc.boxes import boxes_from_map
from locloc.metrics import (
    ErrorTypes,
    LocalizationAccuracy,
    MaxBoxAcc,
    MaxBoxAccV2,
    PxAP,
    best_ious,
    error_type,
    mask_iou,
    right_at,
    share_interval,
)

golden = pathlib.Path(__file__).parent / "golden"
data = np.load(golden / "wsol_metrics_a.npz")
said = json.loads((golden / "wsol_metrics_a.json").read_text())


def run(metric):
    for score_map, boxes in zip(data["maps"], data["gt_boxes"], strict=True):
        metric.update(score_map, boxes[(boxes >= 0).all(1)])
    return metric


def test_max_box_acc_equals_wsolevaluation():
    metric = run(MaxBoxAcc())
    assert np.array_equal(metric.curve()[0], data["box_acc_iou50_single"])
    assert metric.compute()["MaxBoxAcc"] == said["max_box_acc"] == 90


def test_max_box_acc_v2_equals_wsolevaluation():
    metric = run(MaxBoxAccV2())
    assert np.array_equal(metric.curve(), [data[f"box_acc_iou{n}_multi"] for n in (30, 50, 70)])
    result = metric.compute()
    assert list(result["per_iou"].values()) == said["max_box_acc_v2"]
    assert result["MaxBoxAcc"] == pytest.approx(said["max_box_acc_v2_mean"], abs=1e-12)


def test_the_convention_matters():
    assert not np.array_equal(run(MaxBoxAcc(inclusive=False)).curve()[0], data["box_acc_iou50_single"])


@pytest.mark.parametrize("scores, label", [([1, np.nan], 0), ([[1, 2]], 0), ([1, 2], 2), ([1, 2], -1)])
def test_bad_scores_are_refused(scores, label):
    with pytest.raises(ValueError):
        LocalizationAccuracy().update(scores, label)


def share(rank, world, port, results):
    if world > 1:
        dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=world)
    loc, box, pixels, errors = LocalizationAccuracy(), MaxBoxAcc(thresholds=[.5]), PxAP(), ErrorTypes()
    for i in range(rank, 5, world):
        loc.update(np.eye(3)[i % 3], label=0, iou=.2*i)
        box.update(np.eye(8), [[0, 0, 7 if i < 3 else 2, 7 if i < 3 else 2]])
        pixels.update(data["maps"][i], data["masks"][i])
        errors.update([0, 0, 7, 7], [[0, 0, 7, 7 if i < 3 else 2]], class_right=i > 0)
    loc.compute()  # asked twice: the counters stay local
    results[rank] = loc.compute(), loc.intervals(), box.compute(), pixels.compute(), errors.compute()
    if world > 1:
        dist.destroy_process_group()


def test_two_processes_agree_with_one():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    with mp.Manager() as manager:
        results = manager.dict()
        mp.spawn(share, args=(2, port, results), nprocs=2)
        share(0, 1, port, alone := {})
        assert results[0] == results[1] == alone[0]
        loc, _, box, _, _ = results[0]
    assert loc == {"Top-1 Loc": 20, "Top-5 Loc": 40, "GT-known Loc": 40, "Top-1 Cls": 40, "Top-5 Cls": 100}
    assert box["MaxBoxAcc"] == 60


# the sweep, PxAP, intervals, kinds of errors

def test_pxap_equals_wsolevaluation():
    metric = PxAP()
    for score_map, mask in zip(data["maps"], data["masks"], strict=True):
        metric.update(score_map, mask)
    assert abs(metric.compute() - said["pxap"]) <= 1e-9


def random_boxes(rng, size):
    "Two boxes in a map, (2, 4) x0 y0 x1 y1"
    h, w = size
    x, y = np.sort(rng.integers(0, w, (2, 2))), np.sort(rng.integers(0, h, (2, 2)))
    return np.stack([x[:, 0], y[:, 0], x[:, 1] + 1, y[:, 1] + 1], 1)


@pytest.mark.parametrize("inclusive", [True, False])
@pytest.mark.parametrize("contours", ["largest", "pixels", "all"])
def test_sweep_equals_drawing_every_box(inclusive, contours):
    rng, thresholds, ious = np.random.default_rng(0), np.arange(0, 1.01, .01), (.3, .5, .7)
    for score_map in [*data["maps"][:20], np.zeros((9, 9)), np.ones((9, 9)), np.eye(9)]:
        truth = random_boxes(rng, score_map.shape)
        drawn = best_ious(boxes_from_map(score_map, thresholds, contours, inclusive), truth, inclusive)
        found = right_at(score_map, thresholds, truth, ious, contours, inclusive)
        assert np.array_equal(found, [drawn >= iou for iou in ious])


@pytest.mark.parametrize("blur", [0, .5, 1.5, 4])
def test_sweep_of_any_shape_equals_drawing(blur):
    rng, thresholds, ious = np.random.default_rng(int(10 * blur)), np.arange(0, 1, .01), (.3, .5, .7)
    for turn in range(150):
        h, w = rng.integers(1, 40, 2)
        score_map = rng.random((h, w))
        if blur:
            score_map = cv2.GaussianBlur(score_map, (0, 0), blur).reshape(h, w)
        score_map = (score_map - score_map.min()) / max(np.ptp(score_map), 1e-9)
        if turn % 3 == 0:
            score_map = np.round(4 * score_map) / 4 # many equal areas
        truth, inclusive = random_boxes(rng, (h, w)), bool(turn % 2)
        for contours in ("largest", "all"):
            drawn = best_ious(boxes_from_map(score_map, thresholds, contours, inclusive), truth, inclusive)
            found = right_at(score_map, thresholds, truth, ious, contours, inclusive)
            assert np.array_equal(found, [drawn >= iou for iou in ious])


def test_a_ring_round_the_largest_part_is_seen():
    y, x = np.mgrid[:40, :40]
    distance = np.hypot(x - 20, y - 20)
    score_map = np.select([distance < 9, distance < 11, distance < 13], [1, .2, .6], 0.) # a disc, a moat, a wall
    thresholds, truth = np.arange(0, 1, .05), [[8, 8, 33, 33]]
    drawn = best_ious(boxes_from_map(score_map, thresholds), truth) >= .5
    assert drawn[5] and not drawn[-1] and np.array_equal(right_at(score_map, thresholds, truth)[0], drawn)


def test_outer_outlines_are_enough():
    rng = np.random.default_rng(1)
    for size in (5, 12, 40):
        for share in (.3, .5, .7, .9):
            kept = (rng.random((size, size)) < share).astype(np.uint8)
            found = cv2.findContours(kept, cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)[0]
            x, y, w, h = cv2.boundingRect(max(found, key=cv2.contourArea))
            assert boxes_from_map(kept > 0, .5)[0].tolist() == [[x, y, x + w, y + h]]


@pytest.mark.parametrize("box, truths, kind", [
    ([0, 0, 10, 10], [[0, 0, 10, 10]], "right"),
    ([0, 0, 5, 5], [[0, 0, 10, 10]], "part"),
    ([0, 0, 40, 40], [[0, 0, 10, 10]], "too large"),
    ([0, 0, 30, 10], [[0, 0, 10, 10], [20, 0, 30, 10]], "several objects"),
    ([50, 50, 60, 60], [[0, 0, 10, 10]], "wrong place"),
    ([0, 0, 0, 0], [[0, 0, 10, 10]], "wrong place"),
    ([0, 0, 10, 10], [[5, 5, 5, 5]], "wrong place"),
])
def test_error_types(box, truths, kind):
    assert error_type(box, truths) == kind
    assert error_type(box, truths, class_right=False) == "wrong class"


def test_masks_that_share_half_of_what_they_cover():
    upper, middle = np.zeros((2, 6, 6), dtype=bool)
    assert mask_iou(upper, middle) == 1 # two empty masks agree
    upper[:3] = True
    assert mask_iou(upper, middle) == 0
    middle[1:4] = True
    assert mask_iou(upper, middle) == mask_iou(middle, upper) == .5


@pytest.mark.parametrize("wrong", [[-.5], [np.nan], []])
@pytest.mark.parametrize("metric", [MaxBoxAcc, PxAP])
def test_bad_thresholds_are_refused(metric, wrong):
    with pytest.raises(ValueError, match="thresholds"):
        metric(thresholds=wrong)


def test_pxap_wants_ascending_thresholds():
    with pytest.raises(ValueError, match="ascend"):
        PxAP([.5, .2])


@pytest.mark.parametrize("wrong", [[[5, 5, 1, 9]], [[0, 0, np.nan, 1]]])
def test_bad_true_boxes_are_refused(wrong):
    with pytest.raises(ValueError, match="finite"):
        right_at(np.eye(9), .5, wrong)


def test_bad_ious_are_refused():
    with pytest.raises(ValueError, match="ious"):
        right_at(np.eye(9), .5, [[0, 0, 4, 4]], ious=())
    with pytest.raises(ValueError, match="iou must"):
        LocalizationAccuracy().update(None, iou=np.nan)


def test_scores_want_a_label():
    with pytest.raises(ValueError, match="label"):
        LocalizationAccuracy().update([1, 2, 3])


def test_what_is_refused_is_not_counted():
    metric = LocalizationAccuracy()
    with pytest.raises(ValueError, match="label"):
        metric.update([1, 2, 3], iou=.9)
    assert metric.compute() == {}


def test_nothing_seen():
    with pytest.raises(ValueError, match="no picture"):
        share_interval(0, 0)
    assert np.isnan(MaxBoxAcc().compute()["MaxBoxAcc"])
    with pytest.raises(ValueError, match="no true pixels"):
        PxAP().compute()


@pytest.mark.parametrize("score_map, mask, why", [
    (np.zeros((4, 4)), np.full((4, 4), 2), "255"),
    (np.zeros((4, 4)), np.zeros((4, 5)), "must be"),
    (np.full((4, 4), np.nan), np.zeros((4, 4)), "finite"),
])
def test_bad_masks_and_maps_are_refused(score_map, mask, why):
    with pytest.raises(ValueError, match=why):
        PxAP().update(score_map, mask)
