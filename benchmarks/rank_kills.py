"""Ranks that are killed at random moments: do all end, and does the same command go on to the same weights?

    python benchmarks/rank_kills.py [--kills 20] [--seed 0]

Two ranks on the CPU train LFDM on cached features. Each time either one rank gets SIGKILL or the launcher
SIGTERM, at a moment drawn from the whole life of the command, from its imports to the saving of the model; then the
same command goes on with one rank or with two. A row a kill; `difference` is that of the finished weights to those of
one rank that was never stopped, norm over norm.
"""
import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import torch
from safetensors.torch import load_file

from locloc.data import load_dataset
from locloc.stores import make_masks

COUNT = 24
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}


def command(ranks, masks, run):
    start = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)] if ranks > 1 else []
    small = "lfdm --preset tiny --batch 8 --crop 96 --resize 112 --epochs 10 --cached-views 2"
    paths = "--count", str(COUNT), "--masks", str(masks), "--out", str(run), "--checkpoint-minutes", ".005"
    return [sys.executable, *start, "-m", "locloc.cli", "train", *small.split(), *paths]


def start(ranks, masks, run):
    return subprocess.Popen(command(ranks, masks, run), env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                            text=True)


def weights(run):
    state = load_file(run/"model"/"model.safetensors")
    return torch.cat([state[name].double().flatten() for name in sorted(state)])


def ranks_of(process):
    children = psutil.Process(process.pid).children()
    return {child.environ()["RANK"]: child for child in children if "RANK" in child.environ()}


def kill(process, kind, moment, draw):
    "-> how it ended, and the seconds that this took; None: it had ended before"
    deadline, ranks = time.monotonic() + moment, {}
    while process.poll() is None and (time.monotonic() < deadline or len(ranks) < 2):
        time.sleep(.01)
        ranks = ranks_of(process) if process.poll() is None else {}
    if process.poll() is not None:
        return None
    target = process if kind == "SIGTERM, all" else ranks[draw.choice(sorted(ranks))]
    began = time.monotonic()
    target.send_signal(signal.SIGTERM if kind == "SIGTERM, all" else signal.SIGKILL)
    _, said = process.communicate(timeout=120)
    left = psutil.wait_procs(list(ranks.values()), 60)[1]
    told = [line.removeprefix("locloc: ") for line in said.splitlines() if line.startswith("locloc: ")]
    return process.returncode, len(left), time.monotonic() - began, "; ".join(told) or "-"


def state_of(run):
    steps = sorted(folder.name for folder in run.glob("checkpoints/step_*"))
    return "finished" if (run/"model").exists() else steps[-1] if steps else "no checkpoint"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    draw = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        make_masks(load_dataset("scenes").subset(COUNT), folder/"masks", progress=False)
        subprocess.run(command(1, folder/"masks", folder/"one"), env=ENVIRONMENT, check=True, capture_output=True)
        began = time.monotonic()
        subprocess.run(command(2, folder/"masks", folder/"two"), env=ENVIRONMENT, check=True, capture_output=True)
        life, whole = time.monotonic() - began, weights(folder/"one")
        print(f"one rank and two, never stopped: difference "
              f"{(weights(folder/'two') - whole).norm()/whole.norm():.1e}; two take {life:.0f} s\n")
        print("| killed | after s | status | ranks left | ended in s | told | then there | went on with | difference |")
        print("|---|---|---|---|---|---|---|---|---|", flush=True)
        for number in range(args.kills):
            kind, ranks = ("SIGKILL, one rank", "SIGTERM, all")[number % 2], (1, 2)[number//2 % 2]
            run, moment = folder/f"run-{number}", draw.uniform(.1*life, life)
            ended = kill(start(2, folder/"masks", run), kind, moment, draw)
            status, left, seconds, told = ended or ("too late", 0, 0, "-")
            there = state_of(run)
            again = subprocess.run(command(ranks, folder/"masks", run), env=ENVIRONMENT, capture_output=True, text=True)
            if again.returncode:
                raise SystemExit(f"{kind} after {moment:.1f} s: {there}; {ranks} went on and failed:\n{again.stderr}")
            difference = (weights(run) - whole).norm()/whole.norm()
            print(f"| {kind} | {moment:.1f} | {status} | {left} | {seconds:.1f} | {told} | {there} | {ranks} | "
                  f"{difference:.1e} |", flush=True)


if __name__ == "__main__":
    main()
