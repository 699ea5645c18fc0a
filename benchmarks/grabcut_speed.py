"""Our GrabCut kernel against OpenCV's: speed, agreement, truth, energy, and where the time goes.

    python benchmarks/grabcut_speed.py --data FOLDER [FOLDER ...] [--count 200] [--split test]
                                       [--only speed truth energy profile large]

One thread, one process, both kernels in turn on every picture. FOLDERs have an index.csv; `--count` pictures are
spread evenly over all of them. Pictures are squashed to 224 px (protocol `wsoleval`), the attention is `lowlevel`.
Times are of the processor (an otherwise busy machine is no matter), ratios are medians over the pictures' own ratios,
IoUs are means. Without --data: scenes.
"""
import argparse
import sys
import time
from dataclasses import astuple, dataclass, fields
from pathlib import Path

import cv2
import numpy as np

import locloc.grabcut as kernel
from locloc.attention import load_attention
from locloc.data import get_protocol, load_dataset
from locloc.grabcut import PreparedPicture, grabcut
from locloc.masks import GrabCutParams, trimap
from locloc.metrics import mask_iou

sys.path.insert(0, str(Path(__file__).parents[1]/"tests"))
from reference_cut import energy, least_energy, odds_and_links

# from few to most pixels uncertain
SETTINGS = GrabCutParams(.20, .50, .35), GrabCutParams.preset("lowlevel"), GrabCutParams(.02, .90, .40)
SIZE = 224, 224


@dataclass(frozen=True)
class View:
    "A picture as the protocol has it"
    picture:np.ndarray     # (224, 224, 3) uint8 RGB
    attention:np.ndarray   # (h, w) float32, [0, 1]
    true:np.ndarray | None # (224, 224) bool: the true mask, where it is known


@dataclass(frozen=True)
class Speed:
    "What one picture and one setting took, ms, and how far the masks agree"
    uncertain:float     # share of the pixels
    cv2:float           # ms
    grid:float          # ms
    prepared:float      # ms, the first cut of a prepared picture
    slider:float        # ms, another cut of it after δ1 moved a little
    agreement:float     # IoU of both kernels' masks
    cv2_seeds:float     # IoU of OpenCV's mask with that of another seed
    own_seeds:float     # IoU of our mask with that of another seed


@dataclass(frozen=True)
class Profile:
    "What the steps of one cut took, ms"
    links:float
    colours:float
    gaussians:float
    odds:float
    graph:float
    cut:float
    one_search:float # of the many that a cut needs
    rounds:int       # how many it needed


def make_marks(attention, params, shift=0.):
    return trimap(attention, params.delta0, min(params.delta1 + shift, 1), SIZE, params.split)


def timed(function, *args, **options):
    "What it returns, and ms of the processor"
    start = time.process_time()
    out = function(*args, **options)
    return out, 1e3*(time.process_time() - start)


def load_views(data, split, count):
    "Pictures of all folders, evenly"
    if data:
        datasets = [load_dataset(folder, split=split) for folder in data]
    else:
        datasets = [load_dataset("scenes", split=split, count=count)]
    source, protocol = load_attention("lowlevel"), get_protocol("wsoleval")
    views = []
    for k, dataset in enumerate(datasets):
        share = count//len(datasets) + (k < count % len(datasets))
        for i in np.linspace(0, len(dataset) - 1, min(share, len(dataset))).astype(int):
            sample = dataset[int(i)]
            picture, mask = protocol.picture(sample.picture), sample.mask
            true = None if mask is None else protocol.mask(mask)
            views.append(View(picture, source(picture[None])[0], true))
    return views


def describe(params):
    return f"{params.delta0:.2f}   {params.delta1:.2f}   {params.split!s:<6}"


def measure_speed_of(view, params):
    marks = make_marks(view.attention, params)
    reference, slow = timed(grabcut, view.picture, marks, kernel="cv2")
    ours, fast = timed(grabcut, view.picture, marks)
    prepared = PreparedPicture(view.picture)
    first = timed(prepared.cut, marks)[1]
    drags = [timed(prepared.cut, make_marks(view.attention, params, shift))[1] for shift in (.02, .04, .02, 0, -.02)]
    return Speed(
        uncertain=(marks > 1).mean(), cv2=slow, grid=fast, prepared=first, slider=np.median(drags),
        agreement=mask_iou(reference, ours),
        cv2_seeds=mask_iou(reference, grabcut(view.picture, marks, seed=1, kernel="cv2")),
        own_seeds=mask_iou(ours, grabcut(view.picture, marks, seed=1)))


