"What needs no network does not wait for PyTorch"
import os
import runpy
import subprocess
import sys

import numba
import numpy as np
import pytest
from PIL import Image

from locloc.backbone import ALIASES
from locloc.boxes import _jit
from locloc.tuner import _NETWORKS

NETWORKS = {"torch", "torchvision", "timm", "accelerate"}
COMMAND = "import sys; from locloc.cli import main; main({!r})"


def modules_after(code, folder, **settings):
    "What a fresh process has loaded when it ends"
    report = f"import atexit, sys; atexit.register(lambda: open('modules', 'w').write(' '.join(sys.modules)))\n{code}"
    ended = subprocess.run([sys.executable, "-c", report], cwd=folder, env=os.environ | settings, capture_output=True)
    assert ended.returncode == 0, ended.stderr.decode()
    return set((folder/"modules").read_text().split())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    "Pictures of one class"
    folder = tmp_path_factory.mktemp("cold")
    (folder/"pictures"/"bird").mkdir(parents=True)
    for number in range(2):
        picture = np.random.default_rng(number).integers(0, 255, (64, 64, 3), np.uint8)
        Image.fromarray(picture).save(folder/"pictures"/"bird"/f"{number}.png")
    return folder


def test_masks_of_lowlevel_and_their_check_load_no_network(folder):
    make = "masks --data pictures --out masks --size 64 --workers 0".split()
    assert not modules_after(COMMAND.format(make), folder) & NETWORKS
    loaded = modules_after(COMMAND.format([*make, "--check"]), folder)
    assert not loaded & {*NETWORKS, "matplotlib", "scipy.sparse", "skimage.segmentation"}


@pytest.mark.parametrize("args", ["info", "info pictures/..", "data check pictures"])
def test_a_look_at_files_loads_no_network_and_draws_nothing(args, folder):
    (folder/"manifest.json").write_text("{}")
    loaded = modules_after(COMMAND.format(args.split()), folder)
    assert not loaded & {*NETWORKS, "matplotlib", "scipy.sparse", "skimage"}


@pytest.mark.parametrize("command", ["masks", "predict", "evaluate", "compare", "table5", "fig5"])
def test_help_loads_no_network_and_draws_nothing(command, folder):
    loaded = modules_after(COMMAND.format([command, "--help"]), folder)
    assert not loaded & {*NETWORKS, "matplotlib", "scipy.stats", "skimage"}


WATCHED = """import gc
from locloc.cli import main
from locloc.localizers import Whole, register_localizer
def make(fails=False):
    assert not gc.isenabled()
    if fails:
        raise ValueError("no")
    return Whole()
register_localizer("watched", make)
for method in ("watched,fails=true", "watched"):
    try:
        main(["predict", "pictures", "--out", "answers", "--method", method])
    except SystemExit:
        print("failed", file=open("failed", "w"))
    assert gc.isenabled()"""


def test_garbage_is_looked_for_again_once_a_method_is_loaded_or_can_not_be(folder):
    modules_after(WATCHED, folder)
    assert (folder/"failed").exists() and list((folder/"answers").rglob("*_locloc.png"))


def test_data_stores_methods_and_the_page_are_imported_without_a_network(folder):
    code = "import locloc.data, locloc.stores, locloc.workbench, locloc.localizers, locloc.widgets"
    assert not modules_after(code, folder) & {*NETWORKS, "matplotlib", "scipy.stats", "skimage.segmentation"}


def test_a_tuner_of_lowlevel_is_there_without_a_network(folder):
    code = "from locloc.widgets import tuning_page\ntuning_page('pictures')"
    assert not modules_after(code, folder) & {*NETWORKS, "matplotlib"}


def test_a_network_comes_without_the_compiler_which_is_there_when_asked(folder):
    code = """from locloc.attention import load_attention
load_attention("locloc-tiny")
import sys, torch
assert not {"torch._dynamo", "torch._dynamo.utils"} & sys.modules.keys()
import torch._dynamo.utils
assert torch._dynamo.utils.counters is not None and torch.compiler.disable(len)("ab") == 2
import torchvision.ops.roi_align
assert torchvision.ops.roi_align.__module__ == "torchvision.ops.roi_align"
assert isinstance(sys.modules["torchvision.ops.roi_align"].is_compile_supported("cpu"), bool)"""
    assert modules_after(code, folder) >= {"torch", "timm"}


def test_the_tuner_names_all_networks_with_a_name_of_ours():
    assert (*ALIASES,) == _NETWORKS


LOOP = "from locloc.boxes import _jit\n@_jit\ndef double(x):\n    return 2*x\n"
CALL = """import sys
sys.path.insert(0, ".")
import loops
from locloc.boxes import on_compiling
with on_compiling(lambda: print("compiled", file=open("told", "a"))):
    assert loops.double(2) == 4"""


def compiles(folder, cache):
    "Does a fresh process compile the loop of a module in this folder?"
    folder.mkdir(exist_ok=True)
    (folder/"loops.py").write_text(LOOP)
    (folder/"told").unlink(missing_ok=True)
    modules_after(CALL, folder, NUMBA_CACHE_DIR=str(cache))
    return (folder/"told").exists()


def test_a_module_installed_elsewhere_finds_the_loops_that_were_compiled(tmp_path):
    assert compiles(tmp_path/"here", tmp_path/"cache")
    assert not compiles(tmp_path/"there", tmp_path/"cache")


def test_loops_start_without_linear_algebra_and_one_that_needs_it_has_it(folder):
    code = """import sys
import numpy as np
from numba import njit
from locloc.boxes import map_boxes
map_boxes(np.eye(4))
assert "scipy.linalg" not in sys.modules
assert njit(lambda a: np.dot(a, a).sum())(np.eye(3)) == 3 and "scipy.linalg" in sys.modules"""
    modules_after(code, folder)


def test_without_a_place_of_the_users_a_loop_is_kept_beside_its_module(tmp_path):
    no_folder = tmp_path/"file"
    no_folder.write_text("")
    assert compiles(tmp_path/"here", no_folder)
    assert not compiles(tmp_path/"here", no_folder)
    assert list((tmp_path/"here"/"__pycache__").glob("*.nbc"))


def test_processes_that_compile_at_once_for_different_types_read_their_own_code(tmp_path, monkeypatch):
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path/"cache"))
    (tmp_path/"loops.py").write_text(LOOP)
    double = runpy.run_path(str(tmp_path/"loops.py"))["double"].py_func
    one, other, third = _jit(double), _jit(double), _jit(double) # as three processes have it
    write = one._cache._cache_file._save_data
    def write_late(*data): # when the other, which has read the index before, has written all of its own
        other(2.5)
        write(*data)
    monkeypatch.setattr(one._cache._cache_file, "_save_data", write_late)
    monkeypatch.setattr(other._cache._cache_file, "_load_index", dict)
    assert one(2) == 4
    assert third(2.5) == 5 and third(2) == 4
