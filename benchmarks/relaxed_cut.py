"""GrabCut's cut as tensors against our discrete kernel: the same links and odds, for a batch of pictures at once.

    python benchmarks/relaxed_cut.py [--data FOLDER] [--count 32] [--batch 16] [--steps 50 100 200 400 800]
                                     [--device cpu]

The cut is relaxed to [0, 1] and solved by primal-dual steps. FOLDER has an index.csv with masks; its test pictures are
squashed to 224 px, attention and thresholds are `lowlevel`'s. Without it: scenes. The relaxed minimum is that of the
cut (the energy is a total variation with weights), so only the steps are an approximation: Chambolle and Pock's, with
Pock's step sizes. Energy is what a mask has above the minimum, in percent of its size. Times are of one thread, and of
the cut alone, without Gaussians.
"""
import argparse
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from locloc.attention import load_attention
from locloc.data import get_protocol, load_dataset
from locloc.grabcut import UNIT, grabcut
from locloc.masks import GrabCutParams, trimap
from locloc.metrics import mask_iou

sys.path.insert(0, str(Path(__file__).parents[1]/"tests"))
from reference_cut import PAIRS, energy, odds_and_links

TAU, SIGMA = .125*.05, .5/.05 # 8 links a pixel, 2 pixels a link; their ratio was tried from .003 to .1


@dataclass(frozen=True)
class Problem:
    "What is cut, and the kernel's answer"
    marks:np.ndarray # (H, W) uint8 trimap
    odds:np.ndarray  # (H, W) whole numbers, above 0: rather foreground
    links:np.ndarray # (H, W, 4)
    exact:np.ndarray # (H, W) bool: the kernel's mask
    took:float       # it took this long, Gaussians included, ms
    true:np.ndarray  # (H, W) bool: the true mask

    def energy(self, mask): return energy(mask, self.marks, self.odds, self.links)


@dataclass(frozen=True)
class Answer:
    "One picture's relaxed cut after some of the steps"
    took:float # ms
    gap:float  # energy above the minimum, share of it
    same:float # IoU with the kernel's mask
    true:float # IoU with the true one


def both_ends(x, step):
    "Both ends of all links of one direction: two views of (..., H, W)"
    (dy, dx), (h, w) = step, x.shape[-2:]
    one = x[..., :h - dy, max(-dx, 0):w - max(dx, 0)]
    other = x[..., dy:, max(dx, 0):w + min(dx, 0)]
    return one, other


def relaxed(cost, links, least, most, steps):
    "Yields x (B, H, W) in [least, most] after each of `steps` steps; cost (B, H, W) of foreground, links 4 x (B, h, w)"
    x = torch.minimum(torch.maximum((cost < 0).to(cost), least), most) # what the colours alone say
    ahead, flow, done = x, [torch.zeros_like(link) for link in links], 0
    for wanted in steps:
        for _ in range(done, wanted):
            pull = cost.clone()
            for f, link, step in zip(flow, links, PAIRS, strict=True):
                one, other = both_ends(ahead, step)
                f.add_(one - other, alpha=SIGMA).copy_(torch.minimum(torch.maximum(f, -link), link))
                one, other = both_ends(pull, step)
                one += f
                other -= f
            new = torch.minimum(torch.maximum(x - TAU*pull, least), most)
            ahead, x = 2*new - x, new
        done = max(done, wanted)
        yield x


def relax(problems, steps, device):
    "The solver of a batch, ready to start: see `relaxed`"
    def stack(name): return np.stack([getattr(problem, name) for problem in problems])
    def put(array): return torch.as_tensor(array, dtype=torch.float32, device=device)
    marks, odds, links = stack("marks"), stack("odds"), stack("links")
    weights = [both_ends(put(links[..., k]), step)[0]/UNIT for k, step in enumerate(PAIRS)]
    return relaxed(put(-odds*(marks > 1))/UNIT, weights, put(marks == 1), put(marks != 0), steps)


def prepare(samples):
    source, protocol, params = load_attention("lowlevel"), get_protocol("wsoleval"), GrabCutParams.preset("lowlevel")
    for sample in samples:
        picture = protocol.picture(sample.picture)
        marks = trimap(source(picture[None])[0], params.delta0, params.delta1, picture.shape[:2], params.split)
        odds, links, _ = odds_and_links(picture, marks)
        start = time.perf_counter()
        mask = grabcut(picture, marks)
        yield Problem(marks, odds, links, mask, 1e3*(time.perf_counter() - start), protocol.mask(sample.mask))


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
    problems = list(prepare(load_dataset(args.data, split="test").subset(args.count)))
    answers = [[] for _ in args.steps]
    for start in range(0, len(problems), args.batch):
        batch = problems[start:start + args.batch]
        solver, took = relax(batch, args.steps, args.device), 0.
        for found in answers:
            began = time.perf_counter()
            masks = (next(solver) > .5).cpu().numpy()
            took += 1e3*(time.perf_counter() - began)/len(masks)
            for mask, problem in zip(masks, batch, strict=True):
                gap = problem.energy(mask)/problem.energy(problem.exact) - 1
                found.append(Answer(took, gap, mask_iou(mask, problem.exact), mask_iou(mask, problem.true)))
    print(f"{len(problems)} pictures of {args.data}, batches of {args.batch}, {args.device}\n\n"
          "| cut | ms a picture | energy above the minimum, mean | largest | IoU with the exact mask "
          "| IoU with the true one |\n|---|---:|---:|---:|---:|---:|")
    took = np.median([problem.took for problem in problems])
    true = np.mean([mask_iou(problem.exact, problem.true) for problem in problems])
    print(f"| kernel, Gaussians included | {took:.1f} | 0 | 0 | 1 | {true:.4f} |")
    for steps, found in zip(args.steps, answers, strict=True):
        gaps = [abs(answer.gap) for answer in found]
        took, same, true = (np.mean([getattr(answer, name) for answer in found]) for name in ("took", "same", "true"))
        print(f"| {steps} steps | {took:.1f} | {np.mean(gaps):.2%} | {max(gaps):.2%} | {same:.4f} | {true:.4f} |")


if __name__ == "__main__":
    main()
