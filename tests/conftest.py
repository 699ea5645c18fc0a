"Settings that every test shares: no hub, no GPU, few threads, a backend without a screen."
import os
import shutil
import signal
from unittest.mock import patch

import pytest

os.environ.update(HF_HUB_OFFLINE="1", CUDA_VISIBLE_DEVICES="", OMP_NUM_THREADS="2", MPLBACKEND="agg")
# where they are anyway: commands that a test runs in a home of their own need not compile again
os.environ.setdefault("NUMBA_CACHE_DIR", os.path.expanduser("~/.cache/locloc"))

# started in the background a shell makes Ctrl-C unheard, and children inherit that
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def own_sources():
    "Attention sources that a test registers are gone after it"
    from locloc.attention import SOURCES
    with patch.dict(SOURCES):
        yield


BROWSER_FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--no-first-run",
    "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE localhost , EXCLUDE 127.0.0.1",
]


@pytest.fixture(scope="module")
def browser():
    "Chromium; its tests are skipped where it is missing"
    reason = "playwright is not installed: pip install playwright"
    playwright = pytest.importorskip("playwright.sync_api", reason=reason)
    names = "chromium", "chromium-browser", "google-chrome"
    chromium = next(filter(None, map(shutil.which, names)), None)
    if not chromium:
        pytest.skip("no chromium on this machine: apt-get install chromium")
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=chromium, args=BROWSER_FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def page(browser):
    page = browser.new_page(viewport=dict(width=1440, height=900))
    page.set_default_timeout(180_000) # a busy machine is slow, not broken
    yield page
    page.close()


def hard_to_use(page, part):
    "What axe-core finds critical or serious in a part of the page, for people who listen or see little"
    from axe_playwright_python.sync_playwright import Axe
    found = Axe().run(page, part).response["violations"]
    return [(one["id"], [node["html"][:160] for node in one["nodes"]]) for one in found
            if one["impact"] in ("critical", "serious")]
