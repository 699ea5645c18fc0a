"Protocols: boxes and overlaps of 400 random maps, exactly as the evaluators of their authors found them"
from pathlib import Path

import numpy as np
import pytest

from locloc.boxes import box_iou
from locloc.data import get_protocol

golden = np.load(Path(__file__).parent/"golden/evaluators_a.npz")


def moving_mean(field, width, axis):
    "Of whole numbers, rounded down; the border is repeated"
    first, last = (np.repeat(np.take(field, [end], axis), width, axis) for end in (0, -1))
    sums = np.concatenate([first, field, last], axis).cumsum(axis)
    places = np.arange(224)
    return np.take(sums, places + width, axis) - np.take(sums, places, axis)


def draw(width, rng):
    "Soft blobs of 224 x 224, of whole numbers alone, so that every machine draws the same"
    cells = rng.randint(0, 1000, (224//width, 224//width))**2
    if rng.rand() < .5:
        cells = cells*(rng.rand(*cells.shape) < .4)
    field = np.repeat(np.repeat(cells, width, 0), width, 1).astype(np.int64)
    for _ in range(2):
        field = moving_mean(moving_mean(field, width, 0), width, 1)//width**2
    return field.astype(np.float32)


@pytest.fixture(scope="module")
def maps():
    rng, drawn = np.random.RandomState(20), []
    for true_box in golden["true_boxes"]:
        drawn.append(draw([7, 16, 28, 32][rng.randint(4)], rng))
        corners = np.sort(rng.randint(0, 224, (2, 2)), 0) # drawn between the maps
        assert corners.ravel().tolist() == true_box.tolist()
    return drawn


@pytest.mark.parametrize("name", ["wsoleval", "tscam", "locloc", "bas"])
def test_boxes_and_overlaps_are_the_authors(maps, name):
    protocol = get_protocol(name)
    true_boxes = golden["true_boxes"] + (0 if protocol.inclusive else .37) # those of the two others are no integers
    boxes, ious = [], []
    for score_map, true_box in zip(maps, true_boxes, strict=True):
        score_map = protocol.score_map(score_map)
        found = np.concatenate([protocol.found(score_map, one) for one in golden[f"{name}_thresholds"]])
        boxes.append(found)
        ious.append(box_iou(found, true_box[None].astype(np.float64), protocol.end_pixels)[:, 0])
    np.testing.assert_array_equal(boxes, golden[f"{name}_boxes"])
    np.testing.assert_allclose(ious, golden[f"{name}_ious"], rtol=0, atol=1e-12)
