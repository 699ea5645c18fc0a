"Faults while a command runs: one line that names the place and the mend, nothing lost, and the same command goes on"
import errno
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import SafetensorError
from stored import contents

import locloc.model
import locloc.report
import locloc.stores
import locloc.train
from locloc import fetch
from locloc.cli import main
from locloc.data import PictureError, load_dataset, open_picture
from locloc.faults import LOCK, explain, only_one
from locloc.fetch import Archive
from locloc.files import replace_whole
from locloc.stores import make_masks

SMALL = "--preset tiny --count 8 --batch 4 --epochs 2 --unet-dim 8 --width 8 --crop 64 --resize 64".split()
FULL = OSError(errno.ENOSPC, "No space left on device")
MAKE_ROOM = "no space left on device, make room there and give the same command again"


@pytest.fixture(scope="module")
def masks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("store")/"masks"
    make_masks(load_dataset("scenes").subset(8), folder, size=64, progress=False)
    return folder


def training(masks, run, *more):
    return ["train", "geg", *SMALL, "--cached-views", "0", "--masks", str(masks), "--out", str(run), *more]


@pytest.fixture(scope="module")
def undisturbed(masks, tmp_path_factory):
    "The folder of a finished training"
    run = tmp_path_factory.mktemp("undisturbed")/"run"
    main(training(masks, run))
    return run


def is_same(run, undisturbed):
    names = "model/model.safetensors", "metrics.jsonl"
    return all((run/name).read_bytes() == (undisturbed/name).read_bytes() for name in names)


@pytest.fixture
def told(capsys):
    "The one line that a command ends with"
    def tell(args):
        with pytest.raises(SystemExit) as stopped:
            main(args)
        lines = [line for line in capsys.readouterr().err.splitlines() if line and "%|" not in line]
        assert stopped.value.code == 1 and len(lines) == 1, lines
        return lines[0]
    return tell


