"""A guided filter (He et al., 2010; kornia's) instead of GrabCut, or after it: mask IoU and time on test pictures.

    pip install kornia
    python benchmarks/guided_filter.py --data FOLDER [FOLDER ...] [--attention lowlevel] [--count 200]

FOLDERs have an index.csv with masks. Every choice is made on train pictures: `--count` random ones a folder choose
radius, ε and threshold by mask IoU, one choice for all folders. Protocol `wsoleval`, GrabCut and hard threshold with
the preset of the source. The filter's guide is the picture, on [0, 1]. Times are of the processor, one thread, without
attention.
"""
import argparse
import itertools
import time
from collections import defaultdict
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from kornia.filters import guided_blur

from locloc.attention import load_attention
from locloc.data import get_protocol, load_dataset
from locloc.masks import GrabCutParams, grabcut_mask, ppd_mask, source_preset
from locloc.metrics import mask_iou

RADII = 2, 4, 8, 16, 32 # px
EPSILONS = 1e-4, 1e-3, 1e-2
THRESHOLDS = np.arange(.2, .71, .05)
SIZE = 224, 224


@dataclass(frozen=True)
class View:
    "A picture as the protocol has it, its attention and GrabCut's mask"
    picture:np.ndarray   # (224, 224, 3) uint8 RGB
    attention:np.ndarray # (h, w) float32, [0, 1]
    cut:np.ndarray       # (224, 224) bool: GrabCut's mask
    took:float           # to cut it, ms
    true:np.ndarray      # (224, 224) bool: the true mask

    @property
    def upsampled(self): return cv2.resize(self.attention, SIZE)


def tensor(array):
    return torch.as_tensor(np.ascontiguousarray(array), dtype=torch.float32)[None]


def filtered(picture, score_map, radius, eps):
    guide = tensor(picture.transpose(2, 0, 1)/255) # (H, W, 3) -> (1, 3, H, W)
    return guided_blur(guide, tensor(score_map)[None], 2*radius + 1, eps)[0, 0].numpy()


def timed(function, *args):
    "What it returns, and ms of the processor"
    start = time.process_time()
    return function(*args), 1e3*(time.process_time() - start)


def views(data, split, count, source, params):
    dataset, protocol = load_dataset(data, split=split), get_protocol("wsoleval")
    for sample in dataset.subset(count) if count else dataset:
        picture = protocol.picture(sample.picture)
        attention = source(picture[None])[0]
        cut, took = timed(grabcut_mask, picture, attention, params)
        yield View(picture, attention, cut, took, protocol.mask(sample.mask).astype(bool))


def try_settings(view, of_attention, of_masks):
    "Add this picture's IoU to the list of every setting (radius, ε, threshold)"
    for radius, eps in itertools.product(RADII, EPSILONS):
        soft = filtered(view.picture, view.upsampled, radius, eps)
        for threshold in THRESHOLDS:
            of_attention[radius, eps, threshold].append(mask_iou(soft >= threshold, view.true))
        soft = filtered(view.picture, view.cut.astype(np.float32), radius, eps)
        of_masks[radius, eps, .5].append(mask_iou(soft >= .5, view.true))


def best_setting(found, what):
    best = max(found, key=lambda setting: np.mean(found[setting]))
    radius, eps, threshold = best
    print(f"chosen on train for {what}: radius {radius} px, ε {eps}, threshold {threshold:.2f}; "
          f"IoU there {np.mean(found[best]):.3f}")
    return best


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", required=True)
    parser.add_argument("--attention", default="lowlevel")
    parser.add_argument("--count", type=int, default=200)
    args = parser.parse_args()
    torch.set_num_threads(1)
    source, params = load_attention(args.attention), GrabCutParams.preset(args.attention)
    of_attention, of_masks = defaultdict(list), defaultdict(list)
    for data in args.data:
        for view in views(data, "train", args.count, source, params):
            try_settings(view, of_attention, of_masks)
    radius, eps, threshold = best_setting(of_attention, "attention")
    mask_radius, mask_eps, _ = best_setting(of_masks, "GrabCut's mask")
    print(f"\n| {args.attention}, test pictures | hard threshold | guided filter of the attention | GrabCut "
          "| guided filter of GrabCut's mask | ms: filter | GrabCut |\n|---|---:|---:|---:|---:|---:|---:|")
    for data in args.data:
        ious, times = [], []
        for view in views(data, "test", None, source, params):
            hard = ppd_mask(view.attention, source_preset(args.attention).ppd, SIZE)
            soft, filter_took = timed(filtered, view.picture, view.upsampled, radius, eps)
            after = filtered(view.picture, view.cut.astype(np.float32), mask_radius, mask_eps)
            ious.append([mask_iou(mask, view.true) for mask in (hard, soft >= threshold, view.cut, after >= .5)])
            times.append([filter_took, view.took])
        cells = [f"{iou:.3f}" for iou in np.mean(ious, 0)] + [f"{took:.1f}" for took in np.median(times, 0)]
        print(f"| {data} ({len(ious)}) | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
