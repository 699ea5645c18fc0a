"A store that something happened to: what check finds, a full disk, Ctrl-C, kills at any moment"
import errno
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from PIL import Image
from stored import contents

from locloc.cli import main
from locloc.data import load_dataset
from locloc.stores import MaskStore, check_masks, make_masks

ONE_THREAD = os.environ | dict(OMP_NUM_THREADS="1")


def scenes(count=12, size=48):
    return load_dataset("scenes", split="train", count=count, size=size)


def make(folder, count=12, **options):
    return make_masks(scenes(count), folder, size=48, batch_size=2, progress=False, **options)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    "What an undisturbed run writes"
    return contents(make(tmp_path_factory.mktemp("whole")/"store").folder)


def delete(file):
    file.unlink()


def shorten(file):
    file.write_bytes(file.read_bytes()[:-20])


def flip_one_byte(file):
    content = file.read_bytes()
    file.write_bytes(content[:60] + bytes([content[60] ^ 255]) + content[61:])


def empty(file):
    file.write_bytes(b"")


def make_grey(file):
    Image.new("L", (48, 48)).save(file)


def make_wider(file):
    Image.new("1", (50, 48)).save(file)


def add_a_mask(file):
    file.with_name("mine.png").write_bytes(file.read_bytes())


def add_notes(file):
    file.with_name("notes.txt").touch()


def add_a_leftover(file):
    file.with_name(".0123456789abcdef.tmp").touch()


@pytest.mark.parametrize("harm, workers, told", [
    (delete, 0, r"00003\.png is missing: run make_masks"),
    (shorten, 0, r"00003\.png is damaged .*: delete it and run make_masks"),
    (shorten, 2, r"00003\.png is damaged .*: delete it and run make_masks"), # reading is the workers' part
    (flip_one_byte, 0, r"00003\.png is damaged .*: delete it and run make_masks"),
    (flip_one_byte, 2, r"00003\.png is damaged .*: delete it and run make_masks"),
    (empty, 0, r"00003\.png is damaged .*: delete it"),
    (make_grey, 0, r"00003\.png is no 1-bit mask .*: delete it and run make_masks"),
    (make_wider, 0, r"00003\.png is 50 x 48, not 48 x 48: delete it and run make_masks"),
    (add_a_mask, 0, r"train/mine\.png is no mask of this data set: take it out"),
    (add_notes, 0, r"notes\.txt is no mask of this data set"),
    (add_a_leftover, 0, r"tmp was left by a killed run"),
])
def test_check_tells_one_thing(tmp_path, harm, workers, told):
    store = make(tmp_path/"store")
    assert check_masks(scenes(), store.folder, workers, progress=False) == []
    harm(tmp_path/"store/train/00003.png")
    (problem,) = check_masks(scenes(), store.folder, workers, progress=False)
    assert re.search(told, problem) and "\n" not in problem


@pytest.fixture
def command(tmp_path):
    "`locloc masks` of four small scenes"
    small = ["--count", "4", "--size", "48", "--workers", "0"]
    return ["masks", "--data", "scenes", *small, "--out", str(tmp_path/"store")]


def test_check_on_the_command_line_finds_nothing_wrong(command, capsys):
    main(command)
    main([*command, "--check"])
    assert "4 pictures, no problems" in capsys.readouterr().out


def test_check_on_the_command_line_lists_fails_and_changes_nothing(command, tmp_path, capsys):
    main(command)
    shorten(next(tmp_path.rglob("store/**/*.png")))
    before, _ = contents(tmp_path), capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        main([*command, "--check"])
    assert stopped.value.code == 1 and capsys.readouterr().out.count("\n") == 2
    assert contents(tmp_path) == before


def test_what_check_names_is_made_anew(command, tmp_path):
    main(command)
    next(tmp_path.rglob("store/**/*.png")).unlink()
    main(command)
    main([*command, "--check"])


def test_check_refuses_other_pictures(tmp_path):
    make(tmp_path/"store", 2)
    with pytest.raises(ValueError, match="split is 'train' there and 'test' here"):
        check_masks(load_dataset("scenes", "test"), tmp_path/"store", progress=False)


def test_check_refuses_what_is_no_store(tmp_path):
    with pytest.raises(ValueError, match="no mask store"):
        check_masks(scenes(), tmp_path, progress=False)


def test_damaged_manifest_is_named(tmp_path):
    make(tmp_path/"store", 2)
    shorten(tmp_path/"store/manifest.json")
    with pytest.raises(ValueError, match=r"manifest\.json is damaged"):
        MaskStore(tmp_path/"store")


FULL = """import resource, sys
from locloc.data import load_dataset
from locloc.stores import make_masks

if __name__ == "__main__":
    most, folder, workers = sys.argv[1:]
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(most), resource.RLIM_INFINITY))
    dataset = load_dataset("scenes", split="train", count=12, size=48)
    try:
        make_masks(dataset, folder, size=48, workers=int(workers), batch_size=2, progress=False)
    except OSError as error:
        sys.exit(str(error))
"""


