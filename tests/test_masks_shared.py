"One store, many writers: shards, ranks, and runs that start while others write"
import errno
import os
import subprocess
import sys

import numpy as np
import pytest

import locloc.masks
from locloc.attention import load_attention
from locloc.cli import main
from locloc.data import load_dataset
from locloc.masks import MaskStore, _publish, make_masks

ONE_THREAD = os.environ | dict(OMP_NUM_THREADS="1")
SCENES, SIZE, BATCH = dict(split="train", count=22, size=48), 48, 4

def files(folder): return {f.relative_to(folder).as_posix(): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}

@pytest.fixture
def make(tmp_path, monkeypatch):
    "make_masks of small scenes, which returns the ids that this call wrote"
    def make(name="store", **options):
        written, write = [], MaskStore.write
        with monkeypatch.context() as m:
            m.setattr(MaskStore, "write", lambda self, id, mask: (written.append(id), write(self, id, mask)))
            make_masks(load_dataset("scenes", **SCENES), tmp_path/name, size=SIZE, batch_size=BATCH, progress=False, **options)
        return written
    return make

def ranks(monkeypatch, rank, world):
    for key, value in dict(RANK=rank, LOCAL_RANK=rank, WORLD_SIZE=world, LOCAL_WORLD_SIZE=world).items():
        monkeypatch.setenv(key, str(value))


def test_shards_share_the_work(make, tmp_path):
    whole = make("whole")
    parts = [make(shard=(i, 3)) for i in (2, 1)]
    assert "counts" not in MaskStore(tmp_path/"store").manifest
    parts.append(make(shard=(3, 3)))
    assert sorted(sum(parts, [])) == sorted(whole) and len(whole) == 22 and all(parts)
    assert MaskStore(tmp_path/"store").manifest["counts"] == dict(pictures=22, masks=22)
    assert files(tmp_path/"store") == files(tmp_path/"whole")
    assert make(shard=(1, 3)) == []

def test_ranks_share_the_work_and_a_shard(make, tmp_path, monkeypatch):
    parts = []
    for shard in (1, 2):
        for rank in range(2):
            ranks(monkeypatch, rank, 2)
            parts.append(make(shard=(shard, 2)))
    assert len(set(sum(parts, []))) == len(sum(parts, [])) == 22 and all(parts)
    assert len(MaskStore(tmp_path/"store")) == 22

@pytest.mark.parametrize("shard", [(0, 2), (3, 2), (1, 0)])
def test_shards_are_checked(make, shard):
    with pytest.raises(ValueError, match="shard must be"):
        make(shard=shard)

@pytest.mark.parametrize("text", ["4", "0/4", "5/4", "1/", "a/b", "1/4/2", "-1/4"])
def test_shards_are_checked_on_the_command_line(tmp_path, capsys, text):
    with pytest.raises(SystemExit):
        main(["masks", "--data", "scenes", "--out", str(tmp_path/"store"), f"--shard={text}"])
    told = capsys.readouterr().err
    assert "--shard is i/n" in told and told.count("\n") == 1 and not (tmp_path/"store").exists()

def test_command_line_shards(tmp_path, capsys):
    for i, told in ((1, "4 of 6 masks"), (2, "6 masks; next")):
        main(["masks", "--data", "scenes", "--count", "6", "--size", "48", "--out", str(tmp_path/"store"), "--workers", "0", "--batch", "2", "--shard", f"{i}/2"])
        assert told in capsys.readouterr().out

RUN = """import sys
from locloc.data import load_dataset
from locloc.masks import make_masks
if __name__ == "__main__":
    print("ready", flush=True); sys.stdin.readline()
    i, n = map(int, sys.argv[2:])
    make_masks(load_dataset("scenes", split="train", count=22, size=48), sys.argv[1], size=48, batch_size=2, progress=False, shard=(i, n))
"""

