"""What happens to a long command while it runs, and whether anything is lost: the table of results/faults.md.

    python benchmarks/faults.py [--only WORD ...] [--works masks geg lfdm evaluate download] [--kills 50] [--seed 0]

Every try is a process of its own, forked from this one (so that torch is imported once), with one thread. After the
fault the same command is given once more, without it. A try is lost where the result then is not that of an undisturbed
run, byte for byte (of a training: the model and metrics.jsonl), or where the fault was said in something else than one
line. A kill is at a random moment of the length of an undisturbed run, or in front of a random one of its file
operations (open to write, make, rename, delete); killed runs go on until one comes to its end, and then another begins.
Faults of the disk need the right to mount a small tmpfs; where it is missing, their rows say so.
"""
import argparse
import contextlib
import hashlib
import http.server
import io
import multiprocessing
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

os.environ.update(HF_HUB_OFFLINE="1", OMP_NUM_THREADS="1", CUDA_VISIBLE_DEVICES="")

import matplotlib.backends.backend_agg  # noqa: F401 these are imported for the forks, which would each need seconds
import psutil
import torch
import torch.utils.tensorboard  # noqa: F401
from PIL import Image

import locloc.evaluate  # noqa: F401
import locloc.train  # noqa: F401
from locloc import fetch
from locloc.cli import main
from locloc.data import load_dataset
from locloc.faults import LOCK
from locloc.fetch import Archive

BAR = re.compile(r"[^:]+: +\d+%\|")


@dataclass(frozen=True)
class Work:
    "A long command"
    args:Callable # folder -> what follows `locloc`
    kept:tuple=("*",) # what of the folder must be the same, glob patterns

    def contents(self, folder):
        "Relative name of every file that matters -> its bytes; and of every leftover"
        files = {file for pattern in (*self.kept, ".*.tmp") for file in folder.rglob(pattern) if file.is_file()}
        return {file.relative_to(folder).as_posix(): file.read_bytes() for file in files if file.name != LOCK}


@dataclass
class Tries:
    "Of one fault"
    count:int=0
    lost:int=0
    said:dict=field(default_factory=dict) # message without numbers -> message

    def add(self, kept, message=""):
        self.count += 1
        self.lost += not kept
        message = message.strip() or ("" if kept else "DIFFERENT BYTES")
        if message:
            self.said.setdefault(re.sub(r"\d|/tmp\w+", "", message), message)


def write_pictures(folder):
    "A data set of 2 x 12 small scenes with their boxes"
    rows = ["image,class,split,width,height,x0,y0,x1,y1,mask"]
    for split in ("train", "test"):
        for sample in load_dataset("scenes", split=split, count=12, size=64):
            name = f"{sample.id}.png"
            (folder/name).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(sample.picture).save(folder/name)
            rows += [f"{name},{sample.label},{split},64,64,{x0},{y0},{x1},{y1}," for x0, y0, x1, y1 in sample.boxes]
    (folder/"index.csv").write_text("\n".join(rows) + "\n")


def works(place):
    "The commands, of small pictures"
    masks = place/"masks_of_all"
    small = ["--data", str(place/"pictures")]
    train = ["--preset", "tiny", *small, "--masks", str(masks), "--batch", "8", "--epochs", "3", "--resize", "64",
             "--crop", "64", "--cached-views", "2"]
    geg = ["--unet-dim", "8", "--width", "8"]
    return {
        "masks": Work(lambda out: ["masks", *small, "--size", "64", "--workers", "0", "--batch", "4", "--out", out]),
        "masks, 2 workers": Work(
            lambda out: ["masks", *small, "--size", "64", "--workers", "2", "--batch", "4", "--out", out]),
        "geg": Work(lambda out: ["train", "geg", *train, *geg, "--out", out], ("model/*", "metrics.jsonl")),
        "lfdm": Work(lambda out: ["train", "lfdm", *train, "--out", out], ("model/*", "metrics.jsonl")),
        "evaluate": Work(lambda out: ["evaluate", *small, "--protocol", "wsoleval", "--workers", "1", "--out", out]),
        "download": Work(lambda out: ["data", "get", "birds", "--to", out]),
    }


def child(args, log, prepare):
    os.setsid()
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    sys.stdout, sys.stderr, sys.argv = open(os.devnull, "w"), open(log, "a", buffering=1), ["locloc"]
    torch.set_num_threads(1)
    prepare()
    main([str(arg) for arg in args])


