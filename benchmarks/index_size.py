"""What an index of ILSVRC's size costs: 1,281,167 pictures in wsolevaluation's lists, made on the spot; time and memory, first and later.

    python benchmarks/index_size.py [--pictures 1281167]

Each opening is a process of its own, so that memory is that of the opening; what importing takes is not counted.
"""
import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path

OPEN = """
import json, resource, sys, time
from locloc.data import load_dataset
memory = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/1024
before, start = memory(), time.perf_counter()
data = load_dataset(sys.argv[1], "train")
seconds = time.perf_counter() - start
start = time.perf_counter()
few = [data[i] for i in range(0, len(data), max(1, len(data)//1000))]
print(json.dumps(dict(pictures=len(data), classes=len(data.classes), boxes=sum(len(s.boxes) for s in few), seconds=seconds, megabytes=memory() - before, sample=1e6*(time.perf_counter() - start)/len(few))))
"""


def write(folder, count):
    rng, lists = random.Random(0), folder/"ILSVRC"/"train"
    lists.mkdir(parents=True)
    with open(lists/"image_ids.txt", "w") as ids, open(lists/"class_labels.txt", "w") as labels, open(lists/"image_sizes.txt", "w") as sizes, open(lists/"localization.txt", "w") as boxes:
        for i in range(count):
            k = i*1000//count
            name, w, h = f"train/n{10**7 + k:08d}/n{10**7 + k:08d}_{i}.JPEG", rng.randint(100, 600), rng.randint(100, 600)
            ids.write(f"{name}\n"), labels.write(f"{name},{k}\n"), sizes.write(f"{name},{w},{h}\n"), boxes.write(f"{name},{w//5},{h//5},{w - 9},{h - 9}\n")
    return folder/"ILSVRC"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=1_281_167)
    count = parser.parse_args().pictures
    with tempfile.TemporaryDirectory() as folder:
        lists = write(Path(folder), count)
        for which in ("first time", "later"):
            found = subprocess.run([sys.executable, "-c", OPEN, lists], env=os.environ | {"LOCLOC_CACHE": folder}, capture_output=True, text=True, check=True)
            print(which, {k: round(v, 2) for k, v in json.loads(found.stdout).items()}, "(sample: µs)", flush=True)
        print("kept:", [f"{p.stat().st_size/1e6:.0f} MB" for p in Path(folder).glob("*.npz")])


if __name__ == "__main__":
    main()
