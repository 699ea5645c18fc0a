"""Masks of a data set: pictures a second, memory, where the time goes, and what 1.28 million cost at the start.

    python benchmarks/mask_throughput.py [workers memory parts start disk] [--data DATA]
                                         [--attention lowlevel locloc-tiny] [--rounds 5] [--pictures 48]
                                         [--masks 20000] [--names 1281167]

workers   1 and 2 processes take turns, a small round each; medians. From the first mask of a round to the last, so that
          importing torch is not counted. Beside it what the parent computes: the part that more workers cannot share
memory    20,000 masks of 64 px with the attention of locloc-tiny, made by 2 workers from an index.csv of links to a few
          pictures; memory of each process at 2,000, 5,000, 10,000, 15,000 and 19,600
parts     milliseconds a picture of each step, one thread: what is left around the cut
start     names of 1,281,167 pictures compared with an empty store, and with a full one
disk      what waiting for the disk costs, so that a power cut leaves no empty masks: rounds with and without take turns
"""
import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import psutil
import torch
from index_size import picture_name, write_lists
from PIL import Image

from locloc.attention import load_attention
from locloc.data import get_protocol, load_dataset
from locloc.masks import grabcut_mask, source_preset
from locloc.scenes import make_scene
from locloc.stores import MaskStore, make_masks


@dataclass(frozen=True)
class Rate:
    "How fast the masks of a round were made"
    speed:float  # pictures a second between the first and the last mask
    parent:float # CPU time of this process, ms a picture


def measure_rate(dataset, source, workers):
    with tempfile.TemporaryDirectory() as folder:
        start = time.process_time()
        store = make_masks(dataset, folder, source, workers=workers, batch_size=4, progress=False)
        parent = (time.process_time() - start) * 1e3 / len(store)
        times = [(store.folder/f"{id}.png").stat().st_mtime_ns for id in store.ids()]
    return Rate((len(times) - 1) / (max(times) - min(times)) * 1e9, parent)


def measure_workers(args):
    dataset = load_dataset(args.data, "train").subset(args.pictures)
    print("| attention | 1 worker, pictures/s | 2 workers "
          f"| ratio, median of {args.rounds} rounds of {len(dataset)} (smallest to largest) "
          "| parent, ms of CPU a picture |\n|---|---:|---:|---:|---:|")
    for name in args.attention:
        source, one, two = load_attention(name), [], []
        for _ in range(args.rounds):
            one.append(measure_rate(dataset, source, 1))
            two.append(measure_rate(dataset, source, 2))
        ratios = sorted(b.speed / a.speed for a, b in zip(one, two, strict=True))
        print(f"| {name} | {statistics.median(rate.speed for rate in one):.1f} "
              f"| {statistics.median(rate.speed for rate in two):.1f} "
              f"| {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f}) "
              f"| {statistics.median(rate.parent for rate in two):.1f} |", flush=True)


MAKE = """
import sys
from locloc.data import load_dataset
from locloc.stores import make_masks
make_masks(load_dataset(sys.argv[1], "train"), sys.argv[2], "locloc-tiny", size=64, workers=2, progress=False)
"""


def write_links(folder, count, different=64):
    "An index.csv of so many pictures of 64 px, links to a few different ones"
    (folder/"images").mkdir(parents=True)
    for i in range(different):
        Image.fromarray(make_scene(i, size=64)[0]).save(folder/f"{i}.png")
    rows = ["image,class,split,width,height,x0,y0,x1,y1,mask"]
    for i in range(count):
        os.symlink(f"../{i % different}.png", folder/f"images/{i:05d}.png")
        rows.append(f"images/{i:05d}.png,thing,train,64,64,,,,,")
    (folder/"index.csv").write_text("\n".join(rows))


def own_megabytes(process):
    return process.memory_full_info().uss / 1e6


def working_children(process):
    "Not those that only wait"
    found = []
    for child in process.children(recursive=True):
        times = child.cpu_times()
        if times.user + times.system > 2:
            found.append(child)
    return found


def count_masks(folder):
    return sum(len(names) for _, _, names in os.walk(folder))


