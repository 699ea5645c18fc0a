"""How fast the tuner answers: slider message -> new bytes in the kernel; with --browser slider -> pixels in Chromium.

    python benchmarks/tuner_latency.py [--data FOLDER] [--attention lowlevel] [--sizes 224 448] [--rounds 40]
                                       [--browser]

Fast and exact frames. A frame is all six panels with their words. Pictures' attention is there already, as it is while
a slider is dragged. Without --data: scenes.
"""
import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import torch

from locloc.data import load_dataset
from locloc.widgets import ThresholdTuner


def settings(tuner, rounds):
    "Positions of both handles near the preset's, seeded"
    rng, found = np.random.default_rng(0), []
    for _ in range(rounds):
        delta0, delta1 = float(rng.uniform(.02, .2)), float(rng.uniform(.45, .85))
        found.append(replace(tuner.setting, params=replace(tuner.params, delta0=delta0, delta1=delta1)))
    return found


def in_the_kernel(tuner, fast, rounds, pictures=8):
    "Seconds from a new setting to six new pictures and their words"
    took = []
    for i, setting in enumerate(settings(tuner, rounds)):
        k = i % min(pictures, len(tuner.bench))
        tuner.bench.attention(k, setting)
        start = time.perf_counter()
        tuner._show(tuner.bench.make_cut(k, setting, fast))
        took.append(time.perf_counter() - start)
    return took


def in_the_browser(data, attention, size, presses):
    "Milliseconds from a key on a slider's handle to another picture on the page, and until it is exact"
    sys.path.insert(0, str(Path(__file__).parents[1]/"tests"))
    import test_browser as t
    with tempfile.TemporaryDirectory() as folder, t.playwright.sync_playwright() as p:
        log, port = Path(folder)/"log", t.free_port()
        command = ["tune", data, "--attention", attention, "--size", str(size), "--no-browser", "--port", str(port)]
        code = f"from locloc.cli import main; main({command})"
        with log.open("w") as said:
            process = subprocess.Popen([sys.executable, "-c", code], cwd=folder, stdout=said, stderr=said,
                                       env=os.environ | {"PYTHONUNBUFFERED": "1"})
        try:
            t.wait_for(port, process, log)
            address = t.until("an address", lambda: re.search(r"http://\S+\n", log.read_text()))[0].strip()
            browser = p.chromium.launch(executable_path=t.chromium, args=t.FLAGS)
            page = browser.new_page(viewport=dict(width=1440, height=900))
            page.goto(address)
            panel = "() => document.querySelector('.locloc-panel-grabcut img')?.naturalWidth > 100"
            page.wait_for_function(panel, timeout=90_000)
            page.wait_for_timeout(1500)
            return page.evaluate(WATCH, presses)
        finally:
            t.end(process)


WATCH = """async presses => {
    const handle = document.querySelector('.locloc-deltas .noUi-handle-upper')
    const mask = () => document.querySelector('.locloc-panel-grabcut img')
    const words = () => document.querySelector('.locloc-tuner').innerText
    const press = key => handle.dispatchEvent(new KeyboardEvent('keydown', {key, bubbles: true, cancelable: true}))
    const shown = before => new Promise(done => {
        const look = () => {
            if (mask().src !== before && mask().complete) requestAnimationFrame(() => done(performance.now()))
            else requestAnimationFrame(look)
        }
        look()
    })
    const first = [], exact = []
    for (let i = 0; i < presses; i++) {
        const before = mask().src, start = performance.now()
        for (const key of Array(3).fill('ArrowLeft')) press(key)
        first.push(await shown(before) - start)
        while (words().includes('≈')) await new Promise(requestAnimationFrame)
        exact.push(performance.now() - start)
        await new Promise(done => setTimeout(done, 500))
    }
    return {first, exact}
}"""


def print_row(name, seconds):
    middle, slow = np.percentile(seconds, [50, 95]) * 1000
    print(f"| {name} | {middle:.0f} | {slow:.0f} | {len(seconds)} |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="scenes")
    parser.add_argument("--attention", default="lowlevel")
    parser.add_argument("--sizes", type=int, nargs="+", default=[224, 448])
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--browser", action="store_true")
    args = parser.parse_args()
    print(f"{args.data}, {args.attention}, {cv2.getNumThreads()} OpenCV and {torch.get_num_threads()} torch threads\n\n"
          "| six panels | p50, ms | p95, ms | n |\n|---|---:|---:|---:|")
    dataset = load_dataset(args.data).subset(40)
    for size in args.sizes:
        tuner = ThresholdTuner(dataset, args.attention, size=size)
        for kind, fast in (("fast", True), ("exact", False)):
            in_the_kernel(tuner, fast, 8) # warm-up
            print_row(f"{size} px, {kind}, kernel", in_the_kernel(tuner, fast, args.rounds))
        if args.browser:
            found = in_the_browser(args.data, args.attention, size, 12)
            print_row(f"{size} px, slider → pixels, first", np.array(found["first"]) / 1000)
            print_row(f"{size} px, slider → pixels, exact (after .15 s of rest)", np.array(found["exact"]) / 1000)


if __name__ == "__main__":
    main()
