"""What the CLS attention costs: a forward pass of ViT-S/16 with it and without, 224 px, random weights.

python benchmarks/attention_cost.py [--device cuda] [--batches 1 16] [--rounds 15] [--threads 1]
Passes of both kinds take turns, so what else the machine does hits both; the ratio of a round is of two passes that follow each other.
"""
import argparse
import statistics
import time

import torch

from locloc.backbone import load_backbone


def seconds(vit, images, attention):
    "Wall time of one forward pass"
    start = time.perf_counter()
    vit(images, attention=attention)
    if images.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="vit_small_patch16_224")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    vit = load_backbone(args.model, weights=False).to(args.device)
    print(f"{args.model}, 224 px, {args.device}, {args.threads} thread(s), median of {args.rounds} rounds\n")
    print("| batch | plain, ms | with attention, ms | ratio | quartiles of the ratio |\n|---|---|---|---|---|")
    for batch in args.batches:
        images = torch.randn(batch, 3, 224, 224, device=args.device)
        for attention in (False, True, False, True):
            seconds(vit, images, attention) # warm-up
        rounds = []
        for i in range(args.rounds):
            order = (False, True) if i % 2 else (True, False)
            took = {a: seconds(vit, images, a) for a in order}
            rounds.append((took[False], took[True]))
        plain, with_ = (1000 * statistics.median(t) for t in zip(*rounds))
        low, ratio, high = statistics.quantiles([b / a for a, b in rounds], n=4)
        print(f"| {batch} | {plain:.1f} | {with_:.1f} | {ratio:.3f} | {low:.3f}–{high:.3f} |", flush=True)


if __name__ == "__main__":
    main()