HOLD = """import sys
from locloc.faults import only_one
with only_one(sys.argv[1]):
    print(1, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def owner(tmp_path):
    "A process that owns the folder run"
    (tmp_path/"run").mkdir()
    pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    process = subprocess.Popen([sys.executable, "-c", HOLD, tmp_path/"run"], **pipes)
    assert process.stdout.readline() == b"1\n"
    yield process
    process.kill()
    process.communicate()


def test_second_training_in_one_folder_is_refused(tmp_path, masks, owner, told):
    who = f"process {owner.pid} on {socket.gethostname()} is at work there"
    for more in ((), ("--no-resume",)):
        line = told(training(masks, tmp_path/"run", *more))
        assert who in line and str(tmp_path/"run") in line and "--out" in line
    assert [*contents(tmp_path/"run")] == [LOCK]


def test_lock_of_a_killed_training_keeps_nobody_out(tmp_path, owner):
    owner.kill()
    owner.wait()
    lock = tmp_path/"run"/LOCK
    assert f"process {owner.pid} on" in lock.read_text()
    with only_one(tmp_path/"run"):
        assert f"process {os.getpid()} on" in lock.read_text()
    assert not lock.read_text()


def test_finished_run_is_loaded_whoever_is_inside(tmp_path, masks, owner, undisturbed):
    shutil.copytree(undisturbed/"model", tmp_path/"run/model")
    main(training(masks, tmp_path/"run"))


@pytest.fixture
def small_disk(tmp_path):
    "Makes a file system of so many bytes, where one can be mounted"
    place = tmp_path/"small"
    place.mkdir()
    def mount(size):
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", place]
        if subprocess.run(command, capture_output=True).returncode:
            pytest.skip("no right to mount a file system")
        return place
    yield mount
    if place.is_mount():
        subprocess.run(["umount", "-l", place], check=True)


@pytest.fixture
def read_only(small_disk, tmp_path):
    "A folder that nothing can be written to, root or not"
    folder = tmp_path/"read_only"
    folder.mkdir()
    folder.chmod(0o555)
    if not os.access(folder, os.W_OK):
        return folder
    folder = small_disk("20k")
    subprocess.run(["mount", "-o", "remount,ro", folder], check=True)
    return folder


@pytest.mark.parametrize("command", ["masks", "train", "evaluate", "predict", "data"])
def test_read_only_folder_is_told_before_the_work(read_only, tmp_path, masks, told, monkeypatch, command):
    monkeypatch.setitem(fetch.ARCHIVES, "birds", Archive("http://127.0.0.1:9/birds.tgz", "0", 5, "birds"))
    Image.new("RGB", (40, 40)).save(tmp_path/"photo.png")
    out = ["--out", str(read_only/"out")]
    args = {
        "masks": ["masks", "--data", "scenes", "--count", "2", "--workers", "0", *out],
        "train": training(masks, read_only/"out"),
        "evaluate": ["evaluate", "--data", "scenes", "--count", "2", *out],
        "predict": ["predict", str(tmp_path/"photo.png"), "--method", "centred", *out],
        "data": ["data", "get", "birds", "--to", str(read_only/"out")],
    }
    line = told(args[command])
    assert str(read_only) in line and "choose a folder that can be written to" in line


def after(number, harm, function):
    "The function, and harm before its n-th call"
    calls = []
    def call(*args, **options):
        calls.append(args)
        if len(calls) == number:
            harm()
        return function(*args, **options)
    return call


def test_folder_removed_while_masks_are_made(tmp_path, told, monkeypatch):
    small = ["--data", "scenes", "--count", "6", "--size", "48", "--workers", "0"]
    make = ["masks", *small, "--out", str(tmp_path/"store")]
    cut = after(4, lambda: shutil.rmtree(tmp_path/"store", ignore_errors=True), locloc.stores.grabcut_mask)
    with monkeypatch.context() as patched:
        patched.setattr(locloc.stores, "grabcut_mask", cut)
        assert told(make) == f"locloc: {tmp_path/'store'}: the folder was removed in the middle of the work"
    assert not contents(tmp_path)
    main(make)
    assert len([*tmp_path.rglob("*.png")]) == 6


@pytest.mark.parametrize("views, where, name", [
    ("0", locloc.train, "_take_step"), ("1", locloc.train.GEGStage, "features"),
])
def test_folder_removed_while_training(tmp_path, masks, told, monkeypatch, views, where, name):
    run = tmp_path/"run"
    monkeypatch.setattr(where, name, after(2, lambda: shutil.rmtree(run), getattr(where, name)))
    line = told(training(masks, run, "--cached-views", views))
    assert line == f"locloc: {run}: the folder was removed in the middle of the work" and not contents(tmp_path)


@pytest.mark.parametrize("number, place, kept", [ # of the files with weights
    (2, "checkpoints/step_00000004", ["step_00000002"]), (3, "model", ["step_00000004"]),
])
def test_disk_full_in_a_training(tmp_path, masks, undisturbed, told, monkeypatch, number, place, kept):
    run = tmp_path/"run"
    def fail(): raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
    with monkeypatch.context() as patched:
        patched.setattr(locloc.model, "save_file", after(number, fail, locloc.model.save_file))
        assert told(training(masks, run)) == f"locloc: {run/place}: {MAKE_ROOM}"
    assert [folder.name for folder in (run/"checkpoints").glob("*")] == kept
    main(training(masks, run))
    assert is_same(run, undisturbed) and not [*run.rglob(".*.tmp")]


def test_features_take_their_room_before_they_are_filled(small_disk):
    "Else the system would end the process where the disk is full"
    with pytest.raises(OSError) as full:
        locloc.train._make_array(small_disk("100k")/"features.npy", np.float32, (1000, 1000))
    assert full.value.errno == errno.ENOSPC


def test_disk_full_while_a_report_is_saved(tmp_path, told, monkeypatch):
    args = ["evaluate", "--data", "scenes", "--split", "train", "--count", "2", "--method", "centred",
            "--protocol", "tscam", "--out", str(tmp_path/"report")]
    def fail(file, text): raise FULL
    with monkeypatch.context() as patched:
        patched.setattr(locloc.report, "_write_text", fail)
        assert told(args) == f"locloc: {tmp_path/'report/report.json'}: {MAKE_ROOM}"
    assert not contents(tmp_path)
    main(args)
    assert (tmp_path/"report/report.md").is_file()


NO_MEMORY = [
    MemoryError(), OSError(errno.ENOMEM, "Cannot allocate memory"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:117] . DefaultCPUAllocator: can't allocate memory"),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    cv2.error("OpenCV(5.0.0) error: (-4:Insufficient memory) Failed to allocate 1658880000 bytes"),
]


@pytest.mark.parametrize("error", NO_MEMORY)
def test_no_memory_has_one_name(error):
    assert explain(error).startswith("out of memory: take a smaller --batch")


def test_no_memory_while_a_checkpoint_is_packed_is_told():
    with pytest.raises(RuntimeError) as caught:
        try:
            raise MemoryError
        finally:
            raise RuntimeError("unexpected pos 64")
    assert "out of memory" in explain(caught.value)


def test_memory_that_does_not_suffice_keeps_the_last_checkpoint(tmp_path, masks, told, monkeypatch):
    def fail(): raise NO_MEMORY[2]
    monkeypatch.setattr(locloc.train, "_take_step", after(3, fail, locloc.train._take_step))
    line = told(training(masks, tmp_path/"run"))
    assert line.startswith("locloc: out of memory: take a smaller --batch")
    assert [folder.name for folder in (tmp_path/"run/checkpoints").iterdir()] == ["step_00000002"]


def test_picture_is_not_damaged_where_memory_does_not_suffice(tmp_path, monkeypatch):
    def fail(*_): raise MemoryError
    Image.new("RGB", (9, 9)).save(tmp_path/"a.png")
    monkeypatch.setattr(Image.Image, "load", fail)
    with pytest.raises(MemoryError):
        open_picture(tmp_path/"a.png")


def test_what_is_wrong_in_our_code_keeps_its_traceback(monkeypatch):
    assert explain(KeyError("mask")) is None and explain(RuntimeError("shapes differ")) is None


def test_faults_of_processes_that_load_pictures_are_one_line(tmp_path, masks, told, monkeypatch):
    def fail(*_): raise PictureError("a.png: cannot be read")
    monkeypatch.setattr(locloc.train.TrainSet, "__getitem__", fail)
    assert told(training(masks, tmp_path/"run", "--workers", "1")) == "locloc: a.png: cannot be read"
    killed = "DataLoader worker (pid 12) is killed by signal: Killed. "
    assert "take fewer --workers" in explain(RuntimeError(killed))


def test_content_is_on_the_disk_before_its_name_is(tmp_path, monkeypatch):
    seen, sync, rename = [], os.fsync, os.replace
    def note_sync(descriptor):
        seen.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        sync(descriptor)
    def note_rename(aside, path):
        seen.append("rename")
        rename(aside, path)
    def write(aside):
        aside.mkdir()
        (aside/"weights").write_bytes(b"1")
    if not os.path.exists("/proc/self/fd"):
        pytest.skip("no /proc")
    monkeypatch.setattr(os, "fsync", note_sync)
    replace_whole(tmp_path/"model", write, note_rename)
    inside, aside, renamed, folder = seen
    assert inside == f"{aside}/weights" and renamed == "rename" and folder == str(tmp_path)


def test_kills_at_random_moments():
    "The short version of the benchmark"
    works = "masks", "download"
    script = Path(__file__).parents[1]/"benchmarks/faults.py"
    command = [sys.executable, script, "--kills", "4", "--only", "random moment", "--works", *works]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    for work in works:
        assert f"| SIGKILL at a random moment | {work} | 4 | 0 | – |" in done.stdout
