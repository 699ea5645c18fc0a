"""The tuner in a real browser: JupyterLab and the page of `locloc tune`.

Set LOCLOC_SCREENSHOTS to a folder to keep pictures of both at two sizes in both themes.
"""
import base64
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import psutil
import pytest
from conftest import hard_to_use

from locloc.data import load_dataset
from locloc.masks import GrabCutParams
from locloc.stores import make_masks

root = Path(__file__).parents[1]
SIZES = (1440, 900), (1024, 768)
PHONE = 390, 844
PATIENCE = 180 # s, for anything that is waited for: a busy machine is slow, not broken


def until(what, look, pause=.1, give_up=lambda: None):
    "What `look` gives as soon as it is true; `give_up` raises where waiting is no use"
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        found = look()
        if found:
            return found
        give_up()
        time.sleep(pause)
    raise AssertionError(f"waited {PATIENCE} s for {what}")


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    "Nothing of the user's settings, and this checkout"
    home = tmp_path_factory.mktemp("home")
    kinds = "CONFIG_DIR", "DATA_DIR", "RUNTIME_DIR"
    names = [f"JUPYTER_{kind}" for kind in kinds] + ["JUPYTERLAB_SETTINGS_DIR", "JUPYTERLAB_WORKSPACES_DIR"]
    return os.environ | {"HOME": str(home), "PYTHONPATH": str(root), **{name: str(home/name) for name in names}}


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def wait_for(port, process, log):
    def answers():
        with socket.socket() as s:
            return not s.connect_ex(("localhost", port))
    def give_up():
        assert process.poll() is None, log.read_text()
    until(f"an answer on port {port}", answers, give_up=give_up)


def end(process):
    "As Ctrl-C does"
    process.send_signal(signal.SIGINT)
    try:
        return process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        raise


TUNE = """from locloc.data import load_dataset
from locloc.widgets import ThresholdTuner
tuner = ThresholdTuner(load_dataset('scenes', split='test', count=5))
tuner"""


def write_notebook(path, code):
    cell = dict(cell_type="code", id="tune", metadata={}, execution_count=None, outputs=[], source=code)
    kernel = dict(name="python3", display_name="python3", language="python")
    content = dict(cells=[cell], metadata=dict(kernelspec=kernel), nbformat=4, nbformat_minor=5)
    path.write_text(json.dumps(content))


def silence_news(settings):
    folder = Path(settings)/"@jupyterlab"/"apputils-extension"
    folder.mkdir(parents=True)
    quiet = dict(fetchNews="false", checkForUpdates=False, doNotDisturbMode=True)
    (folder/"notification.jupyterlab-settings").write_text(json.dumps(quiet))


@pytest.fixture(scope="module")
def lab(environment, tmp_path_factory):
    folder, port = tmp_path_factory.mktemp("lab"), free_port()
    write_notebook(folder/"tune.ipynb", TUNE)
    silence_news(environment["JUPYTERLAB_SETTINGS_DIR"])
    log = folder/"log"
    command = [
        sys.executable, "-m", "jupyterlab", "--no-browser", "--ip=127.0.0.1", f"--port={port}", "--allow-root",
        "--ServerApp.port_retries=0", "--IdentityProvider.token=", "--ServerApp.password=",
        "--ServerApp.disable_check_xsrf=True", "--LabApp.expose_app_in_browser=True", f"--ServerApp.root_dir={folder}",
    ]
    with log.open("w") as said:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=said, stderr=said, start_new_session=True)
    try:
        wait_for(port, process, log)
        yield f"http://127.0.0.1:{port}/lab/tree/tune.ipynb?reset", folder
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()


def pixels(page, panel):
    "What the browser shows of a panel"
    return cv2.imdecode(np.frombuffer(page.locator(f".locloc-panel-{panel} .frame").first.screenshot(), np.uint8), 1)


def until_there(page):
    page.wait_for_function("() => document.querySelector('.locloc-panel-grabcut img')?.naturalWidth > 100")


def until_changed(page, panel, before):
    def changed():
        now = pixels(page, panel)
        return now.shape != before.shape or np.abs(now.astype(int) - before).max() > 40
    until(f"the panel {panel} to change", changed, .05)


def until_says(page, part, words):
    page.wait_for_function(
        "([part, words]) => document.querySelector(`.locloc-tuner ${part}`).innerText.includes(words)",
        arg=[part, words])


