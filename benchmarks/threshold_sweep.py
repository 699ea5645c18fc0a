"""How much faster the threshold sweep is than a plain loop: MaxBoxAcc on 500 maps of 224 px, figures equal.

    python benchmarks/threshold_sweep.py [--maps 500] [--steps .01 .001] [--v2] [--model MODEL --data FOLDER]

Both in one process. The plain loop is the benchmark's own way: at each threshold cv2.threshold, cv2.findContours, the
largest contour's box (--v2: all boxes); one call for all IoUs. Steps of .01 are 100 thresholds; .001 is
wsolevaluation's default and the protocol's, 1,000 of which at most 256 differ. With --model the maps are GEG's on test
pictures of the folder, protocol `wsoleval`; without, made from a seed. Times are of the processor and one thread. The
last column is how much sooner two threads are done with all maps than one, as `evaluate` sweeps them.
"""
import argparse
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import cv2
import numpy as np

from locloc.data import get_protocol, load_dataset
from locloc.metrics import MaxBoxAcc, MaxBoxAccV2, best_ious
from locloc.model import LocLoc

SIZE = 224


@dataclass(frozen=True)
class Question:
    "One map and the boxes that it should find"
    score_map:np.ndarray # (224, 224) float64, [0, 1]
    boxes:np.ndarray     # (K, 4) true boxes, px


def localizer(rng):
    "What GEG makes: one object with a ragged outline, 112 px, steep"
    y, x = np.mgrid[:112, :112]
    (cx, cy), (rx, ry) = rng.uniform(35, 75, 2), rng.uniform(12, 30, 2)
    ragged = cv2.GaussianBlur(rng.standard_normal((112, 112)), (0, 0), 4)*3
    distance = ((x - cx)/rx)**2 + ((y - cy)/ry)**2 + ragged
    return 1/(1 + np.exp(4*(distance - 1)))


def attention(rng):
    "14 x 14 tokens, several peaks"
    y, x = np.mgrid[:14, :14]
    cx, cy = rng.uniform(4, 10, 2)
    return rng.random((14, 14))**2*np.exp(-((x - cx)**2 + (y - cy)**2)/20)


def smooth(rng):
    return cv2.GaussianBlur(rng.random((SIZE, SIZE)), (0, 0), 20)


def noise(rng):
    return cv2.GaussianBlur(rng.random((SIZE, SIZE)), (0, 0), 2)


def make_questions(kind, count):
    rng, questions = np.random.default_rng(0), []
    for _ in range(count):
        score_map = cv2.resize(kind(rng), (SIZE, SIZE))
        (w, h), (x, y) = rng.uniform(50, 180, 2), rng.random(2)
        x, y = x*(SIZE - w), y*(SIZE - h)
        score_map = (score_map - score_map.min())/np.ptp(score_map)
        questions.append(Question(score_map, np.floor([[x, y, x + w, y + h]])))
    return questions


def ask_model(folder, data, count):
    "GEG's maps and the true boxes of test pictures"
    model, protocol, questions = LocLoc.load(folder), get_protocol("wsoleval"), []
    for sample in load_dataset(data, split="test").subset(count):
        picture = protocol.picture(sample.picture)
        activation, _ = model(model.backbone.normalize(picture[None]))
        score_map = protocol.score_map(activation[0, 0].detach().numpy()).astype(np.float64)
        questions.append(Question(score_map, protocol.boxes(sample.boxes, sample.picture.shape[:2], True)))
    return questions


def plain(question, thresholds, every):
    "Best IoU at each threshold, as a plain loop finds it"
    pixels, boxes = (question.score_map*255).astype(np.uint8), []
    for threshold in thresholds:
        kept = cv2.threshold(pixels, int(threshold*pixels.max()), 255, cv2.THRESH_BINARY)[1]
        outlines = cv2.findContours(kept, cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)[0]
        if not every:
            outlines = [max(outlines, key=cv2.contourArea)]
        found = [cv2.boundingRect(outline) for outline in outlines]
        boxes.append([(x, y, min(x + w, SIZE - 1), min(y + h, SIZE - 1)) for x, y, w, h in found])
    return best_ious(boxes, question.boxes, inclusive=True)


def swept(metric, question):
    return metric.answers(question.score_map, question.boxes)


def timed(function, questions, *args):
    "What it returns for each, and ms of the processor for all"
    start = time.process_time()
    return [function(question, *args) for question in questions], 1e3*(time.process_time() - start)


def gain_of_two_threads(metric, questions):
    "Wall time of one thread over that of two"
    took = []
    for threads in (1, 2):
        with ThreadPoolExecutor(threads) as pool:
            start = time.perf_counter()
            list(pool.map(lambda question: swept(metric, question), questions))
            took.append(time.perf_counter() - start)
    return took[0]/took[1]


def compare(name, questions, step, v2):
    "Print one row"
    thresholds = np.arange(0, 1, step)
    metric = (MaxBoxAccV2 if v2 else MaxBoxAcc)(thresholds=thresholds)
    swept(metric, questions[0]) # compiled, or read from disk
    slow = fast = 0
    for k in range(0, len(questions), 5): # in turn, so that a busy machine is busy for both
        block = questions[k:k + 5]
        best, took = timed(plain, block, thresholds, v2)
        slow += took
        answers, took = timed(lambda question: swept(metric, question), block)
        fast += took
        right = [[ious >= iou for iou in metric.ious] for ious in best]
        assert np.array_equal(answers, right), "the figures differ"
    slow, fast = slow/len(questions), fast/len(questions)
    gain = gain_of_two_threads(metric, questions)
    print(f"{name:<12}{step:>6g}{slow:>9.2f} ms{fast:>7.3f} ms{slow/fast:>8.1f}{gain:>11.2f}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--maps", type=int, default=500)
    parser.add_argument("--steps", type=float, nargs="+", default=[.01, .001])
    parser.add_argument("--v2", action="store_true", help="MaxBoxAccV2: any contour's box, at IoU .3, .5, .7")
    parser.add_argument("--model", help="a trained model's folder")
    parser.add_argument("--data", help="a data set with boxes, as `locloc evaluate` takes it")
    args = parser.parse_args()
    if bool(args.model) != bool(args.data):
        parser.error("--model and --data go together")
    cv2.setNumThreads(1)
    if args.model:
        questions = {"GEG": ask_model(args.model, args.data, args.maps)}
    else:
        questions = {kind.__name__: make_questions(kind, args.maps) for kind in (localizer, attention, smooth, noise)}
    print(f"{'maps':<12}{'step':>6}{'plain':>12}{'sweep':>10}{'ratio':>8}{'2 threads':>11}")
    for step in args.steps:
        for name, asked in questions.items():
            compare(name, asked, step, args.v2)


if __name__ == "__main__":
    main()
