"""Choose δ0, δ1, split and PPD's threshold for an attention source, on train pictures; prints Markdown tables.

python benchmarks/choose_presets.py --attention lowlevel --data PATH [PATH ...] --split train
"""
import os
from collections import defaultdict
from dataclasses import dataclass

import numpy as np
import tyro

from locloc.attention import load_attention
from locloc.data import load_dataset
from locloc.pretrain import held_out_pictures
from locloc.sweeps import choose_params, params_grid


@dataclass(frozen=True)
class Args:
    data:tuple[str, ...]           # data sets: `scenes`, or folders; their figures are averaged
    attention:str="lowlevel"       # attention source
    weights:str|None=None          # of its backbone
    split:str="train"              # what the choice is made on
    oracle:bool=False              # allow split=test: such a choice is an oracle, not a preset
    count:int|None=None            # random pictures a data set; None: all
    # only the pictures that `python -m locloc.pretrain --held-out` kept aside with this share and seed 0; for weights
    # made that way
    held_out:float=0.
    delta0:tuple[float, ...]=(.02, .05, .12) # to try
    delta1:tuple[float, ...]=(.45, .6, .75) # to try
    split_at:tuple[float|None, ...]=(None, .2, .3, .4) # to try; None: all uncertain pixels start as background
    top:int=10                     # rows a table
    workers:int=os.cpu_count() or 1 # processes


def pictures_to_choose_on(data, args):
    dataset = load_dataset(data, split=args.split)
    if args.held_out:
        kept = held_out_pictures([sample.boxes for sample in dataset], args.held_out)
        dataset = dataset.subset(np.flatnonzero(kept))
    return dataset.subset(args.count) if args.count else dataset


def describe(setting):
    "A hard threshold, or GrabCut's parameters, as three cells of a table"
    if isinstance(setting, float):
        return f"{setting:.2f} | | "
    return f"{setting.delta0} | {setting.delta1} | {setting.split}"


def print_table(rows):
    print("| method | δ0 or threshold | δ1 | split | mask IoU | GT-known Loc |\n|---|---|---|---|---|---|")
    for row in rows:
        print(f"| {row['method']} | {describe(row['setting'])} | {row['mask_iou']:.1f} | {row['gt_known']:.1f} |")


def main(args):
    if args.split == "test" and not args.oracle:
        raise SystemExit("thresholds are chosen on a train split; --oracle allows split=test and is not a preset")
    source = load_attention(args.attention, weights=args.weights)
    grid = params_grid(args.delta0, args.delta1, args.split_at)
    figures = {"GrabCut": defaultdict(list), "PPD": defaultdict(list)} # of each setting: one figure a data set
    for data in args.data:
        dataset = pictures_to_choose_on(data, args)
        rows = choose_params(dataset, source, grid, workers=args.workers)
        warning = ", ORACLE" if args.oracle else ""
        print(f"\n## {args.attention} on {data}, {args.split}, {len(dataset)} pictures{warning}\n")
        for method in figures:
            print_table([row for row in rows if row["method"] == method][:args.top])
            print()
        for row in rows:
            figure = np.nanmean([row["gt_known"], row["mask_iou"]]) # of what is known
            figures[row["method"]][row["setting"]].append(figure)
    print("\n## Best over all, by the mean over the sets of what is known (GT-known Loc, mask IoU)\n")
    for method, found in figures.items():
        means = {setting: np.mean(each) for setting, each in found.items()}
        best = max(means, key=means.get)
        print(f"- {method}: {best}: {means[best]:.1f}")


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