def until_exact(page):
    page.wait_for_function("() => !document.querySelector('.locloc-tuner').innerText.includes('≈')")


def drag(page, handle, by):
    page.locator(".locloc-deltas").scroll_into_view_if_needed()
    box = page.locator(f".locloc-deltas .noUi-handle-{handle}").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    for step in range(1, 9):
        page.mouse.move(x + by * step / 8, y)
        page.wait_for_timeout(30) # a hand is not faster
    page.mouse.up()


def number(page, name):
    return float(page.locator(f".locloc-{name} input").input_value())


def use_the_tuner(page, folder, second):
    "Drag, look, next, arrow key, save, read back; second: name of the second picture"
    until_there(page)
    mask, marks, was = pixels(page, "grabcut"), pixels(page, "trimap"), number(page, "delta0")
    drag(page, "lower", 60)
    until("another δ0", lambda: number(page, "delta0") > was)
    until_changed(page, "trimap", marks)
    until_changed(page, "grabcut", mask)
    until_exact(page)
    exact, before = pixels(page, "grabcut"), number(page, "delta1")
    page.locator(".locloc-deltas .noUi-handle-upper").press("ArrowLeft")
    until("a smaller δ1", lambda: number(page, "delta1") < before)
    page.locator(".locloc-next").click()
    until_says(page, "", "2 of ")
    until_says(page, "", second)
    until_changed(page, "picture", pixels(page, "picture") * 0) # something is shown
    until_changed(page, "grabcut", exact)
    until_exact(page)
    page.locator(".locloc-more").click()
    page.locator(".locloc-save").click()
    until_says(page, ".locloc-status", "saved params.json")
    kept = GrabCutParams.from_json((folder/"params.json").read_text())
    assert (kept.delta0, kept.delta1) == (number(page, "delta0"), number(page, "delta1"))
    assert kept.delta0 > was and kept.delta1 < before
    command = page.locator(".locloc-command input")
    assert command.input_value().endswith("--params params.json")
    page.locator(".locloc-command button").click()
    until("the command to be copied", lambda: page.locator(".locloc-command button").inner_text() == "copied")
    page.locator(".locloc-save").click()
    until_says(page, ".locloc-save", "press again to overwrite")
    page.locator(".locloc-more").click()
    page.locator(".locloc-explain-split").click()
    page.wait_for_function("() => document.querySelector('.locloc-tuner svg[role=img]')?.clientWidth > 100")
    page.locator(".locloc-explain-split").click()


def stroke(page, panel):
    "Draw over the upper left corner"
    box = page.locator(f".locloc-panel-{panel} .frame").first.bounding_box()
    page.mouse.move(box["x"] + 5, box["y"] + 5)
    page.mouse.down()
    for step in range(1, 9):
        page.mouse.move(box["x"] + 5 + box["width"] * step / 24, box["y"] + 5 + step)
        page.wait_for_timeout(30)
    page.mouse.up()


def correct_and_compare(page, folder):
    "Brush, undo, pin, zoom: what a hand does beside the sliders"
    page.locator(".locloc-tuner .locloc-picture-panel").scroll_into_view_if_needed()
    mask = pixels(page, "grabcut")
    page.locator(".locloc-brush button").nth(1).click()
    stroke(page, "trimap")
    until("a correction that is kept", lambda: list(folder.glob("corrections/**/*.json")))
    until_changed(page, "grabcut", mask)
    until_says(page, "", "1 stroke, kept in")
    until("the command to tell", lambda: "--corrections" in page.locator(".locloc-command input").input_value())
    page.locator(".locloc-undo").click()
    until("no correction", lambda: not list(folder.glob("corrections/**/*.json")))
    page.locator(".locloc-brush button").first.click()
    page.locator(".locloc-pin").click()
    page.wait_for_function("() => document.querySelectorAll('.locloc-panel-grabcut').length === 2")
    page.locator(".locloc-pin").click()
    page.wait_for_function("() => document.querySelectorAll('.locloc-panel-grabcut').length === 1")
    whole = pixels(page, "picture")
    page.locator(".locloc-panel-picture .frame").first.dblclick()
    box = page.locator(".locloc-panel-picture .frame").first.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 3, box["y"] + box["height"] / 3)
    page.keyboard.down("Control")
    page.mouse.wheel(0, -400)
    page.keyboard.up("Control")
    until_changed(page, "picture", whole)
    page.locator(".locloc-picture-panel .tools button").last.click()


