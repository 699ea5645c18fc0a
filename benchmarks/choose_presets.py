"""Choose δ0, δ1, split and PPD's threshold for an attention source, on train pictures; prints Markdown tables.

python benchmarks/choose_presets.py --attention lowlevel --data PATH [PATH ...] --split train
"""
import os
from dataclasses import dataclass

import numpy as np
import tyro


@dataclass(frozen=True)
class Args:
    data:tuple[str, ...]           # data sets: `scenes`, or folders; their figures are averaged
    attention:str="lowlevel"       # attention source
    weights:str|None=None          # of its backbone
    split:str="train"              # what the choice is made on
    oracle:bool=False              # allow split=test: such a choice is an oracle, not a preset
    count:int|None=None            # random pictures a data set; None: all
    held_out:float=0.              # only the pictures that `python -m locloc.pretrain --held-out` kept aside with this share and seed 0; for weights made that way
    delta0:tuple[float, ...]=(.02, .05, .12) # to try
    delta1:tuple[float, ...]=(.45, .6, .75) # to try
    split_at:tuple[float|None, ...]=(None, .2, .3, .4) # to try; None: all uncertain pixels start as background
    top:int=10                     # rows a table
    workers:int=os.cpu_count() or 1 # processes

def told(setting):
    return f"{setting:.2f} | | " if isinstance(setting, float) else f"{setting.delta0} | {setting.delta1} | {setting.split}"

def table(rows):
    print("| method | δ0 or threshold | δ1 | split | mask IoU | GT-known Loc |\n|---|---|---|---|---|---|")
    for row in rows:
        print(f"| {row['method']} | {told(row['setting'])} | {row['mask_iou']:.1f} | {row['gt_known']:.1f} |")

def main(args):
    if args.split == "test" and not args.oracle:
        raise SystemExit("thresholds are chosen on a train split; --oracle allows split=test and is not a preset")
    from locloc.attention import load_attention
    from locloc.data import load_dataset
    from locloc.pretrain import held_out_pictures
    from locloc.sweeps import choose_params, params_grid
    source, found = load_attention(args.attention, weights=args.weights), {}
    for data in args.data:
        dataset = load_dataset(data, split=args.split)
        if args.held_out:
            dataset = dataset.subset(np.flatnonzero(held_out_pictures([s.boxes for s in dataset], args.held_out)))
        if args.count:
            dataset = dataset.subset(args.count)
        rows = choose_params(dataset, source, params_grid(args.delta0, args.delta1, args.split_at), workers=args.workers)
        print(f"\n## {args.attention} on {data}, {args.split}, {len(dataset)} pictures{', ORACLE' * args.oracle}\n")
        for method in ("GrabCut", "PPD"):
            table([row for row in rows if row["method"] == method][:args.top])
            print()
        for row in rows:
            found.setdefault((row["method"], row["setting"]), []).append([row["mask_iou"], row["gt_known"]])
    print("\n## Best over all, by the mean of what is known (mask IoU, else GT-known Loc)\n")
    mean = {key: np.mean([m if m == m else g for m, g in figures]) for key, figures in found.items()}
    for method in ("GrabCut", "PPD"):
        best = max((key for key in mean if key[0] == method), key=mean.get)
        print(f"- {method}: {best[1]}: {mean[best]:.1f}")

if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
