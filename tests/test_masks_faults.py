"A store that something happened to: what check finds, a full disk, Ctrl-C, kills at any moment"
import errno
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from locloc.cli import main
from locloc.data import load_dataset
from locloc.masks import MaskStore, check_masks, make_masks


def scenes(count=12, size=48): return load_dataset("scenes", split="train", count=count, size=size)
def make(folder, count=12, **options): return make_masks(scenes(count), folder, size=48, batch_size=2, progress=False, **options)
def files(folder): return {f.relative_to(folder).as_posix(): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}

@pytest.fixture(scope="module")
def whole(tmp_path_factory): return files(make(tmp_path_factory.mktemp("whole")/"store").folder)


def shorten(f): f.write_bytes(f.read_bytes()[:-20])
def flip(f): f.write_bytes(f.read_bytes()[:60] + bytes([f.read_bytes()[60] ^ 255]) + f.read_bytes()[61:])

@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("harm, told", [
    (lambda f: f.unlink(), r"00003\.png is missing: run make_masks"),
    (shorten, r"00003\.png is damaged .*: delete it and run make_masks"),
    (flip, r"00003\.png is damaged .*: delete it and run make_masks"),
    (lambda f: f.write_bytes(b""), r"00003\.png is damaged .*: delete it"),
    (lambda f: Image.new("L", (48, 48)).save(f), r"00003\.png is no 1-bit mask .*: delete it and run make_masks"),
    (lambda f: Image.new("1", (50, 48)).save(f), r"00003\.png is 50 x 48, not 48 x 48: delete it and run make_masks"),
    (lambda f: f.with_name("mine.png").write_bytes(f.read_bytes()), r"train/mine\.png is no mask of this data set: take it out"),
    (lambda f: f.with_name("notes.txt").touch(), r"notes\.txt is no mask of this data set"),
    (lambda f: f.with_name(".0123456789abcdef.tmp").touch(), r"tmp was left by a killed run"),
])
def test_check_tells_one_thing(tmp_path, harm, told, workers):
    if workers and harm not in (shorten, flip):
        pytest.skip("only reading is the workers' part")
    store = make(tmp_path/"store")
    assert check_masks(scenes(), store.folder, workers, progress=False) == []
    harm(tmp_path/"store/train/00003.png")
    (problem,) = check_masks(scenes(), store.folder, workers, progress=False)
    assert re.search(told, problem) and "\n" not in problem

