"""The tuner in a real browser: JupyterLab and the page of `locloc tune`.

Set LOCLOC_SCREENSHOTS to a folder to keep pictures of both at two sizes in both themes.
"""
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
import pytest

from locloc.masks import GrabCutParams

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install playwright")
chromium = next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None)
pytestmark = pytest.mark.skipif(not chromium, reason="no chromium on this machine: apt-get install chromium")

root = Path(__file__).parents[1]
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run",
    "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE localhost , EXCLUDE 127.0.0.1"]
SIZES = (1440, 900), (1024, 768)
IDLE = "() => window.jupyterapp?.shell?.currentWidget?.sessionContext?.session?.kernel?.status === 'idle'"


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=chromium, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    "Nothing of the user's settings, and this checkout"
    home = tmp_path_factory.mktemp("home")
    names = ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "JUPYTERLAB_SETTINGS_DIR", "JUPYTERLAB_WORKSPACES_DIR")
    return os.environ | {"HOME": str(home), "PYTHONPATH": str(root), **{name: str(home/name) for name in names}}


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def wait_for(port, process, log):
    for _ in range(600):
        with socket.socket() as s:
            if not s.connect_ex(("localhost", port)):
                return
        assert process.poll() is None, log.read_text()
        time.sleep(.1)
    raise AssertionError(f"no answer on port {port}: {log.read_text()}")


def end(process):
    "As Ctrl-C does"
    process.send_signal(signal.SIGINT)
    try:
        return process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        raise


@pytest.fixture(scope="module")
def lab(environment, tmp_path_factory):
    folder, port = tmp_path_factory.mktemp("lab"), free_port()
    code = "from locloc.data import load_dataset\nfrom locloc.widgets import ThresholdTuner\ntuner = ThresholdTuner(load_dataset('scenes', split='test', count=5))\ntuner"
    kernel = dict(name="python3", display_name="python3", language="python")
    cell = dict(cell_type="code", id="tune", metadata={}, execution_count=None, outputs=[], source=code)
    (folder/"tune.ipynb").write_text(json.dumps(dict(cells=[cell], metadata=dict(kernelspec=kernel), nbformat=4, nbformat_minor=5)))
    settings = Path(environment["JUPYTERLAB_SETTINGS_DIR"])/"@jupyterlab"/"apputils-extension"
    settings.mkdir(parents=True)
    (settings/"notification.jupyterlab-settings").write_text(json.dumps({"fetchNews": "false", "checkForUpdates": False, "doNotDisturbMode": True}))
    log = folder/"log"
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--ip=127.0.0.1", f"--port={port}", "--ServerApp.port_retries=0", "--allow-root", "--IdentityProvider.token=",
        "--ServerApp.password=", "--ServerApp.disable_check_xsrf=True", "--LabApp.expose_app_in_browser=True", f"--ServerApp.root_dir={folder}"]
    with log.open("w") as said:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=said, stderr=said, start_new_session=True)
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
    return cv2.imdecode(np.frombuffer(page.locator(f".locloc-panel-{panel}").screenshot(), np.uint8), 1)


def until_changed(page, panel, before, patience=10):
    for _ in range(patience * 20):
        now = pixels(page, panel)
        if now.shape != before.shape or np.abs(now.astype(int) - before).max() > 40:
            return now
        page.wait_for_timeout(50)
    raise AssertionError(f"the panel {panel} did not change; the page says {page.locator('.locloc-tuner .locloc-status').inner_text()!r}")


def until_exact(page): page.wait_for_function("() => document.querySelector('.locloc-tuner') && !document.querySelector('.locloc-tuner').innerText.includes('≈')")


def drag(page, handle, by):
    box = page.locator(f".locloc-deltas .noUi-handle-{handle}").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    for step in range(1, 9):
        page.mouse.move(x + by * step / 8, y)
        page.wait_for_timeout(30)
    page.mouse.up()


def number(page, name): return float(page.locator(f".locloc-{name} input").input_value())


