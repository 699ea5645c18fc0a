"""What an index of ILSVRC's size costs: 1,281,167 pictures in wsolevaluation's lists; time and memory, first and later.

    python benchmarks/index_size.py [--pictures 1281167]

The lists are made on the spot. Each opening is a process of its own, so that memory is that of the opening; what
importing takes is not counted.
"""
import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

OPEN = """
import json, resource, sys, time
from locloc.data import load_dataset

def megabytes():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/1024

before, start = megabytes(), time.perf_counter()
data = load_dataset(sys.argv[1], "train")
seconds = time.perf_counter() - start
start = time.perf_counter()
few = [data[i] for i in range(0, len(data), max(1, len(data)//1000))]
microseconds = 1e6*(time.perf_counter() - start)/len(few)
print(json.dumps(dict(
    pictures=len(data), classes=len(data.classes), boxes=sum(len(sample.boxes) for sample in few),
    seconds=seconds, megabytes=megabytes() - before, sample=microseconds)))
"""


def picture_name(i, count):
    "Without its suffix: the i-th of `count` pictures in a thousand classes of the same size"
    k = i*1000//count
    return f"train/n{10**7 + k:08d}/n{10**7 + k:08d}_{i}"


def write_lists(folder, count):
    "wsolevaluation's four lists of so many pictures -> their folder; there are no pictures"
    rng, lists = random.Random(0), folder/"ILSVRC"/"train"
    lists.mkdir(parents=True)
    with ExitStack() as stack:
        ids, labels, sizes, boxes = (
            stack.enter_context(open(lists/f"{name}.txt", "w"))
            for name in ("image_ids", "class_labels", "image_sizes", "localization"))
        for i in range(count):
            name, w, h = f"{picture_name(i, count)}.JPEG", rng.randint(100, 600), rng.randint(100, 600)
            ids.write(f"{name}\n")
            labels.write(f"{name},{i*1000//count}\n")
            sizes.write(f"{name},{w},{h}\n")
            boxes.write(f"{name},{w//5},{h//5},{w - 9},{h - 9}\n")
    return folder/"ILSVRC"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=1_281_167)
    count = parser.parse_args().pictures
    with tempfile.TemporaryDirectory() as folder:
        lists = write_lists(Path(folder), count)
        for which in ("first time", "later"):
            opened = subprocess.run([sys.executable, "-c", OPEN, lists], env=os.environ | {"LOCLOC_CACHE": folder},
                                    capture_output=True, text=True, check=True)
            figures = {name: round(value, 2) for name, value in json.loads(opened.stdout).items()}
            print(which, figures, "(sample: µs)", flush=True)
        print("kept:", [f"{file.stat().st_size/1e6:.0f} MB" for file in Path(folder).glob("*.npz")])


if __name__ == "__main__":
    main()
