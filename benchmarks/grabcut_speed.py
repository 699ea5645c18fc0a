"""Our GrabCut kernel against OpenCV's: speed, agreement, truth, energy, and where the time goes. One thread, one process, in turn on every picture.

python benchmarks/grabcut_speed.py --data FOLDER [FOLDER ...] [--count 200] [--split test] [--only speed truth energy profile large]
FOLDERs have an index.csv; `--count` pictures are spread evenly over all of them. Pictures are squashed to 224 px (protocol `wsoleval`), the attention is `lowlevel`.
Times are of the processor (an otherwise busy machine is no matter), ratios are medians over the pictures' own ratios, IoUs are means. Without --data: scenes.
"""
import argparse
import sys
import time
from pathlib import Path

import cv2
import numpy as np

import locloc.grabcut as kernel
from locloc.attention import load_attention
from locloc.data import get_protocol, load_dataset
from locloc.grabcut import PreparedPicture, grabcut
from locloc.masks import GrabCutParams, trimap

sys.path.insert(0, str(Path(__file__).parents[1]/"tests"))
SETTINGS = GrabCutParams(.20, .50, .35), GrabCutParams.preset("lowlevel"), GrabCutParams(.02, .90, .40) # from few to most pixels uncertain
SIZE = 224, 224


def iou(a, b): return (a & b).sum()/max((a | b).sum(), 1)
def marks_of(attention, p, shift=0.): return trimap(attention, p.delta0, min(p.delta1 + shift, 1), SIZE, p.split)


def timed(function, *args, **options):
    start = time.process_time()
    out = function(*args, **options)
    return out, 1e3*(time.process_time() - start)


