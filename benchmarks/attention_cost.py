"""What the CLS attention costs: a forward pass of ViT-S/16 with it and without, 224 px, random weights.

    python benchmarks/attention_cost.py [--device cuda] [--batches 1 16] [--rounds 15] [--threads 1]

Passes of both kinds take turns, so what else the machine does hits both; the ratio of a round is of two passes that
follow each other.
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


def compare(vit, images, rounds):
    "Milliseconds of each round: passes without attention, passes with it"
    for attention in (False, True, False, True):
        seconds(vit, images, attention) # warm-up
    plain, watched = [], []
    for i in range(rounds):
        order = (False, True) if i % 2 else (True, False)
        took = {attention: 1000 * seconds(vit, images, attention) for attention in order}
        plain.append(took[False])
        watched.append(took[True])
    return plain, watched


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
        plain, watched = compare(vit, images, args.rounds)
        ratios = [with_it / without for without, with_it in zip(plain, watched, strict=True)]
        low, ratio, high = statistics.quantiles(ratios, n=4)
        print(f"| {batch} | {statistics.median(plain):.1f} | {statistics.median(watched):.1f} "
              f"| {ratio:.3f} | {low:.3f}–{high:.3f} |", flush=True)


if __name__ == "__main__":
    main()