def use_the_tuner(page, folder):
    "Drag, look, next, arrow key, save, read back"
    page.locator(".locloc-panel-grabcut").wait_for(timeout=60_000)
    page.wait_for_function("() => document.querySelector('.locloc-panel-grabcut').naturalWidth > 100", timeout=30_000)
    mask, marks, was = pixels(page, "grabcut"), pixels(page, "trimap"), number(page, "delta0")
    drag(page, "lower", 220)
    until_changed(page, "trimap", marks)
    until_changed(page, "grabcut", mask)
    until_exact(page)
    assert number(page, "delta0") > was
    exact, before = pixels(page, "grabcut"), number(page, "delta1")
    page.locator(".locloc-deltas .noUi-handle-upper").press("ArrowLeft")
    page.wait_for_function(f"() => document.querySelector('.locloc-delta1 input').value < {before}")
    page.locator(".locloc-next").click()
    until_changed(page, "picture", pixels(page, "picture") * 0) # something is shown
    until_changed(page, "grabcut", exact)
    until_exact(page)
    assert "2" in page.locator(".locloc-slider .widget-readout").inner_text()
    page.locator(".locloc-save").click()
    for _ in range(100):
        if (folder/"params.json").exists():
            break
        page.wait_for_timeout(50)
    kept = GrabCutParams.from_json((folder/"params.json").read_text())
    assert (kept.delta0, kept.delta1) == (number(page, "delta0"), number(page, "delta1")) and kept.delta0 > was and kept.delta1 < before
    assert "params.json" in page.locator(".locloc-tuner .locloc-status").inner_text()


def keep(page, name):
    "Screenshots for whoever asked for them; nothing may stick out of the page"
    for width, height in SIZES:
        page.set_viewport_size(dict(width=width, height=height))
        page.wait_for_timeout(700)
        wide = page.evaluate("() => { const t = document.querySelector('.locloc-tuner'); return [t.scrollWidth, t.clientWidth] }")
        assert wide[0] <= wide[1] + 1, f"{name} at {width} px: {wide[0]} px of content in {wide[1]}"
        if folder := os.environ.get("LOCLOC_SCREENSHOTS"):
            page.screenshot(path=str(Path(folder)/f"{name}-{width}.png"))


def test_jupyterlab(browser, lab):
    address, folder = lab
    page = browser.new_page(viewport=dict(width=1440, height=900))
    page.goto(address)
    page.wait_for_function(IDLE, timeout=90_000)
    page.evaluate("() => window.jupyterapp.commands.execute('notebook:run-all-cells')")
    use_the_tuner(page, folder)
    page.locator(".locloc-tuner").scroll_into_view_if_needed()
    keep(page, "lab-light")
    page.evaluate("() => window.jupyterapp.commands.execute('apputils:change-theme', {theme: 'JupyterLab Dark'})")
    page.wait_for_timeout(1500)
    keep(page, "lab-dark")
    page.close()


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_page_of_the_command_line(browser, environment, theme, tmp_path):
    for k in range(2):
        shutil.copy(sorted((root/"data"/"images").rglob("*.jpg"))[k], tmp_path/f"{k}.jpg")
    log, port = tmp_path/"log", free_port()
    with log.open("w") as said:
        process = subprocess.Popen([sys.executable, "-c", "from locloc.cli import main; main()", "tune", "0.jpg", "1.jpg", "--no-browser", "--port", str(port), "--theme", theme],
        cwd=tmp_path, env=environment | {"PYTHONUNBUFFERED": "1"}, stdout=said, stderr=said)
    try:
        wait_for(port, process, log)
        address = re.search(r"http://\S+", log.read_text())
        for _ in range(100):
            if address:
                break
            time.sleep(.1)
            address = re.search(r"http://\S+", log.read_text())
        page = browser.new_page(viewport=dict(width=1440, height=900))
        page.goto(address[0].split("?")[0])
        assert "/login" in page.url, "without its token the page is closed"
        page.goto(address[0])
        page.wait_for_function("() => document.querySelector('.locloc-panel-grabcut')?.naturalWidth > 100", timeout=60_000)
        if theme == "light":
            use_the_tuner(page, tmp_path)
        keep(page, f"page-{theme}")
        page.close()
        assert end(process) == 0 and "stopped" in log.read_text(), log.read_text()
    finally:
        if process.poll() is None:
            process.kill()
