"Sweeps: many settings on the same attention maps, in threads, in processes, judged alike"
import gc
import os
import weakref
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from locloc.attention import load_attention
from locloc.boxes import box_iou, boxes_from_map
from locloc.data import Dataset, load_dataset
from locloc.masks import GrabCutParams, grabcut_mask, preset
from locloc.sweeps import Grid, choose_params, kept_sweeps, sweep
from locloc.workbench import Setting, Workbench

SCENES = load_dataset("scenes", split="test", count=6)
REAL = os.environ.get("LOCLOC_REAL", "") # a folder of photographs


def test_sweep_in_threads_is_the_same():
    grid, one, two = Grid((.1,), (.4, .7)), Workbench(SCENES), Workbench(SCENES)
    alone, together = (sweep(bench, range(4), Setting(), grid, workers=n) for bench, n in ((one, 1), (two, 3)))
    for (i, values), (j, same) in zip(alone, together, strict=True):
        assert i == j
        assert np.array_equal(values, same, equal_nan=True)


def test_what_was_measured_is_kept_as_long_as_its_bench():
    bench, grid = Workbench(SCENES), Grid((.1,), (.4,))
    list(sweep(bench, range(2), Setting(), grid))
    list(sweep(bench, range(3), replace(Setting(), params=GrabCutParams(.3, .9, Setting().params.split)), grid))
    assert kept_sweeps(bench).made == 3
    assert kept_sweeps(Workbench(SCENES)).made == 0
    gone = weakref.ref(bench)
    del bench
    gc.collect()
    assert gone() is None


def test_choose_params_agrees_with_one_by_one():
    dataset, params = load_dataset("scenes", count=3), GrabCutParams(.1, .6, split=.3)
    rows = choose_params(dataset, grid=[params], thresholds=(.3, .9), batch_size=2, progress=False)
    ious, hits = [], []
    for sample in dataset:
        mask = grabcut_mask(sample.picture, load_attention("lowlevel")(sample.picture[None])[0], params)
        ious.append((sample.mask & mask).sum() / (sample.mask | mask).sum())
        box = boxes_from_map(mask, .5, inclusive=True)[0]
        hits.append(box_iou(box, sample.boxes, inclusive=True).max() >= .5)
    (cut,) = (row for row in rows if row["method"] == "GrabCut")
    assert cut["setting"] == params
    assert cut["mask_iou"] == pytest.approx(100 * np.mean(ious))
    assert cut["gt_known"] == pytest.approx(100 * np.mean(hits))


def test_choose_params_puts_the_best_first():
    rows = choose_params(SCENES.subset(3), grid=[GrabCutParams(.1, .6, .3)], thresholds=(.3, .9), progress=False)
    assert len(rows) == 3
    assert [row["mask_iou"] for row in rows] == sorted((row["mask_iou"] for row in rows), reverse=True)


def test_choose_params_in_processes_is_the_same():
    how = dict(grid=[GrabCutParams(.1, .6, .3)], thresholds=(.3,), batch_size=1, progress=False)
    assert choose_params(SCENES.subset(2), workers=2, **how) == choose_params(SCENES.subset(2), **how)


def test_choose_params_by_boxes_where_masks_are_not_known():
    dataset = load_dataset("scenes", count=2)
    without_masks = [replace(sample, open_mask=None) for sample in dataset]
    boxes_only = Dataset("boxes", "train", dataset.classes, without_masks, dataset.labels)
    rows = choose_params(boxes_only, grid=[GrabCutParams(.1, .6, .3)], thresholds=(.05, .3), progress=False)
    assert all(np.isnan(row["mask_iou"]) for row in rows)
    assert rows[0]["gt_known"] == max(row["gt_known"] for row in rows)


@pytest.mark.skipif(not os.path.isdir(REAL), reason="LOCLOC_REAL does not name a folder of photographs")
def test_photographs_grabcut_beats_the_hard_threshold():
    thresholds = preset("lowlevel")
    dataset = load_dataset(Path(REAL)/"cub20", split="test")
    rows = choose_params(dataset, grid=[thresholds.params], thresholds=(thresholds.ppd,), workers=2)
    found = {row["method"]: row["gt_known"] for row in rows}
    assert found["GrabCut"] >= 78
    assert found["GrabCut"] > found["PPD"] + 5