def sweep_and_choose(page):
    "The second tab: press a number of the heat map, and the tuner has its thresholds"
    page.get_by_role("tab", name="Sweep").click()
    page.locator(".locloc-sweep .locloc-start").click()
    page.locator(".locloc-sweep img").wait_for()
    button = page.locator(".locloc-heat button").last
    button.click()
    page.locator(".locloc-sweep").get_by_text("are set in the tuner").wait_for()
    assert hard_to_use(page, ".locloc-sweep") == []
    chosen = re.search(r"δ0 (\S+), δ1 (\S+);", button.get_attribute("title"))
    assert [float(one) for one in chosen.groups()] == [number(page, "delta0"), number(page, "delta1")]
    page.get_by_role("tab", name="Tuner").click()


DROP = """([text, name]) => {
    const bytes = Uint8Array.from(atob(text), c => c.charCodeAt(0))
    const data = new DataTransfer()
    data.items.add(new File([bytes], name))
    const frame = document.querySelector(".locloc-panel-picture .frame")
    for (const kind of ["dragenter", "dragover", "drop"])
        frame.dispatchEvent(new DragEvent(kind, { dataTransfer: data, bubbles: true, cancelable: true }))
}"""


def drop_pictures(page, folder):
    "One by drag and drop, one by the button that is larger than a server takes in one message; both stay in memory"
    before = sorted(folder.rglob("*.jpg")) + sorted(folder.rglob("*.png"))
    cat = (root/"data"/"images"/"cat"/"chelsea.jpg").read_bytes()
    page.evaluate(DROP, [base64.b64encode(cat).decode(), "cat.jpg"])
    until_says(page, "", "cat.jpg (dropped)")
    until_says(page, "", "lies in no folder")
    noise = np.random.default_rng(0).integers(0, 256, (2000, 2000, 3), np.uint8)
    data = cv2.imencode(".png", noise, [cv2.IMWRITE_PNG_COMPRESSION, 1])[1].tobytes()
    assert len(data) > 11e6
    page.locator(".locloc-tuner input[type=file]").set_input_files(dict(name="n.png", mimeType="", buffer=data))
    until_says(page, "", "2000 × 2000 px")
    page.evaluate(DROP, [base64.b64encode(b"no picture").decode(), "notes.txt"])
    until_says(page, ".locloc-status", "notes.txt: not a picture")
    until_says(page, "", "2000 × 2000 px")
    assert sorted(folder.rglob("*.jpg")) + sorted(folder.rglob("*.png")) == before
    page.locator(".locloc-previous").click()
    until_says(page, "", "cat.jpg (dropped)")


def masks_are_in_sight(page):
    "With the sliders above them, in a window of 1440 x 900"
    page.locator(".locloc-tuner").evaluate("one => one.scrollIntoView({ block: 'start' })")
    page.wait_for_function("""() => ["picture", "grabcut", "ppd", "difference"].every(name =>
        document.querySelector(`.locloc-panel-${name} .frame`).getBoundingClientRect().bottom <= innerHeight)
        && document.querySelector(".locloc-deltas").getBoundingClientRect().top >= 0""")


DRAWN = """width => new Promise(done => {
    let frames = 30
    const next = () => window.innerWidth === width && !frames-- ? done() : requestAnimationFrame(next)
    next()
})"""


def keep(page, name, sizes=SIZES):
    "Screenshots for whoever asked for them; nothing may stick out of the page"
    for width, height in sizes:
        page.set_viewport_size(dict(width=width, height=height))
        page.evaluate(DRAWN, width)
        needed, there = page.evaluate(
            "() => { const t = document.querySelector('.locloc-tuner'); return [t.scrollWidth, t.clientWidth] }")
        assert needed <= there + 1, f"{name} at {width} px: {needed} px of content in {there}"
        folder = os.environ.get("LOCLOC_SCREENSHOTS")
        if folder:
            page.screenshot(path=str(Path(folder)/f"{name}-{width}.png"))
    assert hard_to_use(page, ".locloc-tuner") == []