def test_check_on_the_command_line(tmp_path, capsys):
    args = ["masks", "--data", "scenes", "--count", "4", "--size", "48", "--out", str(tmp_path/"store"), "--workers", "0"]
    main(args)
    main([*args, "--check"])
    assert "4 pictures, no problems" in capsys.readouterr().out
    shorten(lost := next(tmp_path.rglob("store/**/*.png")))
    before = files(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        main([*args, "--check"])
    assert stopped.value.code == 1 and capsys.readouterr().out.count("\n") == 2 and files(tmp_path) == before
    lost.unlink()
    main(args)
    main([*args, "--check"])

def test_check_refuses_other_pictures(tmp_path):
    make(tmp_path/"store", 2)
    with pytest.raises(ValueError, match="split is 'train' there and 'test' here"):
        check_masks(load_dataset("scenes", "test"), tmp_path/"store", progress=False)
    with pytest.raises(ValueError, match="no mask store"):
        check_masks(scenes(), tmp_path, progress=False)

def test_damaged_manifest_is_named(tmp_path):
    make(tmp_path/"store", 2)
    shorten(tmp_path/"store/manifest.json")
    with pytest.raises(ValueError, match=r"manifest\.json is damaged"):
        MaskStore(tmp_path/"store")


FULL = """import resource, sys
from locloc.data import load_dataset
from locloc.masks import make_masks
if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), resource.RLIM_INFINITY))
    try: make_masks(load_dataset("scenes", split="train", count=12, size=48), sys.argv[2], size=48, workers=int(sys.argv[3]), batch_size=2, progress=False)
    except OSError as error: sys.exit(str(error))
"""

@pytest.mark.parametrize("workers", [0, 2])
def test_no_room_for_large_files(tmp_path, whole, workers):
    "The system refuses to write files above a limit, half-way through them, as a full disk does"
    (tmp_path/"run.py").write_text(FULL)
    sizes = sorted(len(content) for name, content in whole.items() if name.endswith(".png"))
    assert sizes[0] < sizes[-1]
    make(tmp_path/"store", 2) # the manifest is larger than a mask
    done = subprocess.run([sys.executable, tmp_path/"run.py", str(sizes[len(sizes)//2]), tmp_path/"store", str(workers)], capture_output=True, text=True, env=os.environ | dict(OMP_NUM_THREADS="1"))
    left = MaskStore(tmp_path/"store")
    assert done.returncode == 1 and re.fullmatch(rf"\S*store: file too large, make room there; {len(left)} of 12 masks are there; run it again to go on\n", done.stderr), done.stderr
    assert len(files(left.folder)) == len(left) + 1 and 0 < len(left) < 12
    make(tmp_path/"store")
    assert files(tmp_path/"store") == whole

@pytest.mark.parametrize("room", [0, 1, 7])
def test_full_disk(tmp_path, monkeypatch, whole, room):
    "The disk is full after a number of files; what of the next one fits is written"
    written, write = [], Path.write_bytes
    def write_bytes(self, content):
        written.append(self)
        if len(written) <= room:
            return write(self, content)
        write(self, content[:9])
        raise OSError(errno.ENOSPC, "No space left on device", str(self))
    with monkeypatch.context() as m:
        m.setattr(Path, "write_bytes", write_bytes)
        with pytest.raises(OSError, match=rf"store: no space left on device, make room there; {max(room - 1, 0)} of 12 masks"):
            make(tmp_path/"store")
    assert len(files(tmp_path/"store")) == room
    make(tmp_path/"store")
    assert files(tmp_path/"store") == whole

def test_full_tmpfs(tmp_path, whole):
    "A file system of 20 kB, where one can be mounted"
    place = tmp_path/"small"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=20k", "tmpfs", place], capture_output=True).returncode:
        pytest.skip("no right to mount a file system")
    try:
        with pytest.raises(OSError, match=r"small/store: no space left on device, make room there; [1-9] of 12 masks"):
            make(place/"store", workers=2)
        assert len(files(place/"store")) == len(MaskStore(place/"store")) + 1
        subprocess.run(["mount", "-o", "remount,size=2m", place], check=True)
        make(place/"store")
        assert files(place/"store") == whole
    finally:
        subprocess.run(["umount", place], check=True)


def start(tmp_path, count=400, workers=2):
    args = ["masks", "--data", "scenes", "--count", str(count), "--size", "48", "--out", str(tmp_path/"store"), "--workers", str(workers), "--batch", "4"]
    return subprocess.Popen([sys.executable, "-c", "from locloc.cli import main; main()", *args], start_new_session=True, stderr=subprocess.PIPE, text=True, env=os.environ | dict(OMP_NUM_THREADS="1"))

def wait_for(running, folder, count):
    while len(list(folder.rglob("*.png"))) < count:
        assert running.poll() is None
        time.sleep(.01)

def last(running):
    "What a process says beside its bar"
    return [line for line in running.communicate(timeout=300)[1].splitlines() if line and not line.startswith("masks: ")]

@pytest.mark.parametrize("workers, send", [(0, os.kill), (2, os.killpg)])
def test_ctrl_c(tmp_path, workers, send):
    "A terminal tells every process, a scheduler or notebook only the first"
    running = start(tmp_path, workers=workers)
    wait_for(running, tmp_path/"store", 5)
    send(running.pid, signal.SIGINT)
    told = last(running)
    left = MaskStore(tmp_path/"store")
    assert running.returncode == 130 and told == [f"locloc: {left.folder}: stopped; {len(left)} of 400 masks are there; run it again to go on"]
    assert 5 <= len(left) < 400 and len(files(left.folder)) == len(left) + 1

def test_killed_worker_is_told(tmp_path):
    import psutil
    running = start(tmp_path)
    wait_for(running, tmp_path/"store", 5)
    below = psutil.Process(running.pid).children(recursive=True)
    worker = next(p for p in below if p.ppid() != running.pid) # a child of the fork server
    worker.kill()
    assert last(running) == ["locloc: a worker process was killed, perhaps for want of memory: take fewer workers; what is done stays"] and running.returncode == 1

def test_kills_at_random_moments(tmp_path):
    "The short version of the benchmark: the store is in the end what it would have been"
    script = os.path.join(os.path.dirname(__file__), "..", "benchmarks", "mask_kills.py")
    done = subprocess.run([sys.executable, script, "--kills", "5", "--masks", "120"], capture_output=True, text=True, env=os.environ | dict(OMP_NUM_THREADS="1"))
    assert done.returncode == 0 and "5 of 5 runs killed" in done.stdout and "the same bytes" in done.stdout, done.stdout + done.stderr
