"""ILSVRC's 1.28 million pictures without ILSVRC: each stage on a slice of them, its memory, and its time against what
`locloc forecast` says.

    python benchmarks/ilsvrc_simulated.py [--quick] [--pictures FOLDER] [--count 1281167] [--files 2000]
                                          [--masks 10000] [--views 4000] [--evaluated 1500] [--seconds 60]

An index.csv names a few thousand JPEGs of 500 x 375 (scenes, or the pictures of the data set FOLDER) under as many ids
as ILSVRC has, by links to their folder, and 50,000 more as split test. Every stage is a process of its own. About ten
minutes on two cores, --quick about one.

list       `load_dataset`, the first time and later
masks      one shard of so many that it holds --masks pictures, by two processes
missing    what a store that holds all masks but one shard's still needs: names compared with (empty) files
features   --views views of those pictures, cached, and the steps of an epoch on them
input      the order of one epoch over all pictures, and --views fresh views from its beginning, augmented
evaluation --evaluated pictures of split test by the model that the features gave

Memory is that of the process and its children at a quarter, half and the end of a stage; what it is called flat by is
the end against the quarter. Pages of cached features that are being written count as memory until the system wants
them back.
"""
import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path

import cv2
import psutil
from PIL import Image

CLASSES = 1000


def write_pictures(folder, count, data):
    "JPEGs of 500 x 375"
    from locloc.data import load_dataset
    dataset = load_dataset(data, "train", count=count) if data == "scenes-hard" else load_dataset(data, "train")
    folder.mkdir()
    for i in range(count):
        picture = cv2.resize(dataset[i % len(dataset)].picture, (500, 375), interpolation=cv2.INTER_CUBIC)
        Image.fromarray(picture).save(folder/f"{i:05d}.jpg", quality=92)


def write_index(folder, files, counts):
    "index.csv of so many pictures a split, and links to the folder of files"
    with open(folder/"index.csv", "w") as lines:
        lines.write("image,class,split,width,height,x0,y0,x1,y1,mask\n")
        for split, count in counts.items():
            for copy in range(math.ceil(count/files)):
                place = folder/"images"/f"{split}{copy:04d}"
                place.parent.mkdir(exist_ok=True)
                place.symlink_to("../files", target_is_directory=True)
                for i in range(min(files, count - copy*files)):
                    number = copy*files + i
                    lines.write(f"images/{place.name}/{i:05d}.jpg,c{number*CLASSES//count:03d},{split},500,375,"
                                f"{number % 200},{number % 150},400,300,\n")


def resident():
    process, total = psutil.Process(), 0
    for one in [process, *process.children(recursive=True)]:
        try:
            total += one.memory_info().rss
        except psutil.NoSuchProcess:
            pass
    return total/1e6


@contextmanager
def measured(name, units=0):
    "Prints a line of JSON: seconds, memory at the start and in the course"
    seen, ended, start = [resident()], threading.Event(), time.perf_counter()

    def watch():
        while not ended.wait(.2):
            seen.append(resident())

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    yield
    seconds = time.perf_counter() - start
    ended.set()
    thread.join()
    seen.append(resident())
    at = {f"at_{share:.0%}": round(seen[int(share*(len(seen) - 1))]) for share in (0, .25, .5, 1)}
    print(json.dumps(dict(stage=name, units=units, seconds=seconds, peak=round(max(seen)), **at)), flush=True)


def load(folder, split="train"):
    from locloc.data import load_dataset
    return load_dataset(folder, split=split)