def start(work, folder, prepare=lambda: None):
    log = folder.with_name(f"{folder.name}.log") if os.access(folder.parent, os.W_OK) else Path(os.devnull)
    return start_logged(work.args(folder), log, prepare)


def start_logged(args, log, prepare=lambda: None):
    process = multiprocessing.get_context("fork").Process(target=child, args=(args, log, prepare))
    process.start()
    process.log = log
    return process


def last_words(process, patience=300):
    "What it said beside its bar, without the name of the command; a traceback as a whole"
    process.join(patience)
    if process.exitcode is None:
        process.kill()
        process.join()
        return f"it does not end within {patience} s\nand was killed"
    lines = re.split("[\r\n]+", process.log.read_text())
    return "\n".join(line for line in lines if line and not BAR.match(line)).removeprefix("locloc: ")


def is_one_line(message):
    return "\n" not in message and "Traceback" not in message


@dataclass(frozen=True)
class Whole:
    "An undisturbed run"
    contents:dict
    seconds:float
    operations:int # on files

    @property
    def model(self): # of a training
        return {name: content for name, content in self.contents.items() if name.startswith("model/")}


@contextlib.contextmanager
def own_folder(place):
    folder = Path(tempfile.mkdtemp(dir=place))
    yield folder/"out"
    shutil.rmtree(folder, ignore_errors=True)


CHANGES = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate", "os.link"}


def is_change(event, args):
    return event in CHANGES or event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR)


def kill_workers(session):
    with contextlib.suppress(ProcessLookupError):
        os.killpg(session, signal.SIGKILL)


def count_operations(log):
    def note(event, args):
        if is_change(event, args):
            os.write(counted, b".")
    counted = os.open(log, os.O_WRONLY | os.O_CREAT)
    sys.addaudithook(note)


def kill_at_operation(number):
    seen = []
    def note(event, args):
        if is_change(event, args):
            seen.append(event)
            if len(seen) == number:
                os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(note)


def undisturbed(work, place):
    with own_folder(place) as folder:
        counted, begun = folder.with_name("counted"), time.monotonic()
        process = start(work, folder, partial(count_operations, counted))
        said = last_words(process)
        assert process.exitcode == 0, said
        return Whole(work.contents(folder), time.monotonic() - begun, counted.stat().st_size)


def ends_whole(work, folder, whole):
    "The command once more, without a fault"
    process = start(work, folder)
    said = last_words(process)
    return process.exitcode == 0 and work.contents(folder) == whole.contents, said


def kills(work, place, whole, rng, count, at_operation):
    tries = Tries()
    while tries.count < count:
        with own_folder(place) as folder:
            killed, ended = 0, False
            while not ended and tries.count + killed < count:
                if at_operation:
                    process = start(work, folder, partial(kill_at_operation, rng.randint(1, whole.operations)))
                    process.join()
                else:
                    process = start(work, folder)
                    process.join(rng.uniform(0, whole.seconds))
                    process.kill()
                    if rng.random() < .5: # else its workers must notice
                        kill_workers(process.pid)
                    process.join()
                ended = process.exitcode != -signal.SIGKILL
                killed += not ended
            kept, said = ends_whole(work, folder, whole)
            kept &= not ended or process.exitcode == 0
            for number in range(killed):
                tries.add(kept or number, "" if kept else said)
    return tries


@contextlib.contextmanager
def small_disk(place, size):
    disk = place/"disk"
    disk.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", disk], check=True, capture_output=True)
    try:
        yield disk
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


def full_disk(work, place, whole, rng, count):
    tries, most = Tries(), sum(map(len, whole.contents.values()))
    for _ in range(count):
        with small_disk(place, int(rng.uniform(4096, 2 * most))) as disk:
            process = start_logged(work.args(disk/"out"), place/"full.log")
            said = last_words(process)
            subprocess.run(["mount", "-o", "remount,size=1g", disk], check=True)
            kept, later = ends_whole(work, disk/"out", whole)
            tries.add(kept and is_one_line(said) and ("make room" in said or process.exitcode == 0), said)
    return tries


