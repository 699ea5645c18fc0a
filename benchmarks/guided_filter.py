"""A guided filter (He et al., 2010; kornia's) instead of GrabCut, or after it: mask IoU and time on test pictures, every choice made on train pictures.

pip install kornia; python benchmarks/guided_filter.py --data FOLDER [FOLDER ...] [--attention lowlevel] [--count 200]
FOLDERs have an index.csv with masks; `--count` random train pictures a folder choose radius, ε and threshold by mask IoU, one choice for all folders. Protocol `wsoleval`,
GrabCut and hard threshold with the preset of the source. The filter's guide is the picture, on [0, 1]. Times are of the processor, one thread, without attention.
"""
import argparse
import itertools
import time

import cv2
import numpy as np
import torch
from kornia.filters import guided_blur

from locloc.attention import load_attention
from locloc.data import get_protocol, load_dataset
from locloc.evaluate import mask_iou
from locloc.masks import PPD_THRESHOLDS, GrabCutParams, grabcut_mask, ppd_mask

RADII, EPSILONS, THRESHOLDS = (2, 4, 8, 16, 32), (1e-4, 1e-3, 1e-2), np.arange(.2, .71, .05)


def tensor(a): return torch.as_tensor(np.ascontiguousarray(a), dtype=torch.float32)[None]
def filtered(picture, score_map, radius, eps): return guided_blur(tensor(picture.transpose(2, 0, 1)/255), tensor(score_map)[None], 2*radius + 1, eps)[0, 0].numpy()


def timed(function, *args):
    start = time.process_time()
    return function(*args), 1e3*(time.process_time() - start)


def views(data, split, count, source, p):
    dataset, protocol = load_dataset(data, split=split), get_protocol("wsoleval")
    for sample in dataset.subset(count) if count else dataset:
        picture = protocol.picture(sample.picture)
        attention = source(picture[None])[0]
        cut, took = timed(grabcut_mask, picture, attention, p)
        yield picture, attention, cv2.resize(attention, (224, 224)), cut, took, protocol.mask(sample.mask).astype(bool)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", required=True)
    parser.add_argument("--attention", default="lowlevel")
    parser.add_argument("--count", type=int, default=200)
    args = parser.parse_args()
    torch.set_num_threads(1)
    source, p = load_attention(args.attention), GrabCutParams.preset(args.attention)
    scores = {"attention": {}, "GrabCut's mask": {}} # radius, ε, threshold -> IoUs of train pictures
    for data in args.data:
        for picture, _, fine, cut, _, true in views(data, "train", args.count, source, p):
            for radius, eps in itertools.product(RADII, EPSILONS):
                for of, levels, score_map in (("attention", THRESHOLDS, fine), ("GrabCut's mask", (.5,), cut.astype(np.float32))):
                    soft = filtered(picture, score_map, radius, eps)
                    for level in levels:
                        scores[of].setdefault((radius, eps, level), []).append(mask_iou(soft >= level, true))
    best = {of: max(found, key=lambda s: np.mean(found[s])) for of, found in scores.items()}
    for of, (radius, eps, level) in best.items():
        print(f"chosen on train for {of}: radius {radius} px, ε {eps}, threshold {level:.2f}; IoU there {np.mean(scores[of][best[of]]):.3f}")
    print(f"\n| {args.attention}, test pictures | hard threshold | guided filter of the attention | GrabCut | guided filter of GrabCut's mask | ms: filter | GrabCut |\n|---|---:|---:|---:|---:|---:|---:|")
    for data in args.data:
        rows = []
        for picture, attention, fine, cut, took, true in views(data, "test", None, source, p):
            soft, filter_took = timed(filtered, picture, fine, *best["attention"][:2])
            after = filtered(picture, cut.astype(np.float32), *best["GrabCut's mask"][:2]) >= .5
            hard = ppd_mask(attention, PPD_THRESHOLDS[args.attention], (224, 224))
            rows.append([*(mask_iou(m, true) for m in (hard, soft >= best["attention"][2], cut, after)), filter_took, took])
        print(f"| {data} ({len(rows)}) | " + " | ".join(f"{m:.3f}" for m in np.mean(rows, 0)[:4]) + " | " + " | ".join(f"{m:.1f}" for m in np.median(rows, 0)[4:]) + " |")


if __name__ == "__main__":
    main()