def test_shards_that_start_at_the_same_moment(make, tmp_path):
    make("whole")
    (tmp_path/"run.py").write_text(RUN)
    start = lambda i: subprocess.Popen([sys.executable, tmp_path/"run.py", tmp_path/"store", str(i), "2"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=ONE_THREAD)
    running = [start(i) for i in (1, 2)]
    for one in running:
        one.stdout.readline()
    for one in running:
        one.stdin.write("go\n")
        one.stdin.flush()
    assert [one.wait(300) for one in running] == [0, 0]
    assert files(tmp_path/"store") == files(tmp_path/"whole")

def test_torchrun(make, tmp_path):
    make("whole")
    (tmp_path/"run.py").write_text(RUN.replace("; sys.stdin.readline()", ""))
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", tmp_path/"run.py", tmp_path/"store", "1", "1"]
    done = subprocess.run(launch, capture_output=True, text=True, timeout=600, env=ONE_THREAD)
    assert done.returncode == 0, done.stderr
    assert files(tmp_path/"store") == files(tmp_path/"whole")


def test_batches_do_not_depend_on_what_is_there(make, tmp_path, monkeypatch):
    "A ViT sees the same batches whatever is missing, so its masks are the same to the bit"
    seen, tiny = [], load_attention("locloc-tiny")
    class Noted(type(tiny)):
        def __call__(self, pictures): seen.append(pictures); return super().__call__(pictures)
    source = Noted(tiny.backbone, tiny.layers, tiny.heads)
    make(attention=source)
    batches, before = [*seen], files(tmp_path/"store")
    for i in (1, 2, 13):
        (tmp_path/f"store/train/{i:05d}.png").unlink()
    seen.clear()
    assert make(attention=source) == ["train/00001", "train/00002", "train/00013"]
    assert [np.array_equal(a, batches[i]) for a, i in zip(seen, (0, 3))] == [True, True] and len(seen) == 2
    assert files(tmp_path/"store") == before

@pytest.mark.parametrize("accelerated", [False, True])
def test_workers_give_the_same_masks(make, tmp_path, monkeypatch, accelerated):
    "Attention in the workers, as for a backbone on the CPU, or here, as for one on an accelerator"
    dataset, options = load_dataset("scenes", **SCENES | dict(count=6)), dict(attention=load_attention("locloc-tiny"), size=SIZE, batch_size=2, progress=False)
    make_masks(dataset, tmp_path/"here", **options)
    monkeypatch.setattr(locloc.masks, "_accelerated", lambda source: accelerated)
    make_masks(dataset, tmp_path/"there", **options, workers=2)
    assert files(tmp_path/"here") == files(tmp_path/"there")


def test_what_was_swept_is_written_again(tmp_path):
    "Another run starts between writing and renaming, and takes the temporary file for a leftover"
    tries = []
    def put(temporary, file):
        tries.append(temporary)
        if len(tries) < 3:
            MaskStore(tmp_path, {}).sweep()
        os.replace(temporary, file)
    _publish(tmp_path/"a/b.png", b"mask", put)
    assert (tmp_path/"a/b.png").read_bytes() == b"mask" and len(set(tries)) == 3
    assert sorted(files(tmp_path)) == ["a/b.png", "manifest.json"]

def test_first_manifest_stays(tmp_path, monkeypatch):
    "Two shards find no manifest; the second one's is not written over the first one's, and a difference is told"
    monkeypatch.setattr(MaskStore, "_begin", lambda self, file, manifest, begin=MaskStore._begin: (begin(self, file, dict(size=[1, 1])), begin(self, file, manifest)))
    assert MaskStore(tmp_path/"same", dict(size=[1, 1])).manifest == dict(size=[1, 1])
    with pytest.raises(ValueError, match=r"size is \[1, 1\] there and \[2, 2\] here"):
        MaskStore(tmp_path/"other", dict(size=[2, 2]))

def test_manifest_without_hard_links(tmp_path, monkeypatch):
    def no_links(*_): raise OSError(errno.EPERM, "no hard links here")
    monkeypatch.setattr(os, "link", no_links)
    assert MaskStore(tmp_path, dict(size=[1, 1])).manifest == dict(size=[1, 1])
    assert [*files(tmp_path)] == ["manifest.json"]

def test_bar_tells_the_rate_of_this_run(monkeypatch):
    "900 of 1,000 masks were there; 50 more in 10 s are 5 a second, and the last 50 take 10 s"
    with locloc.masks._bar(1000, 100, True) as bar:
        bar.update(50)
        shown = bar.format_meter(**bar.format_dict | dict(elapsed=10, rate=None))
    assert "950/1000 [00:10<00:10,  5.00 pictures/s]" in shown
    ranks(monkeypatch, 1, 2)
    with locloc.masks._bar(1000, 100, True) as bar:
        assert bar.disable