@pytest.mark.parametrize("workers", ["0", "2"])
def test_no_room_for_large_files(tmp_path, whole, workers):
    "The system refuses to write files above a limit, half-way through them, as a full disk does"
    (tmp_path/"run.py").write_text(FULL)
    sizes = sorted(len(content) for name, content in whole.items() if name.endswith(".png"))
    assert sizes[0] < sizes[-1]
    make(tmp_path/"store", 2) # the manifest is larger than a mask
    command = [sys.executable, tmp_path/"run.py", str(sizes[len(sizes) // 2]), tmp_path/"store", workers]
    done = subprocess.run(command, capture_output=True, text=True, env=ONE_THREAD)
    left = len(MaskStore(tmp_path/"store"))
    told = rf"\S*store: file too large, make room there; {left} of 12 masks are there; run it again to go on\n"
    assert done.returncode == 1 and re.fullmatch(told, done.stderr), done.stderr
    assert len(contents(tmp_path/"store")) == left + 1 and 0 < left < 12
    make(tmp_path/"store")
    assert contents(tmp_path/"store") == whole


@pytest.mark.parametrize("room", [0, 1, 7])
def test_full_disk(tmp_path, monkeypatch, whole, room):
    "The disk is full after a number of files; what of the next one fits is written"
    written, write = [], Path.write_bytes
    def write_while_there_is_room(self, content):
        written.append(self)
        if len(written) <= room:
            return write(self, content)
        write(self, content[:9])
        raise OSError(errno.ENOSPC, "No space left on device", str(self))
    told = rf"store: no space left on device, make room there; {max(room - 1, 0)} of 12 masks"
    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_bytes", write_while_there_is_room)
        with pytest.raises(OSError, match=told):
            make(tmp_path/"store")
    assert len(contents(tmp_path/"store")) == room
    make(tmp_path/"store")
    assert contents(tmp_path/"store") == whole


def test_ctrl_c_while_a_compiled_kernel_returns(tmp_path, monkeypatch):
    "Numba makes it the cause of a SystemError; another SystemError stays what it is"
    def interrupted(*arguments):
        raise SystemError("returned a result with an exception set") from KeyboardInterrupt()
    def broken(*arguments):
        raise SystemError("something else")
    for cut, wanted in ((interrupted, KeyboardInterrupt), (broken, SystemError)):
        monkeypatch.setattr("locloc.stores.grabcut_mask", cut)
        with pytest.raises(wanted, match="0 of 12 masks are there" if cut is interrupted else "something else"):
            make(tmp_path/"store")


@pytest.fixture
def small_disk(tmp_path):
    "A file system of 20 kB, where one can be mounted"
    place = tmp_path/"small"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=20k", "tmpfs", place]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no right to mount a file system")
    yield place
    subprocess.run(["umount", place], check=True)


def test_full_tmpfs(small_disk, whole):
    with pytest.raises(OSError, match=r"small/store: no space left on device, make room there; [1-9] of 12 masks"):
        make(small_disk/"store", workers=2)
    assert len(contents(small_disk/"store")) == len(MaskStore(small_disk/"store")) + 1
    subprocess.run(["mount", "-o", "remount,size=2m", small_disk], check=True)
    make(small_disk/"store")
    assert contents(small_disk/"store") == whole


def start(folder, workers=2):
    "`locloc masks` of 400 small scenes, in a session of its own"
    small = ["--count", "400", "--size", "48", "--batch", "4", "--workers", str(workers)]
    args = ["masks", "--data", "scenes", *small, "--out", str(folder)]
    command = [sys.executable, "-c", "from locloc.cli import main; main()", *args]
    return subprocess.Popen(command, start_new_session=True, stderr=subprocess.PIPE, text=True, env=ONE_THREAD)


def wait_for_masks(running, folder):
    while len([*folder.rglob("*.png")]) < 5:
        assert running.poll() is None
        time.sleep(.01)


def last_words(running):
    "What a process says beside its bar"
    lines = running.communicate(timeout=300)[1].splitlines()
    return [line for line in lines if line and not line.startswith("masks: ")]


@pytest.mark.parametrize("workers, send", [(0, os.kill), (2, os.killpg)])
def test_ctrl_c(tmp_path, workers, send):
    "A terminal tells every process, a scheduler or notebook only the first"
    folder = tmp_path/"store"
    running = start(folder, workers)
    wait_for_masks(running, folder)
    send(running.pid, signal.SIGINT)
    told, left = last_words(running), len(MaskStore(folder))
    expected = f"locloc: {folder}: stopped; {left} of 400 masks are there; run it again to go on"
    assert told == [expected], "\n".join(told)
    assert running.returncode == 130
    assert 5 <= left < 400 and len(contents(folder)) == left + 1


def test_killed_worker_is_told(tmp_path):
    running = start(tmp_path/"store")
    wait_for_masks(running, tmp_path/"store")
    below = psutil.Process(running.pid).children(recursive=True)
    worker = next(process for process in below if process.ppid() != running.pid) # a child of the fork server
    worker.kill()
    told = "locloc: a worker process was killed, perhaps for want of memory: take fewer workers; what is done stays"
    assert last_words(running) == [told] and running.returncode == 1
