"""How much faster the threshold sweep is than a plain loop: MaxBoxAcc on 500 maps of 224 px, both in one process, figures equal.

    python benchmarks/threshold_sweep.py [--maps 500] [--steps .01 .001]

The plain loop is the benchmark's own way: at each threshold cv2.threshold, cv2.findContours, the largest contour's box; one call for all IoUs.
Steps of .01 are 100 thresholds; .001 is wsolevaluation's default and the protocol's, 1,000 of which at most 256 differ.
"""
import argparse
import time
from itertools import product

import cv2
import numpy as np

from locloc.boxes import box_iou
from locloc.metrics import MaxBoxAcc

SIZE = 224


def localizer(rng): # what GEG makes: one object with a ragged outline, 112 px, steep
    y, x = np.mgrid[:112, :112]
    (cx, cy), (rx, ry) = rng.uniform(35, 75, 2), rng.uniform(12, 30, 2)
    distance = ((x - cx)/rx)**2 + ((y - cy)/ry)**2 + cv2.GaussianBlur(rng.standard_normal((112, 112)), (0, 0), 4)*3
    return 1/(1 + np.exp(4*(distance - 1)))


def attention(rng): # 14 x 14 tokens, several peaks
    y, x = np.mgrid[:14, :14]
    cx, cy = rng.uniform(4, 10, 2)
    return rng.random((14, 14))**2*np.exp(-((x - cx)**2 + (y - cy)**2)/20)


def smooth(rng): return cv2.GaussianBlur(rng.random((SIZE, SIZE)), (0, 0), 20)
def noise(rng): return cv2.GaussianBlur(rng.random((SIZE, SIZE)), (0, 0), 2)


def made(kind, rng):
    score_map = cv2.resize(kind(rng), (SIZE, SIZE))
    (w, h), (x, y) = rng.uniform(50, 180, 2), rng.random(2)
    x, y = x*(SIZE - w), y*(SIZE - h)
    return (score_map - score_map.min())/np.ptp(score_map), np.floor([[x, y, x + w, y + h]])


def plain(score_map, truth, thresholds):
    pixels, boxes = (score_map*255).astype(np.uint8), []
    for threshold in thresholds:
        kept = cv2.threshold(pixels, int(threshold*pixels.max()), 255, cv2.THRESH_BINARY)[1]
        found = cv2.findContours(kept, cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)[0]
        x, y, w, h = cv2.boundingRect(max(found, key=cv2.contourArea)) if found else (0, 0, 0, 0)
        boxes.append((x, y, min(x + w, SIZE - 1), min(y + h, SIZE - 1)))
    return box_iou(boxes, truth, inclusive=True).max(1) >= .5


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--maps", type=int, default=500)
    parser.add_argument("--steps", type=float, nargs="+", default=[.01, .001])
    args = parser.parse_args()
    count = args.maps
    cv2.setNumThreads(1)
    print(f"{'maps':<12}{'step':>6}{'plain':>12}{'sweep':>10}{'ratio':>8}")
    for step, kind in product(args.steps, (localizer, attention, smooth, noise)):
        rng, thresholds = np.random.default_rng(0), np.arange(0, 1, step)
        metric, maps, slow, fast, right = MaxBoxAcc(thresholds=thresholds), [made(kind, rng) for _ in range(count)], 0., 0., np.zeros(len(thresholds))
        for score_map, truth in maps: # in turn, so that a busy machine is busy for both
            start = time.perf_counter()
            right += plain(score_map, truth, thresholds)
            middle = time.perf_counter()
            metric.update(score_map, truth)
            slow, fast = slow + middle - start, fast + time.perf_counter() - middle
        assert np.array_equal(metric.right[0], right), "the figures differ"
        print(f"{kind.__name__:<12}{step:>6g}{1e3*slow/count:>9.2f} ms{1e3*fast/count:>7.2f} ms{slow/fast:>8.1f}", flush=True)


if __name__ == "__main__": main()
