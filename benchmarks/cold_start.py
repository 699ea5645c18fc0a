"""How long a command takes in a fresh process, and which large modules it loads

    python benchmarks/cold_start.py [--rounds 5] [--only masks] [--against CHECKOUT]

`--against` names another checkout (`git worktree add ../before COMMIT`); both take turns. Each command runs once
before it is measured, so files are in memory and loops are compiled. A row: seconds, seconds of CPU and MB at the peak
(medians), and what is in `sys.modules` at the end. `tune, page` is what a page's kernel does until the tuner is there.
"""
import argparse
import os
import re
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HEAVY = "torch", "torch._dynamo", "torchvision", "timm", "accelerate", "numba", "scipy.stats", "skimage", "matplotlib"
COMMAND = "import sys; from locloc.cli import main; main(sys.argv[1:])"
PAGE = """from locloc.widgets import tuning_page
tuning_page("pictures")"""
REPORT = """import atexit, resource, sys
def report():
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    open("report", "w").write(" ".join([str(memory), *sys.modules]))
atexit.register(report)
"""
PICTURES = """from pathlib import Path
from PIL import Image
from locloc.data import load_dataset
dataset = load_dataset("scenes", count=8)
for i in range(8):
    sample = dataset[i]
    folder = Path("pictures")/dataset.classes[sample.label]
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(sample.picture).save(folder/f"{i}.png")
Image.fromarray(sample.picture).save("photo.png")"""
COMMANDS = {
    "--help": "--help",
    "masks --help": "masks --help",
    "train --help": "train --help",
    "compare --help": "compare --help",
    "info": "info",
    "info STORE": "info masks",
    "data check": "data check pictures",
    "masks": "masks --data pictures --out new --workers 0",
    "masks, 2 workers": "masks --data pictures --out new --workers 2",
    "masks --check": "masks --data pictures --out masks --workers 0 --check",
    "predict": "predict photo.png --out answers",
    "predict, lowlevel": "predict photo.png --out answers --method grabcut:lowlevel",
    "tune, page": PAGE,
    "tune": "tune photo.png --no-browser",
    "browse": "browse masks --data pictures --no-browser",
}


def run_until(process, words):
    "Read lines up to one with these words, then interrupt"
    for line in process.stdout:
        if words in line:
            seconds = time.perf_counter()
            process.send_signal(2)
            process.communicate()
            return seconds
    raise SystemExit(f"it ended without {words!r}")


def measure(checkout, folder, what):
    "-> seconds, seconds of CPU, MB, heavy modules"
    code, args = (what, []) if "\n" in what else (COMMAND, what.split())
    shutil.rmtree(folder/"new", ignore_errors=True)
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-c", REPORT + code, *args], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        text=True, env=os.environ | {"PYTHONPATH": str(checkout), "HF_HUB_OFFLINE": "1"})
    if args[:1] in (["tune"], ["browse"]):
        end = run_until(process, "http://localhost")
    else:
        process.communicate()
        end = time.perf_counter()
        if process.returncode:
            raise SystemExit(f"{what}: status {process.returncode}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    memory, *loaded = (folder/"report").read_text().split()
    return end - start, cpu, int(memory)/1024, [name for name in HEAVY if name in loaded]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default="", help="regular expression of the rows")
    parser.add_argument("--against", type=Path, help="another checkout")
    args = parser.parse_args()
    checkouts = [Path(__file__).resolve().parents[1]] + ([args.against.resolve()] if args.against else [])
    rows = {name: what for name, what in COMMANDS.items() if re.search(args.only, name)}
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        measure(checkouts[0], folder, PICTURES)
        measure(checkouts[0], folder, "masks --data pictures --out masks --workers 0")
        print(f"{'command':<20} {'checkout':<12} {'s':>6} {'CPU s':>6} {'MB':>5}  loaded", flush=True)
        for name, what in rows.items():
            found = {checkout: [] for checkout in checkouts}
            for number in range(args.rounds + 1):
                for checkout, runs in found.items():
                    run = measure(checkout, folder, what)
                    runs += [run] if number else []
            for checkout, runs in found.items():
                seconds, cpu, memory = (statistics.median(run[i] for run in runs) for i in range(3))
                figures = f"{seconds:6.2f} {cpu:6.2f} {memory:5.0f}"
                print(f"{name:<20} {checkout.name:<12} {figures}  {' '.join(runs[-1][-1])}", flush=True)


if __name__ == "__main__":
    main()
