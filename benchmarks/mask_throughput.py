"""Masks of a data set: pictures a second with 1 and 2 workers, memory over 20,000 masks, where the time goes, and what 1.28 million pictures cost at the start.

    python benchmarks/mask_throughput.py [workers memory parts start] [--data DATA] [--attention lowlevel locloc-tiny] [--rounds 5] [--pictures 48]

workers   1 and 2 processes take turns, a small round each; medians. From the first mask of a round to the last, so that importing torch is not counted.
          Beside it what the parent computes: the part that more workers cannot share
memory    20,000 masks of 64 px with the attention of locloc-tiny, made by 2 workers from an index.csv of links to a few pictures; memory of each process at 2,000, 10,000 and 20,000
parts     milliseconds a picture of each step, one thread: what is left around the cut
start     names of 1,281,167 pictures compared with an empty store, and with a full one
"""
import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import torch
from PIL import Image

from locloc.attention import load_attention
from locloc.data import get_protocol, load_dataset
from locloc.masks import PRESETS, GrabCutParams, MaskStore, grabcut_mask, make_masks
from locloc.scenes import make_scene


def rate(dataset, source, workers):
    "Pictures a second between the first and the last mask, and the parent's ms of CPU time a picture"
    with tempfile.TemporaryDirectory() as folder:
        start = time.process_time()
        store = make_masks(dataset, folder, source, workers=workers, batch_size=4, progress=False)
        parent = (time.process_time() - start) * 1e3 / len(store)
        times = [(store.folder/f"{id}.png").stat().st_mtime_ns for id in store.ids()]
    return (len(times) - 1) / (max(times) - min(times)) * 1e9, parent


def measure_workers(args):
    dataset = load_dataset(args.data, "train").subset(args.pictures)
    print(f"| attention | 1 worker, pictures/s | 2 workers | ratio, median of {args.rounds} rounds of {len(dataset)} (smallest to largest) | parent, ms of CPU a picture |\n|---|---:|---:|---:|---:|")
    for name in args.attention:
        source, rounds = load_attention(name), []
        for _ in range(args.rounds):
            rounds.append([figure for workers in (1, 2) for figure in rate(dataset, source, workers)])
        ratios = sorted(two / one for one, _, two, _ in rounds)
        one, _, two, parent = map(statistics.median, zip(*rounds))
        print(f"| {name} | {one:.1f} | {two:.1f} | {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f}) | {parent:.1f} |", flush=True)


RUN = """
import sys
from locloc.data import load_dataset
from locloc.masks import make_masks
make_masks(load_dataset(sys.argv[1], "train"), sys.argv[2], "locloc-tiny", size=64, workers=2, progress=False)
"""


def links(folder, count, different=64):
    "An index.csv of so many pictures of 64 px, links to a few different ones"
    (folder/"images").mkdir(parents=True)
    for i in range(different):
        Image.fromarray(make_scene(i, size=64)[0]).save(folder/f"{i}.png")
    for i in range(count):
        os.symlink(f"../{i % different}.png", folder/f"images/{i:05d}.png")
    rows = [f"images/{i:05d}.png,thing,train,64,64,,,,," for i in range(count)]
    (folder/"index.csv").write_text("\n".join(["image,class,split,width,height,x0,y0,x1,y1,mask", *rows]))


def memory(process):
    "MB that are a process's own (parent, workers)"
    own = lambda p: p.memory_full_info().uss / 1e6
    children = [p for p in process.children(recursive=True) if p.cpu_times().user + p.cpu_times().system > 2]
    return own(process), sorted(map(own, children))


def measure_memory(args):
    with tempfile.TemporaryDirectory() as folder:
        links(Path(folder)/"data", args.masks)
        running = psutil.Popen([sys.executable, "-c", RUN, f"{folder}/data", f"{folder}/masks"])
        for share in (.1, .25, .5, .75, .98):
            while (there := sum(len(names) for _, _, names in os.walk(f"{folder}/masks"))) < share * args.masks:
                time.sleep(.1)
            parent, children = memory(running)
            print(f"{there:6} masks: parent {parent:.0f} MB, others {', '.join(f'{m:.0f}' for m in children)} MB", flush=True)
        assert running.wait() == 0 and len(MaskStore(f"{folder}/masks")) == args.masks


def measure_parts(args):
    torch.set_num_threads(1)
    dataset, protocol, times = load_dataset(args.data, "train").subset(args.pictures), get_protocol("wsoleval"), {}
    sources = {name: load_attention(name) for name in args.attention}
    def timed(name, work, *arguments):
        start = time.perf_counter()
        result = work(*arguments)
        times.setdefault(name, []).append(1e3 * (time.perf_counter() - start))
        return result
    with tempfile.TemporaryDirectory() as folder:
        store = MaskStore(folder, {})
        for i in range(len(dataset)):
            sample = timed("sample", dataset.__getitem__, i)
            picture = timed("squash", protocol.picture, timed("open", lambda: sample.picture))
            maps = {name: timed(f"attention, {name}", source, picture[None])[0] for name, source in sources.items()}
            name = args.attention[0]
            mask = timed("cut", grabcut_mask, picture, maps[name], PRESETS.get(name, GrabCutParams()))
            timed("write", store.write, sample.id, mask)
    print("| step | ms a picture, median |\n|---|---:|")
    for name, each in times.items():
        print(f"| {name} | {statistics.median(each):.2f} |")


START = """
import sys, time, psutil
from locloc.data import load_dataset
from locloc.masks import MaskStore, _missing
dataset, store, process = load_dataset(sys.argv[1], "train"), MaskStore(sys.argv[2], {}), psutil.Process()
before, start = process.memory_info().rss, time.perf_counter()
missing = len(_missing(dataset, store))
seconds, peak = time.perf_counter() - start, __import__("resource").getrusage(__import__("resource").RUSAGE_SELF).ru_maxrss * 1024
print(f"{len(dataset):,} pictures, {missing:,} masks missing: {seconds:.1f} s, {(peak - before)/1e6:.0f} MB more while it is done, {(process.memory_info().rss - before)/1e6:.0f} MB afterwards")
"""


def measure_start(args):
    from index_size import write
    with tempfile.TemporaryDirectory() as folder:
        lists, store, count = write(Path(folder), args.names), Path(folder)/"masks", args.names
        for full in (False, True):
            for i in range(count * full):
                k = i*1000//count
                if i*1000//count != (i - 1)*1000//count:
                    (last := store/f"train/n{10**7 + k:08d}").mkdir(parents=True, exist_ok=True)
                open(last/f"n{10**7 + k:08d}_{i}.png", "wb").close()
            for _ in range(2):
                told = subprocess.run([sys.executable, "-c", START, lists, store], env=os.environ | {"LOCLOC_CACHE": folder}, capture_output=True, text=True, check=True)
            print(told.stdout, end="", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", default=["workers", "memory", "parts", "start"])
    parser.add_argument("--data", default="scenes")
    parser.add_argument("--attention", nargs="+", default=["lowlevel", "locloc-tiny"])
    for name, default in dict(rounds=5, pictures=48, masks=20_000, names=1_281_167).items():
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    for what in args.what:
        print(f"\n{what}", flush=True)
        dict(workers=measure_workers, memory=measure_memory, parts=measure_parts, start=measure_start)[what](args)


if __name__ == "__main__":
    main()
