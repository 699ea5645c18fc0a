"""GrabCut's cut as tensors against our discrete kernel: the same links and odds, the cut relaxed to [0, 1] and solved by primal-dual steps for a batch of pictures.

python benchmarks/relaxed_cut.py [--data FOLDER] [--count 32] [--batch 16] [--steps 50 100 200 400 800] [--device cpu]
FOLDER has an index.csv with masks; its test pictures are squashed to 224 px, attention and thresholds are `lowlevel`'s. Without it: scenes.
The relaxed minimum is that of the cut (the energy is a total variation with weights), so only the steps are an approximation: Chambolle and Pock's, with Pock's step sizes.
Energy is what a mask has above the minimum, in percent of its size. Times are of one thread, and of the cut alone, without Gaussians.
"""
import argparse
import sys
import time
from pathlib import Path

import numpy as np
import torch

from locloc.attention import load_attention
from locloc.data import get_protocol, load_dataset
from locloc.evaluate import mask_iou
from locloc.grabcut import UNIT, grabcut
from locloc.masks import GrabCutParams, trimap

sys.path.insert(0, str(Path(__file__).parents[1]/"tests"))
from reference_cut import PAIRS, energy, odds_and_links

TAU, SIGMA = .125*.05, .5/.05 # 8 links a pixel, 2 pixels a link; their ratio was tried from .003 to .1


def ends(x, step):
    "Both ends of all links of one direction: two views of (..., H, W)"
    (dy, dx), (h, w) = step, x.shape[-2:]
    return x[..., :h - dy, max(-dx, 0):w - max(dx, 0)], x[..., dy:, max(dx, 0):w + min(dx, 0)]


def relaxed(cost, links, least, most, steps):
    "Yields x (B, H, W) in [least, most] after each of `steps` primal-dual steps; cost (B, H, W) of foreground, links 4 x (B, h, w)"
    x, flow, done = torch.minimum(torch.maximum((cost < 0).to(cost), least), most), [torch.zeros_like(c) for c in links], 0 # what the colours alone say
    ahead = x
    for wanted in steps:
        for done in range(done + 1, wanted + 1):
            pull = cost.clone()
            for f, c, step in zip(flow, links, PAIRS):
                a, b = ends(ahead, step)
                f.add_(a - b, alpha=SIGMA).copy_(torch.minimum(torch.maximum(f, -c), c))
                a, b = ends(pull, step)
                a += f
                b -= f
            new = torch.minimum(torch.maximum(x - TAU*pull, least), most)
            ahead, x = 2*new - x, new
        yield x


def prepare(samples):
    source, protocol, p = load_attention("lowlevel"), get_protocol("wsoleval"), GrabCutParams.preset("lowlevel")
    for sample in samples:
        picture = protocol.picture(sample.picture)
        marks = trimap(source(picture[None])[0], p.delta0, p.delta1, picture.shape[:2], p.split)
        odds, links, _ = odds_and_links(picture, marks)
        start = time.perf_counter()
        mask = grabcut(picture, marks)
        yield marks, odds, links, mask, 1e3*(time.perf_counter() - start), protocol.mask(sample.mask)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="scenes")
    parser.add_argument("--count", type=int, default=32)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, nargs="+", default=[50, 100, 200, 400, 800])
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    rows, found = list(prepare(load_dataset(args.data, split="test").subset(args.count))), []
    for start in range(0, len(rows), args.batch):
        marks, odds, links = (np.array(a) for a in list(zip(*rows[start:start + args.batch]))[:3])
        put = lambda a: torch.as_tensor(a, dtype=torch.float32, device=args.device)
        weights = [ends(put(links[..., k]), step)[0]/UNIT for k, step in enumerate(PAIRS)]
        solver = relaxed(put(-odds*(marks > 1))/UNIT, weights, put(marks == 1), put(marks != 0), args.steps)
        took = 0.
        for k in range(len(args.steps)):
            began = time.perf_counter()
            masks = (next(solver) > .5).cpu().numpy()
            took += 1e3*(time.perf_counter() - began)/len(masks)
            found += [(k, took, energy(m, r[0], r[1], r[2])/energy(r[3], r[0], r[1], r[2]) - 1, mask_iou(m, r[3]), mask_iou(m, r[5])) for m, r in zip(masks, rows[start:])]
    print(f"{len(rows)} pictures of {args.data}, batches of {args.batch}, {args.device}\n\n| cut | ms a picture | energy above the minimum, mean | largest | IoU with the exact mask | IoU with the true one |\n|---|---:|---:|---:|---:|---:|")
    print(f"| kernel, Gaussians included | {np.median([r[4] for r in rows]):.1f} | 0 | 0 | 1 | {np.mean([mask_iou(r[3], r[5]) for r in rows]):.4f} |")
    for k, steps in enumerate(args.steps):
        _, took, gap, same, true = np.array([f for f in found if f[0] == k]).T
        print(f"| {steps} steps | {took.mean():.1f} | {abs(gap).mean():.2%} | {abs(gap).max():.2%} | {same.mean():.4f} | {true.mean():.4f} |")


if __name__ == "__main__":
    main()
