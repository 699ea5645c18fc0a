"""How fast the tuner answers: what a hand does -> new views in the kernel; with --browser -> new pixels in Chromium.

    python benchmarks/tuner_latency.py [--data FOLDER] [--sizes 224 448] [--rounds 40] [--browser]

A frame is all six views with their words. While a slider moves and while a stroke is drawn the pictures' attention is
there already, and views larger than 224 px get a fast frame first, the exact one after .15 s of rest; another picture
and another source need attention anew. Without --data: scenes. Another version of the code:
PYTHONPATH=CHECKOUT python benchmarks/tuner_latency.py
"""
import argparse
import os
import re
import shutil
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

SOURCES = "lowlevel", "locloc-tiny"


def settings(tuner, rounds):
    "Positions of both handles near the preset's, seeded"
    rng, found = np.random.default_rng(0), []
    for _ in range(rounds):
        delta0, delta1 = float(rng.uniform(.02, .2)), float(rng.uniform(.45, .85))
        found.append(replace(tuner.setting, params=replace(tuner.params, delta0=delta0, delta1=delta1)))
    return found


def strokes(rounds, points=40):
    "One that grows"
    path = [[.2 + .6 * k / points, .3] for k in range(points)]
    return [[dict(kind="foreground", size=.03, points=path[:2 + k % points])] for k in range(rounds)]


def seconds(action, many):
    took = []
    for one in many:
        start = time.perf_counter()
        action(one)
        took.append(time.perf_counter() - start)
    return took


def in_the_kernel(data, size, rounds):
    "What was done -> seconds, many"
    tuner = ThresholdTuner(data, size=size)
    tuner.bench.attention(0, tuner.setting)
    def frame(setting, fast, *strokes):
        tuner._show(tuner.bench.make_cut(0, setting, fast, *strokes))
    moved = settings(tuner, rounds)
    frame(moved[0], True)
    frame(moved[0], False)
    found = {"slider, first frame": seconds(lambda setting: frame(setting, True), moved),
             "slider, exact": seconds(lambda setting: frame(setting, False), moved)}
    if hasattr(tuner, "brush"):
        found["stroke, first frame"] = seconds(lambda drawn: frame(moved[0], True, drawn), strokes(rounds))
    pictures = len(tuner.bench)
    found["next picture"] = seconds(tuner.go, range(1, min(rounds + 1, pictures)))
    for name in SOURCES[::-1]:
        tuner.controls.source.value = name # the model is there
    took = []
    for k in range(min(rounds, pictures - 1)):
        tuner.bench = type(tuner.bench)(data, tuner.bench.sources.first, size) if k == 0 else tuner.bench
        tuner.go(k)
        took += seconds(lambda name: setattr(tuner.controls.source, "value", name), [SOURCES[(k + 1) % 2]])
    found["another source"] = took
    return found


WATCH = """([event, exact]) => {
    const views = () => [...document.querySelectorAll('.locloc-tuner img')]
    const sources = () => views().map(view => view.src).join()
    const words = () => document.querySelector('.locloc-tuner').innerText
    const before = sources()
    window.watched = new Promise(done => document.addEventListener(event, () => {
        const start = performance.now()
        let first = null
        const look = () => {
            const drawn = sources() !== before && views().every(view => view.complete)
            if (first === null && drawn) first = performance.now() - start
            if (first !== null && !(exact && words().includes('≈'))) done([first, performance.now() - start])
            else requestAnimationFrame(look)
        }
        requestAnimationFrame(look)
    }, {once: true, capture: true}))
}"""


