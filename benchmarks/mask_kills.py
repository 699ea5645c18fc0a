"""SIGKILL at random moments while masks are made; in the end the store is byte for byte that of an undisturbed run.

    python benchmarks/mask_kills.py [--kills 50] [--masks 2000] [--size 32] [--seed 0] [--pool 5]

Every run is a process of its own, forked from this one (so that torch is imported once), every fifth one with two
workers. It is killed between 0 and 20 ms after a random number of new masks is there: alone, so that its workers must
notice, or with all of its workers at once.
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
from locloc.stores import make_masks


def run(folder, args, workers):
    os.setsid()
    torch.set_num_threads(1)
    dataset = load_dataset("scenes", split="train", count=args.masks, size=args.size)
    make_masks(dataset, folder, size=args.size, workers=workers, batch_size=4, progress=False)


def start(folder, args, workers=0):
    process = multiprocessing.get_context("fork").Process(target=run, args=(folder, args, workers))
    process.start()
    return process


def count_masks(folder):
    return sum(name.endswith(".png") for _, _, names in os.walk(folder) for name in names)


def start_and_kill(folder, args, rng, workers):
    "One run that ends by SIGKILL -> how many masks it made; None: it came to its end before"
    before = count_masks(folder)
    running = start(folder, args, workers)
    most = args.masks//(args.kills + 2) * 2 - 20
    wanted = before + rng.randint(1, max(1, most))
    send = rng.choice((os.kill, os.killpg))
    while count_masks(folder) < wanted:
        if not running.is_alive():
            return None
        time.sleep(.001)
    time.sleep(rng.uniform(0, .02))
    send(running.pid, signal.SIGKILL)
    running.join()
    return count_masks(folder) - before


def contents(folder):
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


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
            workers = 2 if i % args.pool == args.pool - 1 else 0
            made.append(start_and_kill(killed, args, rng, workers))
            leftovers += sum(file.suffix == ".tmp" for file in killed.rglob(".*"))
        there = count_masks(killed)
        for store in (killed, whole):
            last = start(store, args)
            last.join()
            assert last.exitcode == 0
        same = contents(killed) == contents(whole)
    done = [masks for masks in made if masks is not None]
    print(f"{len(done)} of {args.kills} runs killed, after {min(done)} to {max(done)} new masks each; "
          f"{there} of {args.masks} masks there after the last kill; {leftovers} leftovers seen")
    print("the last run's store and an undisturbed one: " + ("the same bytes" if same else "DIFFERENT"))
    raise SystemExit(not same or len(done) < args.kills)


if __name__ == "__main__":
    main()