def spread(data, split, count):
    "Samples of all folders, evenly: (folder's name, sample)"
    sets = [load_dataset(d, split=split) for d in data] if data else [load_dataset("scenes", split=split, count=count)]
    shares = [count//len(sets) + (k < count % len(sets)) for k in range(len(sets))]
    return [(Path(s.name).name, s[int(i)]) for s, n in zip(sets, shares) for i in np.linspace(0, len(s) - 1, min(n, len(s))).astype(int)]


def speed(views):
    print(f"\n{len(views)} pictures\n{'delta0 delta1 split':<20}{'uncertain':>10}{'cv2':>10}{'grid':>10}{'ratio':>8}{'prepared':>10}{'slider':>8}{'IoU, cv2':>10}{'cv2 seeds':>11}{'own seeds':>11}")
    for p in SETTINGS:
        rows = []
        for picture, attention, _ in views:
            marks = marks_of(attention, p)
            reference, slow = timed(grabcut, picture, marks, kernel="cv2")
            ours, fast = timed(grabcut, picture, marks)
            prepared = PreparedPicture(picture)
            start = timed(prepared.cut, marks)[1]
            drag = [timed(prepared.cut, marks_of(attention, p, shift))[1] for shift in (.02, .04, .02, 0, -.02)]
            rows.append(((marks > 1).mean(), slow, fast, slow/fast, slow/start, slow/np.median(drag), iou(reference, ours),
                iou(reference, grabcut(picture, marks, seed=1, kernel="cv2")), iou(ours, grabcut(picture, marks, seed=1))))
        u, slow, fast, ratio, start, drag = np.median(rows, 0)[:6]
        print(f"{p.delta0:.2f}   {p.delta1:.2f}   {p.split!s:<6}{np.mean(rows, 0)[0]:>9.0%}{slow:>7.1f} ms{fast:>7.1f} ms{ratio:>8.1f}{start:>10.1f}{drag:>8.1f}"
            + "".join(f"{x:>{w}.4f}" for x, w in zip(np.mean(rows, 0)[6:], (10, 11, 11))), flush=True)


def blurred(mask, rng):
    "What a good but coarse attention would be: the true mask at 14 x 14, blurred, with noise"
    a = cv2.GaussianBlur(cv2.resize(mask.astype(np.float32), (14, 14), interpolation=cv2.INTER_AREA), (0, 0), 1) + rng.normal(0, .05, (14, 14)).astype(np.float32)
    return (a - a.min())/max(np.ptp(a), 1e-6)


def truth(views, seeds=3):
    "Means over seeds: both kernels start from random clusters, and one seed more or less lucky moves a mean by some thousandths"
    print(f"\nIoU with {len(views)} true masks, mean of {seeds} seeds\n{'attention':<10}{'delta0 delta1 split':<20}{'cv2':>8}{'grid':>8}{'grid - cv2':>12}{'standard error':>16}{'cv2, lowest and highest seed':>30}")
    for name in ("lowlevel", "blurred"):
        for p in SETTINGS:
            rng, rows = np.random.default_rng(0), []
            for picture, attention, mask in views:
                marks = marks_of(attention if name == "lowlevel" else blurred(mask, rng), p)
                rows.append([[iou(mask, grabcut(picture, marks, seed=seed, kernel=k)) for seed in range(seeds)] for k in ("cv2", "grid")])
            rows = np.array(rows) # (pictures, kernels, seeds)
            reference, ours = rows.mean(2).T
            low, high = np.sort(rows[:, 0].mean(0))[[0, -1]]
            print(f"{name:<10}{p.delta0:.2f}   {p.delta1:.2f}   {p.split!s:<6}{reference.mean():>8.4f}{ours.mean():>8.4f}{(ours - reference).mean():>+12.4f}"
                f"{(ours - reference).std()/len(rows)**.5:>16.4f}{low:>22.4f}{high:>8.4f}", flush=True)


def energy(views):
    from reference_cut import energy, least_energy, odds_and_links
    gaps, costs = [], []
    for picture, attention, _ in views[:: max(len(views)//50, 1)][:50]:
        small = cv2.resize(picture, (48, 48), interpolation=cv2.INTER_AREA)
        marks = trimap(attention, .05, .7, (48, 48), .4)
        if not kernel._undecided(marks):
            continue
        odds, links, gaussians = odds_and_links(small, marks)
        mask = grabcut(small, marks)
        gaps.append(energy(mask, marks, odds, links) - least_energy(marks, odds, links))
        fine = PreparedPicture(small, 8)
        exact = kernel._log_odds(fine._moments, fine._colours, marks, gaussians)[fine._colours]
        costs.append(energy(mask, marks, exact, links)/least_energy(marks, exact, links) - 1)
    print(f"\nEnergy, {len(gaps)} pictures of 48 px: above SciPy's minimum by {max(gaps)} at most;"
        f" with every colour kept (8 bits) above the minimum by {np.mean(costs):.3%} on average, {max(costs):.3%} at most")


def profile(views):
    print("\nWhere the time goes, median ms\n" + "".join(f"{x:>12}" for x in ("", "links", "colours", "Gaussians", "odds", "graph", "cut", "one search", "rounds")))
    for p in SETTINGS:
        rows = []
        for picture, attention, _ in views:
            marks = marks_of(attention, p)
            if not kernel._undecided(marks):
                continue
            links, t0 = timed(kernel._make_links, picture)
            (colours, n), t1 = timed(kernel._name_colours, picture, 6)
            moments, t2 = timed(kernel._take_moments, picture, colours, n)
            gaussians = np.empty((2, 5, 11))
            _, t3 = timed(lambda: kernel._learn(moments, colours, (marks & 1).astype(bool), kernel._make_noise(np.uint64(0)), gaussians, True))
            odds, t4 = timed(kernel._log_odds, moments, colours, marks, gaussians)
            (room, excess), t5 = timed(kernel._make_graph, marks, colours, odds, links, np.empty((0, 8), np.int16))
            n, W = len(excess), SIZE[1] + 2
            far, order, queue, rounds = np.empty(n, np.int32), np.empty(n, np.int32), np.empty(2**16, np.int32), 0
            _, t7 = timed(kernel._search, room, excess, W, far, order)
            _, t6 = timed(kernel._cut, room.copy(), excess.copy(), W)
            while kernel._push(room, excess, W, far, kernel._search(room, excess, W, far, order), queue):
                rounds += 1
            rows.append((t0, t1 + t2, t3, t4, t5, t6, t7, rounds))
        print(f"{p.delta0:>5.2f} {p.delta1:.2f}  " + "".join(f"{x:>12.2f}" for x in np.median(rows, 0)), flush=True)
    print("The floor with this design is all of it with one search for a cut: what is above that is finding the way of the flow.")


def large(views):
    picture, attention, _ = views[0]
    big = cv2.resize(picture, (4000, 3000), interpolation=cv2.INTER_CUBIC)
    marks = trimap(attention, .05, .7, (3000, 4000), .4)
    mask, took = timed(grabcut, big, marks)
    again, slider = timed((prepared := PreparedPicture(big)).cut, marks)
    _, slider = timed(prepared.cut, trimap(attention, .05, .68, (3000, 4000), .4))
    print(f"\n4000 x 3000: grid {took/1e3:.1f} s, the next cut {slider/1e3:.1f} s, foreground {mask.mean():.1%}, the same twice: {np.array_equal(mask, again)}", flush=True)
    reference, took = timed(grabcut, big, marks, kernel="cv2")
    print(f"4000 x 3000: cv2 {took/1e3:.1f} s, IoU {iou(reference, mask):.4f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", default=[])
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--split", default="test")
    parser.add_argument("--only", nargs="+", default=["speed", "truth", "energy", "profile"], choices=["speed", "truth", "energy", "profile", "large"])
    args = parser.parse_args()
    cv2.setNumThreads(1)
    source, protocol = load_attention("lowlevel"), get_protocol("wsoleval")
    views = []
    for _, sample in spread(args.data, args.split, args.count):
        picture, mask = protocol.picture(sample.picture), sample.mask
        views.append((picture, source(picture[None])[0], None if mask is None else protocol.mask(mask)))
    for p in SETTINGS:
        grabcut(views[0][0], marks_of(views[0][1], p)) # compiled or read from disk
    masked = [view for view in views if view[2] is not None]
    for part in args.only:
        if part != "truth":
            globals()[part](views)
        elif masked:
            truth(masked)


if __name__ == "__main__":
    main()