def read_only(work, place, whole, rng, count):
    tries = Tries()
    for _ in range(count):
        with small_disk(place, "1g") as disk:
            subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
            process = start_logged(work.args(disk/"out"), place/"read_only.log")
            said = last_words(process)
            tries.add(process.exitcode == 1 and is_one_line(said) and str(disk) in said, said)
    return tries


def removed(work, place, whole, rng, count):
    tries = Tries()
    for _ in range(count):
        with own_folder(place) as folder:
            process = start(work, folder)
            process.join(rng.uniform(.3, 1) * whole.seconds)
            shutil.rmtree(folder, ignore_errors=True)
            said = last_words(process)
            ended, _ = ends_whole(work, folder, whole)
            kept = ended or work.contents(folder).items() >= whole.model.items() > set() # its figures were deleted
            told = process.exitcode == 0 or process.exitcode == 1 and is_one_line(said) and str(folder) in said
            tries.add(kept and told, said if process.exitcode else "")
    return tries


def second_one(work, place, whole, rng, count):
    tries = Tries()
    for _ in range(count):
        with own_folder(place) as folder:
            first = start(work, folder)
            while not ((folder/LOCK).exists() and (folder/LOCK).read_text()):
                assert first.is_alive()
                time.sleep(.005)
            os.kill(first.pid, signal.SIGSTOP) # it is not done before the second one asks
            second = start_logged(work.args(folder), place/"second.log")
            said = last_words(second)
            os.kill(first.pid, signal.SIGCONT)
            last_words(first)
            refused = second.exitcode == 1 and f"process {first.pid} on {os.uname().nodename}" in said
            tries.add(refused and work.contents(folder) == whole.contents and first.exitcode == 0, said)
    return tries


def shards(work, place, whole, rng, count):
    tries = Tries()
    for _ in range(count):
        with own_folder(place) as folder:
            folder.parent.mkdir(exist_ok=True)
            both = [start_logged([*work.args(folder), "--shard", f"{i}/2"], folder.with_name(f"{i}")) for i in (1, 2)]
            said = " ".join(map(last_words, both))
            tries.add(work.contents(folder) == whole.contents, said)
    return tries


def set_clock_back():
    now, begun = time.time, time.monotonic()
    time.time = lambda: now() - 1e8 - 100*(time.monotonic() - begun)


def clock(work, place, whole, rng, count):
    "Killed, its files dated ten years ahead, then a clock that runs backwards"
    tries = Tries()
    for _ in range(count):
        with own_folder(place) as folder:
            process = start(work, folder)
            process.join(rng.uniform(.3, 1) * whole.seconds)
            process.kill()
            process.join()
            for file in folder.rglob("*"):
                os.utime(file, (time.time() + 3e8,) * 2)
            process = start(work, folder, set_clock_back)
            said = last_words(process)
            tries.add(process.exitcode == 0 and work.contents(folder) == whole.contents, said)
    return tries


def limit_memory(room):
    used = psutil.Process().memory_info()
    resource.setrlimit(resource.RLIMIT_DATA, (used.data + room, used.data + room))


def memory(work, place, whole, rng, count):
    tries = Tries()
    for _ in range(count):
        with own_folder(place) as folder:
            process = start(work, folder, partial(limit_memory, int(10**rng.uniform(6, 8.5))))
            said = last_words(process)
            kept, _ = ends_whole(work, folder, whole)
            told = process.exitcode == 0 or process.exitcode == 1 and is_one_line(said) and "out of memory" in said
            tries.add(kept and told, said or (f"exit status {process.exitcode}" if process.exitcode else ""))
    return tries


def rank(work, place, whole, rng, count):
    "One of two ranks is killed"
    tries = Tries()
    for _ in range(count):
        with own_folder(place) as folder:
            launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
            code = "from locloc.cli import main; main()"
            script = folder.with_name("run.py")
            script.write_text(code)
            with open(folder.with_name("rank.log"), "w") as log:
                running = subprocess.Popen([*launch, script, *work.args(folder)], stdout=log, stderr=log)
                while not list(folder.rglob("*.png")) and running.poll() is None:
                    time.sleep(.01)
                ranks = psutil.Process(running.pid).children(recursive=True)
                ranks[-1].kill()
                begun = time.monotonic()
                psutil.wait_procs(ranks, 120)
                running.wait(120)
                seconds = time.monotonic() - begun
            text = folder.with_name("rank.log").read_text()
            told = next((line for line in text.splitlines() if "SIGKILL" in line or "Signal 9" in line), "")
            kept, said = ends_whole(work, folder, whole)
            tries.add(kept and seconds < 60 and told and running.returncode, f"after {seconds:.0f} s: {told.strip()}")
    return tries