def test_jupyterlab(page, lab):
    address, folder = lab
    page.goto(address)
    kernel = "window.jupyterapp?.shell?.currentWidget?.sessionContext?.session?.kernel"
    page.wait_for_function(f"() => {kernel}?.status === 'idle'")
    page.evaluate("() => window.jupyterapp.commands.execute('notebook:run-all-cells')")
    use_the_tuner(page, folder, load_dataset("scenes", split="test", count=5)[1].id)
    correct_and_compare(page, folder)
    masks_are_in_sight(page)
    drop_pictures(page, folder)
    masks_are_in_sight(page)
    keep(page, "lab-light")
    page.evaluate("() => window.jupyterapp.commands.execute('apputils:change-theme', {theme: 'JupyterLab Dark'})")
    page.wait_for_function("() => document.body.dataset.jpThemeLight === 'false'")
    keep(page, "lab-dark")


class Tune:
    "A running `locloc tune`, or another command with a page, in a folder with two pictures"
    def __init__(self, folder, environment, *options, command=("tune", "0.jpg", "1.jpg")):
        pictures = sorted((root/"data"/"images").rglob("*.jpg"))
        for k in range(2):
            shutil.copy(pictures[k], folder/f"{k}.jpg")
        self.log = folder/"log"
        command = [sys.executable, "-c", "from locloc.cli import main; main()", *command,
                   "--no-browser", "--port", str(free_port()), *options]
        with self.log.open("w") as said:
            self.process = subprocess.Popen(
                command, cwd=folder, env=environment | {"PYTHONUNBUFFERED": "1"}, stdout=said, stderr=said)

    def address(self):
        def give_up():
            assert self.process.poll() is None, self.log.read_text()
        found = until("an address", lambda: re.search(r"http://\S+\n", self.log.read_text()), give_up=give_up)
        return found[0].strip()

    def kernels(self):
        below = psutil.Process(self.process.pid).children(recursive=True)
        return [process for process in below if is_kernel(process)]

    def said(self):
        "Lines; the address and the folder are of this run"
        return self.log.read_text().splitlines()


def is_kernel(process):
    try:
        return any("ipykernel" in word for word in process.cmdline())
    except psutil.Error: # it has just ended
        return False


@pytest.fixture
def tune(environment, tmp_path):
    started = []
    def start(*options, **more):
        started.append(Tune(tmp_path, environment, *options, **more))
        return started[-1]
    yield start
    for one in started:
        if one.process.poll() is None:
            one.process.terminate()
            one.process.wait(PATIENCE)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_page_of_the_command_line(page, tune, theme, tmp_path):
    running = tune("--theme", theme)
    address = running.address()
    page.goto(address.split("?")[0])
    assert "/login" in page.url, "without its token the page is closed"
    page.goto(address)
    until_there(page)
    if theme == "light":
        use_the_tuner(page, tmp_path, "1.jpg")
        correct_and_compare(page, tmp_path)
        drop_pictures(page, tmp_path)
    keep(page, f"page-{theme}", (*SIZES, PHONE))
    if theme == "light":
        sweep_and_choose(page)
    assert end(running.process) == 0
    page.get_by_role("alert").filter(has_text="Disconnected").wait_for()
    assert running.said() == [
        address, f"Ctrl-C ends it; settings are saved in {tmp_path}", "", "stopped"], "nothing else"


def test_a_thumbnail_opens_the_tuner_and_there_is_a_way_back(page, tune, tmp_path):
    scenes = load_dataset("scenes", split="test", count=3)
    make_masks(scenes, tmp_path/"masks", "lowlevel", progress=False)
    running = tune(command=("browse", "masks", "--data", "scenes"))
    page.goto(running.address())
    thumbnail = page.locator(".locloc-browser button img").first
    thumbnail.wait_for()
    page.get_by_text("1 to 3 of 3").wait_for()
    assert hard_to_use(page, ".locloc-browser") == []
    thumbnail.click()
    until_there(page)
    thumbnail.wait_for(state="hidden")
    page.locator(".locloc-tuner").wait_for()
    page.locator(".locloc-back").click()
    thumbnail.wait_for()
    page.locator(".locloc-tuner").wait_for(state="hidden")


def test_ten_reloads_leave_one_kernel(page, tune):
    running = tune()
    page.goto(running.address())
    until_there(page)
    (first,) = running.kernels()
    page.reload()
    until_there(page)
    for pause in (0, 100, 300, 700, 1000, 1500, 2000, 3000, 4000): # in whatever state it is left
        page.reload(wait_until="commit")
        page.wait_for_timeout(pause)
    until_there(page)
    until("one kernel", lambda: len(running.kernels()) == 1)
    assert running.kernels() != [first] and not page.get_by_role("alert").is_visible()
    assert len(running.said()) == 2, "nothing is said of it"
