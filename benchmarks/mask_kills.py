"""SIGKILL at random moments while masks are made; after the last run the store is byte for byte that of a run nobody disturbed.

    python benchmarks/mask_kills.py [--kills 50] [--masks 2000] [--size 32] [--seed 0] [--pool 5]

Every run is a process of its own, forked from this one (so that torch is imported once), every fifth one with two workers. It is killed between 0 and 20 ms after a random
number of new masks is there: alone, so that its workers must notice, or with all of its workers at once.
"""
import argparse
import multiprocessing
import os
import random
import signal
import tempfile
import time
from pathlib import Path

import torch

from locloc.data import load_dataset
from locloc.masks import make_masks


def run(folder, args, workers):
    os.setsid()
    torch.set_num_threads(1)
    make_masks(load_dataset("scenes", split="train", count=args.masks, size=args.size), folder, size=args.size, workers=workers, batch_size=4, progress=False)


def start(folder, args, workers=0):
    process = multiprocessing.get_context("fork").Process(target=run, args=(folder, args, workers))
    process.start()
    return process


def count(folder): return sum(name.endswith(".png") for _, _, names in os.walk(folder) for name in names)


def kill(folder, args, rng, workers):
    "One run that ends by SIGKILL -> how many masks it made; None: it came to its end before"
    before, running = count(folder), start(folder, args, workers)
    wanted, send = before + rng.randint(1, max(1, args.masks//(args.kills + 2) * 2 - 20)), rng.choice((os.kill, os.killpg))
    while count(folder) < wanted:
        if not running.is_alive():
            return None
        time.sleep(.001)
    time.sleep(rng.uniform(0, .02))
    send(running.pid, signal.SIGKILL)
    running.join()
    return count(folder) - before


def files(folder): return {f.relative_to(folder).as_posix(): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in dict(kills=50, masks=2000, size=32, seed=0, pool=5).items():
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    rng = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as folder:
        killed, whole = Path(folder)/"killed", Path(folder)/"whole"
        made, leftovers = [], 0
        for i in range(args.kills):
            made.append(kill(killed, args, rng, 2 * (i % args.pool == args.pool - 1)))
            leftovers += sum(f.suffix == ".tmp" for f in killed.rglob(".*"))
        there = count(killed)
        for store in (killed, whole):
            last = start(store, args)
            last.join()
            assert last.exitcode == 0
        same = files(killed) == files(whole)
    done = [m for m in made if m is not None]
    print(f"{len(done)} of {args.kills} runs killed, after {min(done)} to {max(done)} new masks each; {there} of {args.masks} masks there after the last kill; {leftovers} leftovers seen")
    print("the last run's store and an undisturbed one: " + ("the same bytes" if same else "DIFFERENT"))
    raise SystemExit(not same or len(done) < args.kills)


if __name__ == "__main__":
    main()