class Slowly(http.server.BaseHTTPRequestHandler):
    "Serves one file, or the rest of it, in small pieces"
    content = b""

    def do_GET(self):
        begin = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").rstrip("-"))
        self.send_response(206 if begin else 200)
        self.send_header("Content-Length", str(len(self.content) - begin))
        self.end_headers()
        with contextlib.suppress(OSError): # the other one was killed
            for at in range(begin, len(self.content), 1 << 16):
                self.wfile.write(self.content[at:min(at + (1 << 16), len(self.content))])
                time.sleep(.01)

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def site():
    "`locloc data get birds` finds an archive of 3 MB"
    with tarfile.open(fileobj=(whole := io.BytesIO()), mode="w:gz") as archive:
        for i in range(60):
            info = tarfile.TarInfo(f"birds/{i}.jpg")
            info.size = 50_000
            archive.addfile(info, io.BytesIO(random.Random(i).randbytes(info.size)))
    Slowly.content = whole.getvalue()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Slowly) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        digest = hashlib.sha256(Slowly.content).hexdigest()
        url = f"http://127.0.0.1:{server.server_port}/birds.tgz"
        fetch.ARCHIVES["birds"] = Archive(url, digest, len(Slowly.content), "birds")
        yield
        server.shutdown()


def faults(args): # (name, what makes it, which works it is for)
    every, trained = ("masks", "geg", "lfdm", "evaluate", "download"), ("geg", "lfdm")
    few = max(1, args.kills // 10)
    return [
        ("SIGKILL at a random moment", partial(kills, count=args.kills, at_operation=False), every),
        ("SIGKILL at a random moment", partial(kills, count=2*few, at_operation=False), ["masks, 2 workers"]),
        ("SIGKILL at a file operation", partial(kills, count=args.kills, at_operation=True), every),
        ("disk full", partial(full_disk, count=2*few), every),
        ("read-only folder", partial(read_only, count=1), every),
        ("folder removed", partial(removed, count=few), every),
        ("a second one in the folder", partial(second_one, count=few), trained),
        ("two shards at once", partial(shards, count=few), ("masks",)),
        ("clock set back", partial(clock, count=few), every),
        ("memory limit", partial(memory, count=2*few), every),
        ("a rank killed", partial(rank, count=2), ("masks",)),
    ]


def run_row(fault, name, work, place, whole, seed):
    try:
        return fault(work, place, whole, random.Random(seed))
    except subprocess.CalledProcessError as wrong:
        return Tries(said={"": f"not tried: {wrong.stderr.decode().strip()}"})


def as_cell(said, place):
    def short(message):
        line = message if is_one_line(message) else message.splitlines()[-1] + " (a traceback)"
        return line.replace(str(place), "...").replace("|", "/")
    return "; ".join(map(short, said.values())) or "–"


def run():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=[""], help="faults with one of these in their name")
    parser.add_argument("--works", nargs="+", default=list(works(Path())))
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    lost = 0
    with tempfile.TemporaryDirectory() as folder, site():
        place, wholes, known = Path(folder), {}, works(Path(folder))
        write_pictures(place/"pictures")
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            main(list(map(str, known["masks"].args(place/"masks_of_all"))))
            if "evaluate" in args.works: # kernels and fonts are loaded for the forks
                main(list(map(str, known["evaluate"].args(place/"warm"))))
        print("| fault | command | tries | lost | what was said |\n|---|---|---:|---:|---|", flush=True)
        for fault, make, names in faults(args):
            for name in names:
                if any(word in fault for word in args.only) and name in args.works:
                    wholes[name] = wholes.get(name) or undisturbed(known[name], place)
                    tries = run_row(make, name, known[name], place, wholes[name], args.seed)
                    lost += tries.lost
                    said = as_cell(tries.said, place)
                    print(f"| {fault} | {name} | {tries.count} | {tries.lost} | {said} |", flush=True)
    raise SystemExit(lost > 0)


if __name__ == "__main__":
    run()