def measure_memory(args):
    with tempfile.TemporaryDirectory() as folder:
        data, masks = Path(folder)/"data", Path(folder)/"masks"
        write_links(data, args.masks)
        running = psutil.Popen([sys.executable, "-c", MAKE, data, masks])
        for share in (.1, .25, .5, .75, .98):
            while (there := count_masks(masks)) < share * args.masks:
                time.sleep(.1)
            parent = own_megabytes(running)
            others = ", ".join(f"{own:.0f}" for own in sorted(map(own_megabytes, working_children(running))))
            print(f"{there:6} masks: parent {parent:.0f} MB, others {others} MB", flush=True)
        assert running.wait() == 0
        assert len(MaskStore(masks)) == args.masks


def measure_parts(args):
    torch.set_num_threads(1)
    dataset, protocol = load_dataset(args.data, "train").subset(args.pictures), get_protocol("wsoleval")
    sources, times = {name: load_attention(name) for name in args.attention}, defaultdict(list)

    def timed(step, work, *arguments):
        start = time.perf_counter()
        result = work(*arguments)
        times[step].append(1e3 * (time.perf_counter() - start))
        return result

    first = args.attention[0]
    params = source_preset(first).params
    with tempfile.TemporaryDirectory() as folder:
        store = MaskStore(folder, {})
        for i in range(len(dataset)):
            sample = timed("sample", dataset.__getitem__, i)
            opened = timed("open", getattr, sample, "picture")
            picture = timed("squash", protocol.picture, opened)
            maps = {name: timed(f"attention, {name}", source, picture[None])[0] for name, source in sources.items()}
            mask = timed("cut", grabcut_mask, picture, maps[first], params)
            timed("write", store.write, sample.id, mask)
    print("| step | ms a picture, median |\n|---|---:|")
    for step, each in times.items():
        print(f"| {step} | {statistics.median(each):.2f} |")


COMPARE = """
import resource, sys, time, psutil
from locloc.data import load_dataset
from locloc.stores import MaskStore, _missing
dataset, store, process = load_dataset(sys.argv[1], "train"), MaskStore(sys.argv[2], {}), psutil.Process()
before, start = process.memory_info().rss, time.perf_counter()
missing = len(_missing(dataset, store))
seconds = time.perf_counter() - start
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
stays = process.memory_info().rss - before
print(f"{len(dataset):,} pictures, {missing:,} masks missing: {seconds:.1f} s, "
      f"{peak/1e6:.0f} MB more while it is done, {stays/1e6:.0f} MB afterwards")
"""


def fill(store, count):
    "An empty file for each mask"
    for i in range(count):
        mask = store/f"{picture_name(i, count)}.png"
        mask.parent.mkdir(parents=True, exist_ok=True)
        mask.touch()


def measure_start(args):
    with tempfile.TemporaryDirectory() as folder:
        lists, store = write_lists(Path(folder), args.names), Path(folder)/"masks"
        for full in (False, True):
            if full:
                fill(store, args.names)
            for _ in range(2): # the first opening reads the lists, the second what is kept of them
                compared = subprocess.run([sys.executable, "-c", COMPARE, lists, store], check=True, text=True,
                                          env=os.environ | {"LOCLOC_CACHE": folder}, capture_output=True)
            print(compared.stdout, end="", flush=True)


def seconds_of_masks(dataset, source, sync):
    with tempfile.TemporaryDirectory() as folder, patch.object(os, "fsync", sync):
        start = time.perf_counter()
        make_masks(dataset, folder, source, progress=False)
        return time.perf_counter() - start


def measure_disk(args):
    dataset, sync = load_dataset(args.data, "train").subset(args.pictures), os.fsync
    for name in args.attention:
        source, ratios, added = load_attention(name), [], []
        seconds_of_masks(dataset, source, sync)
        for _ in range(args.rounds):
            without, waiting = (seconds_of_masks(dataset, source, one) for one in (lambda descriptor: None, sync))
            ratios.append(waiting / without)
            added.append((waiting - without) * 1e3 / len(dataset))
        print(f"{name}: {statistics.median(ratios):.3f} times as long ({min(ratios):.2f} to {max(ratios):.2f}), "
              f"{statistics.median(added):.1f} ms a mask", flush=True)


PARTS = dict(
    workers=measure_workers, memory=measure_memory, parts=measure_parts, start=measure_start, disk=measure_disk)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", default=list(PARTS))
    parser.add_argument("--data", default="scenes")
    parser.add_argument("--attention", nargs="+", default=["lowlevel", "locloc-tiny"])
    for name, default in dict(rounds=5, pictures=48, masks=20_000, names=1_281_167).items():
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    for what in args.what:
        print(f"\n{what}", flush=True)
        PARTS[what](args)


if __name__ == "__main__":
    main()
