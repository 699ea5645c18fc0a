"""What the tuner's page keeps: memory of its kernel and of the page after pictures, strokes and reloads.

    python benchmarks/tuner_memory.py [--pictures 500] [--strokes 50] [--points 10] [--reloads 20]

The page of `locloc tune` in Chromium, driven as by a hand: so many pictures one after the other, so many strokes on as
many pictures, so many reloads, each of which ends a kernel and starts another.
"""
import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil
from PIL import Image
from playwright.sync_api import sync_playwright

from locloc.data import load_dataset

sys.path.insert(0, str(Path(__file__).parents[1]/"tests"))
import conftest
import test_browser as t


def write_pictures(folder, many):
    "Scenes as files, each of them several times where there are too few"
    scenes = load_dataset("scenes", "train")
    folder.mkdir()
    for k in range(many):
        Image.fromarray(scenes[k % len(scenes)].picture).save(folder/f"{k:04}.jpg")


def kernels(process):
    return [child for child in psutil.Process(process.pid).children(recursive=True) if t.is_kernel(child)]


class Meter:
    "Prints what the kernel and the page hold"
    def __init__(self, process, page):
        self.process, self.page = process, page
        self.devtools = page.context.new_cdp_session(page)
        self.devtools.send("Performance.enable")
        print("| after | kernels | kernel, MB | page, MB | nodes |\n|---|---:|---:|---:|---:|")

    def row(self, words):
        t.until("one kernel", lambda: len(kernels(self.process)) == 1)
        self.devtools.send("HeapProfiler.collectGarbage")
        found = {one["name"]: one["value"] for one in self.devtools.send("Performance.getMetrics")["metrics"]}
        (kernel,) = kernels(self.process)
        print(f"| {words} | 1 | {kernel.memory_info().rss / 1e6:.0f} | {found['JSHeapUsedSize'] / 1e6:.1f} | "
              f"{found['Nodes']:.0f} |", flush=True)


def next_picture(page, number):
    page.locator(".locloc-next").click()
    t.until_says(page, "", f"{number} of ")


def draw(page, moves):
    "A stroke across the trimap"
    box = page.locator(".locloc-panel-trimap .frame").first.bounding_box()
    x, y = box["x"] + 10, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    for k in range(moves):
        page.mouse.move(x + 8 * k, y + 3 * k)
    page.mouse.up()
    t.until_says(page, "", "1 stroke, kept in")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (("pictures", 500), ("strokes", 50), ("points", 10), ("reloads", 20)):
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as p:
        folder = Path(folder)
        write_pictures(folder/"pictures", args.pictures)
        log, code = folder/"log", "from locloc.cli import main; main()"
        command = [sys.executable, "-c", code, "tune", "pictures", "--no-browser", "--port", str(t.free_port())]
        with log.open("w") as said:
            process = subprocess.Popen(command, cwd=folder, stdout=said, stderr=said,
                                       env=os.environ | {"PYTHONUNBUFFERED": "1"})
        try:
            address = t.until("an address", lambda: re.search(r"http://\S+\n", log.read_text()))[0].strip()
            browser = p.chromium.launch(executable_path=shutil.which("chromium"), args=conftest.BROWSER_FLAGS)
            page = browser.new_page(viewport=dict(width=1440, height=900))
            page.set_default_timeout(180_000)
            page.goto(address)
            t.until_there(page)
            meter = Meter(process, page)
            meter.row("start")
            for number in range(2, args.pictures + 1):
                next_picture(page, number)
                if number in (10, 100, args.pictures):
                    meter.row(f"{number} pictures")
            page.locator(".locloc-brush button").nth(1).click()
            for number in range(args.strokes):
                page.locator(".locloc-previous").click()
                t.until_says(page, "", f"{args.pictures - number - 1} of ")
                draw(page, args.points)
            meter.row(f"a stroke of {args.points} points on each of {args.strokes} pictures")
            for _ in range(args.reloads):
                page.reload()
                t.until_there(page)
            meter.row(f"{args.reloads} reloads")
        finally:
            t.end(process)


if __name__ == "__main__":
    main()