def measure_speed(views):
    print(f"\n{len(views)} pictures\n{'delta0 delta1 split':<20}{'uncertain':>10}{'cv2':>10}{'grid':>10}{'ratio':>8}"
          f"{'prepared':>10}{'slider':>8}{'IoU, cv2':>10}{'cv2 seeds':>11}{'own seeds':>11}")
    for params in SETTINGS:
        rows = [measure_speed_of(view, params) for view in views]
        each = {field.name: np.array([getattr(row, field.name) for row in rows]) for field in fields(Speed)}
        ratios = {name: np.median(each["cv2"]/each[name]) for name in ("grid", "prepared", "slider")}
        mean = {name: values.mean() for name, values in each.items()}
        print(f"{describe(params)}{mean['uncertain']:>9.0%}"
              f"{np.median(each['cv2']):>7.1f} ms{np.median(each['grid']):>7.1f} ms"
              f"{ratios['grid']:>8.1f}{ratios['prepared']:>10.1f}{ratios['slider']:>8.1f}"
              f"{mean['agreement']:>10.4f}{mean['cv2_seeds']:>11.4f}{mean['own_seeds']:>11.4f}", flush=True)


def blurred(mask, rng):
    "What a good but coarse attention would be: the true mask at 14 x 14, blurred, with noise"
    coarse = cv2.resize(mask.astype(np.float32), (14, 14), interpolation=cv2.INTER_AREA)
    coarse = cv2.GaussianBlur(coarse, (0, 0), 1) + rng.normal(0, .05, (14, 14)).astype(np.float32)
    return (coarse - coarse.min())/max(np.ptp(coarse), 1e-6)


def true_ious(view, marks, seeds):
    "(2, seeds): OpenCV's kernel and ours"
    ious = np.empty((2, seeds))
    for row, name in zip(ious, ("cv2", "grid"), strict=True):
        for seed in range(seeds):
            row[seed] = mask_iou(view.true, grabcut(view.picture, marks, seed=seed, kernel=name))
    return ious


def measure_truth(views, seeds=3):
    "Means over seeds: both kernels start from random clusters, and one lucky seed moves a mean by some thousandths"
    views = [view for view in views if view.true is not None]
    if not views:
        return
    print(f"\nIoU with {len(views)} true masks, mean of {seeds} seeds\n{'attention':<10}{'delta0 delta1 split':<20}"
          f"{'cv2':>8}{'grid':>8}{'grid - cv2':>12}{'standard error':>16}{'cv2, lowest and highest seed':>30}")
    for name in ("lowlevel", "blurred"):
        for params in SETTINGS:
            rng, rows = np.random.default_rng(0), []
            for view in views:
                attention = view.attention if name == "lowlevel" else blurred(view.true, rng)
                rows.append(true_ious(view, make_marks(attention, params), seeds))
            rows = np.array(rows) # (pictures, kernels, seeds)
            reference, ours = rows.mean(2).T
            error = (ours - reference).std()/len(rows)**.5
            of_seeds = rows[:, 0].mean(0)
            print(f"{name:<10}{describe(params)}{reference.mean():>8.4f}{ours.mean():>8.4f}"
                  f"{(ours - reference).mean():>+12.4f}{error:>16.4f}{of_seeds.min():>22.4f}{of_seeds.max():>8.4f}",
                  flush=True)