def shard_of(dataset, args):
    return 1, max(1, len(dataset)//args.masks)


def in_shard(dataset, args):
    parts = shard_of(dataset, args)[1]
    return [i for i in range(len(dataset)) if i//16 % parts == 0]


def run_list(args):
    for name in ("list, first time", "list, later"):
        with measured(name):
            load(args.folder)


def run_masks(args):
    from locloc.stores import make_masks
    dataset = load(args.folder)
    with measured("masks", len(in_shard(dataset, args))):
        make_masks(dataset, args.folder/"masks", workers=2, shard=shard_of(dataset, args), progress=False)


def run_missing(args):
    from locloc.stores import MaskStore, _missing
    dataset, store, shard = load(args.folder), MaskStore(args.folder/"full", {}), set(in_shard(load(args.folder), args))
    with measured("fill a store", len(dataset) - len(shard)):
        folders = set()
        for i, id in enumerate(dataset.ids()):
            file = store.folder/(id[:-4] + ".png")
            if file.parent not in folders:
                file.parent.mkdir(parents=True)
                folders.add(file.parent)
            if i not in shard:
                os.close(os.open(file, os.O_CREAT | os.O_WRONLY))
    with measured("missing", len(dataset)):
        assert len(_missing(dataset, store)) == len(shard)


def run_features(args):
    from locloc.forecast import Marks, watch_training
    from locloc.stores import MaskStore
    from locloc.train import GEGConfig, train
    dataset = load(args.folder)
    slice_of_shard = dataset.subset(in_shard(dataset, args)[:args.views])
    config = replace(GEGConfig.of("tiny"), out=args.folder/"geg", epochs=1, cached_views=1)
    features, steps = Marks(), Marks()
    with measured("features and steps", len(slice_of_shard)):
        train(watch_training(config, features, steps), slice_of_shard, MaskStore(args.folder/"masks"), progress=False)
    for name, marks, units in (("features", features, len(slice_of_shard)), ("steps", steps, len(steps.moments))):
        seconds = marks.moments[-1] - marks.moments[0]
        print(json.dumps(dict(stage=name, units=units, seconds=seconds*units/max(1, units - (name == "steps")))))


def run_input(args):
    from locloc.train import LFDMConfig, TrainSet, _loader
    config = replace(LFDMConfig.of("paper"), augment=False, batch=32)
    data = TrainSet(load(args.folder), config)
    loader = _loader(config, data)
    with measured("order of an epoch", len(data)):
        for _ in loader.batch_sampler:
            pass
    with measured("input of an epoch", args.views//32*32):
        for _ in islice(loader, args.views//32):
            pass


def run_evaluation(args):
    from locloc.evaluate import evaluate
    from locloc.model import LocLoc
    from locloc.train import LFDMConfig
    trained = LocLoc.load(args.folder/"geg/model")
    dataset = load(args.folder, "test")
    lfdm = LFDMConfig.of("tiny").stage(trained.backbone, len(dataset.classes)).head
    model = LocLoc(trained.backbone, trained.geg, lfdm, dataset.classes)
    with measured("evaluation", args.evaluated):
        evaluate(dataset.subset(args.evaluated), [model], ("wsoleval", "locloc"), progress=False, workers=2)


STAGES = dict(list=run_list, masks=run_masks, missing=run_missing, features=run_features, input=run_input,
              evaluation=run_evaluation)
FORECAST = {"masks": "masks", "features": "GEG, features", "steps": "GEG, steps", "evaluation": "evaluation"}


def run_forecast(args):
    command = [sys.executable, "-c", "from locloc.cli import main; main()", "forecast", "--data", args.folder,
               "--json", "--workers", "2", "--seconds", args.seconds]
    start = time.perf_counter()
    said = subprocess.run([*map(str, command)], check=True, text=True, stdout=subprocess.PIPE, env=environment(args))
    found, = json.loads(said.stdout)
    print(f"forecast in {time.perf_counter() - start:.0f} s: all of it takes {found['whole']['seconds']/3600:.0f} h "
          f"({found['whole']['low']/3600:.0f} to {found['whole']['high']/3600:.0f}), most of it "
          f"{found['whole']['bottleneck']}; "
          + "; ".join(f"{one['name']} {one['bytes']/1e9:.2f} GB" for one in found["disk"]), flush=True)
    return {stage["name"]: stage["pace"] for stage in found["stages"]}


def environment(args):
    return os.environ | {"LOCLOC_CACHE": str(args.folder/"cache")}


def run_stage(name, args):
    "-> what it measured; in a process of its own"
    options = [f"--{option}={getattr(args, option)}" for option in ("count", "files", "masks", "views", "evaluated")]
    command = [sys.executable, __file__, "--stage", name, "--folder", str(args.folder), *options]
    said = subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE, env=environment(args))
    return [json.loads(line) for line in said.stdout.splitlines() if line.startswith("{")]


def print_line(found, paces):
    pace = paces.get(FORECAST.get(found["stage"]))
    told = "– | –"
    if pace:
        forecast = pace["seconds"]*found["units"]
        told = (f"{forecast:.1f} ({pace['low']*found['units']:.1f} to {pace['high']*found['units']:.1f}) "
                f"| {found['seconds']/forecast:.2f}")
    memory = " | ".join(str(found.get(name, "–")) for name in ("at_0%", "at_25%", "at_50%", "at_100%", "peak"))
    print(f"| {found['stage']} | {found['units']:,} | {found['seconds']:.1f} | {told} | {memory} |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--pictures", default="scenes-hard")
    numbers = dict(count=1_281_167, files=2000, masks=10_000, views=4000, evaluated=1500, seconds=60)
    for name, default in numbers.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--stage", choices=list(STAGES), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.stage:
        return STAGES[args.stage](args)
    if args.quick:
        small = dict(count=128_000, files=200, masks=500, views=240, evaluated=96, seconds=10)
        args = argparse.Namespace(**vars(args) | small)
    with tempfile.TemporaryDirectory() as folder:
        args.folder = Path(folder)
        start = time.perf_counter()
        write_pictures(args.folder/"files", args.files, args.pictures)
        write_index(args.folder, args.files, dict(train=args.count, test=50_000))
        print(f"{args.count:,} ids of {args.files:,} files, written in {time.perf_counter() - start:.0f} s", flush=True)
        paces = run_forecast(args)
        print("| stage | units | s | forecast, s | took / forecast | MB at its start | at 1/4 | at 1/2 | at its end "
              "| peak |\n|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|", flush=True)
        for name in STAGES:
            for found in run_stage(name, args):
                print_line(found, paces)


if __name__ == "__main__":
    main()