class Page:
    "The page of `locloc tune`, and a hand on it"
    def __init__(self, page):
        self.page = page

    def milliseconds(self, event, act, exact=True): # False: not waited for, as while a stroke is drawn
        "From that event of the hand to other pixels, and until they are exact"
        self.page.evaluate(WATCH, [event, exact])
        act()
        took = self.page.evaluate("() => window.watched")
        self.page.wait_for_timeout(400)
        return took

    def slide(self):
        return self.milliseconds(
            "keydown", lambda: self.page.locator(".locloc-deltas .noUi-handle-upper").press("PageDown"))

    def next(self):
        return self.milliseconds("click", lambda: self.page.locator(".locloc-next").click())

    def take(self, source):
        return self.milliseconds(
            "change", lambda: self.page.locator(".locloc-source select").select_option(label=source))

    def draw(self, moves):
        "A stroke over the object; one answer a move of the hand"
        mouse, found = self.page.mouse, []
        self.page.locator(".locloc-brush button").nth(2).click()
        frame = self.page.locator(".locloc-panel-trimap .frame").first
        frame.scroll_into_view_if_needed()
        box = frame.bounding_box()
        x, y = box["x"] + box["width"] * .2, box["y"] + box["height"] * .5
        mouse.move(x, y)
        mouse.down()
        for k in range(moves):
            def move(k=k):
                mouse.move(x + box["width"] * .6 * (k + 1) / moves, y)
            found.append(self.milliseconds("pointermove", move, exact=False))
        mouse.up()
        self.page.locator(".locloc-brush button").first.click()
        return found


def in_the_browser(data, size, rounds):
    "What was done -> milliseconds until first and until exact pixels, many"
    sys.path.insert(0, str(Path(__file__).parents[1]/"tests"))
    import conftest
    import test_browser as t
    from playwright.sync_api import sync_playwright
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as p:
        log, port = Path(folder)/"log", t.free_port()
        command = ["tune", data, "--size", str(size), "--no-browser", "--port", str(port)]
        code = f"from locloc.cli import main; main({command})"
        with log.open("w") as said:
            process = subprocess.Popen([sys.executable, "-c", code], cwd=folder, stdout=said, stderr=said,
                                       env=os.environ | {"PYTHONUNBUFFERED": "1"})
        try:
            t.wait_for(port, process, log)
            address = t.until("an address", lambda: re.search(r"http://\S+\n", log.read_text()))[0].strip()
            browser = p.chromium.launch(executable_path=shutil.which("chromium"), args=conftest.BROWSER_FLAGS)
            page = browser.new_page(viewport=dict(width=1440, height=900))
            page.goto(address)
            page.locator(".locloc-tuner img").nth(5).wait_for(timeout=90_000)
            page.wait_for_timeout(1500)
            hand = Page(page)
            found = {"slider": [hand.slide() for _ in range(rounds)]}
            if page.locator(".locloc-brush").count():
                found["stroke"] = hand.draw(rounds)
            found["next picture"] = [hand.next() for _ in range(rounds)]
            for source in SOURCES[::-1]:
                hand.take(source)
            found["another source"] = []
            for k in range(rounds):
                hand.next()
                found["another source"].append(hand.take(SOURCES[(k + 1) % 2]))
            return found
        finally:
            t.end(process)


def print_row(name, milliseconds):
    middle, slow = np.percentile(milliseconds, [50, 95])
    print(f"| {name} | {middle:.0f} | {slow:.0f} | {len(milliseconds)} |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="scenes")
    parser.add_argument("--sizes", type=int, nargs="+", default=[224, 448])
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--browser", action="store_true")
    args = parser.parse_args()
    print(f"{args.data}, {cv2.getNumThreads()} OpenCV and {torch.get_num_threads()} torch threads\n\n"
          "| six views | p50, ms | p95, ms | n |\n|---|---:|---:|---:|")
    for size in args.sizes:
        for what, took in in_the_kernel(load_dataset(args.data, "train").subset(100), size, args.rounds).items():
            print_row(f"{size} px, kernel: {what}", np.array(took) * 1000)
        if args.browser:
            for what, took in in_the_browser(args.data, size, 15).items():
                first, exact = np.array(took).T
                print_row(f"{size} px, browser: {what}", first)
                if size > 224 and what == "slider":
                    print_row(f"{size} px, browser: {what}, exact", exact)


if __name__ == "__main__":
    main()