def measure_energy(views):
    gaps, costs = [], []
    for view in views[:: max(len(views)//50, 1)][:50]:
        small = cv2.resize(view.picture, (48, 48), interpolation=cv2.INTER_AREA)
        marks = trimap(view.attention, .05, .7, (48, 48), .4)
        if not kernel._undecided(marks):
            continue
        odds, links, gaussians = odds_and_links(small, marks)
        mask = grabcut(small, marks)
        gaps.append(energy(mask, marks, odds, links) - least_energy(marks, odds, links))
        fine = PreparedPicture(small, 8)
        exact = kernel._log_odds(fine._moments, fine._colours, marks, gaussians)[fine._colours]
        costs.append(energy(mask, marks, exact, links)/least_energy(marks, exact, links) - 1)
    print(f"\nEnergy, {len(gaps)} pictures of 48 px: above SciPy's minimum by {max(gaps)} at most;"
          f" with every colour kept (8 bits) above the minimum by {np.mean(costs):.3%} on average,"
          f" {max(costs):.3%} at most")


def count_rounds(room, excess, far, order):
    "How often the kernel looks for the way of the flow until a cut is done; changes all four"
    W, rounds, queue = SIZE[1] + 2, 1, np.empty(2**16, np.int32)
    while kernel._push(room, excess, W, far, kernel._search(room, excess, W, far, order), queue):
        rounds += 1
    return rounds


def profile_of(picture, marks):
    links, links_took = timed(kernel._make_links, picture)
    (colours, n), names_took = timed(kernel._name_colours, picture, 6)
    moments, moments_took = timed(kernel._take_moments, picture, colours, n)
    gaussians, noise = np.empty((2, 5, 11)), kernel._make_noise(np.uint64(0))
    _, learning_took = timed(kernel._learn, moments, colours, (marks & 1).astype(bool), noise, gaussians, True)
    odds, odds_took = timed(kernel._log_odds, moments, colours, marks, gaussians)
    nothing_kept = np.empty((0, 8), np.int16)
    (room, excess), graph_took = timed(kernel._make_graph, marks, colours, odds, links, nothing_kept)
    W, far, order = SIZE[1] + 2, np.empty(len(excess), np.int32), np.empty(len(excess), np.int32)
    _, search_took = timed(kernel._search, room, excess, W, far, order)
    _, cut_took = timed(kernel._cut, room.copy(), excess.copy(), W)
    rounds = count_rounds(room, excess, far, order)
    return Profile(links_took, names_took + moments_took, learning_took, odds_took, graph_took, cut_took, search_took,
                   rounds)


def measure_profile(views):
    steps = [field.name.replace("_", " ") for field in fields(Profile)]
    print("\nWhere the time goes, median ms\n" + "".join(f"{x:>12}" for x in ("", *steps)))
    for params in SETTINGS:
        rows = []
        for view in views:
            marks = make_marks(view.attention, params)
            if kernel._undecided(marks):
                rows.append(astuple(profile_of(view.picture, marks)))
        cells = "".join(f"{median:>12.2f}" for median in np.median(rows, 0))
        print(f"{params.delta0:>5.2f} {params.delta1:.2f}  {cells}", flush=True)
    print("The floor with this design is all of it with one search for a cut: "
          "what is above that is finding the way of the flow.")


def measure_large(views):
    size = 3000, 4000
    big = cv2.resize(views[0].picture, size[::-1], interpolation=cv2.INTER_CUBIC)
    marks = trimap(views[0].attention, .05, .7, size, .4)
    mask, took = timed(grabcut, big, marks)
    prepared = PreparedPicture(big)
    again = prepared.cut(marks)
    _, slider = timed(prepared.cut, trimap(views[0].attention, .05, .68, size, .4))
    print(f"\n4000 x 3000: grid {took/1e3:.1f} s, the next cut {slider/1e3:.1f} s, foreground {mask.mean():.1%}, "
          f"the same twice: {np.array_equal(mask, again)}", flush=True)
    reference, took = timed(grabcut, big, marks, kernel="cv2")
    print(f"4000 x 3000: cv2 {took/1e3:.1f} s, IoU {mask_iou(reference, mask):.4f}")


PARTS = dict(speed=measure_speed, truth=measure_truth, energy=measure_energy, profile=measure_profile,
             large=measure_large)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", default=[])
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--split", default="test")
    parser.add_argument("--only", nargs="+", default=["speed", "truth", "energy", "profile"], choices=list(PARTS))
    args = parser.parse_args()
    cv2.setNumThreads(1)
    views = load_views(args.data, args.split, args.count)
    for params in SETTINGS:
        grabcut(views[0].picture, make_marks(views[0].attention, params)) # compiled or read from disk
    for part in args.only:
        PARTS[part](views)


if __name__ == "__main__":
    main()
