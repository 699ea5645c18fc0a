"One store, many writers: shards, ranks, and runs that start while others write"
import errno
import os
import subprocess
import sys

import numpy as np
import pytest
from stored import contents

import locloc.stores
from locloc.attention import CLSAttention, load_attention
from locloc.cli import main
from locloc.data import load_dataset
from locloc.files import replace_whole
from locloc.stores import MaskStore, make_masks

ONE_THREAD = os.environ | dict(OMP_NUM_THREADS="1")


def scenes(count=22):
    return load_dataset("scenes", split="train", count=count, size=48)


@pytest.fixture
def make(tmp_path, monkeypatch):
    "make_masks of small scenes, which returns the ids that this call wrote"
    def make(name="store", **options):
        written, write = [], MaskStore.write
        def write_and_note(self, id, mask):
            written.append(id)
            write(self, id, mask)
        with monkeypatch.context() as patched:
            patched.setattr(MaskStore, "write", write_and_note)
            make_masks(scenes(), tmp_path/name, size=48, batch_size=4, progress=False, **options)
        return written
    return make


def become_rank(monkeypatch, rank, world):
    for name, value in dict(RANK=rank, LOCAL_RANK=rank, WORLD_SIZE=world, LOCAL_WORLD_SIZE=world).items():
        monkeypatch.setenv(name, str(value))


def test_shards_share_the_work(make):
    whole = make("whole")
    parts = [make(shard=(i, 3)) for i in (2, 1, 3)]
    assert sorted(sum(parts, [])) == sorted(whole) and len(whole) == 22 and all(parts)


def test_shards_write_what_one_run_writes(make, tmp_path):
    make("whole")
    for i in (2, 1, 3):
        make(shard=(i, 3))
    assert contents(tmp_path/"store") == contents(tmp_path/"whole")


def test_the_last_shard_says_that_the_store_is_complete(make, tmp_path):
    for i in (2, 1):
        make(shard=(i, 3))
        assert "counts" not in MaskStore(tmp_path/"store").manifest
    make(shard=(3, 3))
    assert MaskStore(tmp_path/"store").manifest["counts"] == dict(pictures=22, masks=22)


def test_a_shard_that_is_done_writes_nothing(make):
    make()
    assert make(shard=(1, 3)) == []


def test_ranks_share_the_work_and_a_shard(make, tmp_path, monkeypatch):
    parts = []
    for shard in (1, 2):
        for rank in range(2):
            become_rank(monkeypatch, rank, 2)
            parts.append(make(shard=(shard, 2)))
    written = sum(parts, [])
    assert len(set(written)) == len(written) == 22 and all(parts)
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
    small = ["--count", "6", "--size", "48", "--workers", "0", "--batch", "2", "--out", str(tmp_path/"store")]
    for shard, told in {"1/2": "4 of 6 masks", "2/2": "6 masks; next"}.items():
        main(["masks", "--data", "scenes", *small, "--shard", shard])
        assert told in capsys.readouterr().out


RUN = """import sys
from locloc.data import load_dataset
from locloc.stores import make_masks

if __name__ == "__main__":
    folder, shard, shards = sys.argv[1:]
    dataset = load_dataset("scenes", split="train", count=22, size=48)
    print("ready", flush=True)
    sys.stdin.readline()
    make_masks(dataset, folder, size=48, batch_size=2, progress=False, shard=(int(shard), int(shards)))
"""


@pytest.fixture
def script(tmp_path):
    "A run that waits for a line before it makes masks"
    (tmp_path/"run.py").write_text(RUN)
    return tmp_path/"run.py"


def test_shards_that_start_at_the_same_moment(make, tmp_path, script):
    make("whole")
    running = []
    for shard in ("1", "2"):
        command = [sys.executable, script, tmp_path/"store", shard, "2"]
        running.append(subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=ONE_THREAD))
    for one in running:
        one.stdout.readline()
    for one in running:
        one.stdin.write("go\n")
        one.stdin.flush()
    assert [one.wait(300) for one in running] == [0, 0]
    assert contents(tmp_path/"store") == contents(tmp_path/"whole")


def test_torchrun(make, tmp_path, script):
    make("whole")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*launch, script, tmp_path/"store", "1", "1"]
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=600, env=ONE_THREAD)
    assert done.returncode == 0, done.stderr
    assert contents(tmp_path/"store") == contents(tmp_path/"whole")


@pytest.fixture(scope="module")
def tiny():
    return load_attention("locloc-tiny")


class Noted(CLSAttention):
    "The same source, which notes what it is asked"
    def __init__(self, source):
        super().__init__(source.backbone, source.layers, source.heads)
        self.seen = []

    def __call__(self, pictures):
        self.seen.append(pictures)
        return super().__call__(pictures)


def test_batches_do_not_depend_on_what_is_there(make, tmp_path, tiny):
    "A ViT sees the same batches whatever is missing, so its masks are the same to the bit"
    first, second = Noted(tiny), Noted(tiny)
    make(attention=first)
    before = contents(tmp_path/"store")
    for i in (1, 2, 13):
        (tmp_path/f"store/train/{i:05d}.png").unlink()
    assert make(attention=second) == ["train/00001", "train/00002", "train/00013"]
    assert len(first.seen) == 6 and len(second.seen) == 2
    assert np.array_equal(second.seen[0], first.seen[0]) and np.array_equal(second.seen[1], first.seen[3])
    assert contents(tmp_path/"store") == before


@pytest.mark.parametrize("accelerated", [False, True])
def test_workers_give_the_same_masks(tmp_path, monkeypatch, tiny, accelerated):
    "Attention in the workers, as for a backbone on the CPU, or here, as for one on an accelerator"
    options = dict(attention=tiny, size=48, batch_size=2, progress=False)
    make_masks(scenes(6), tmp_path/"here", **options)
    monkeypatch.setattr(locloc.stores, "_on_accelerator", lambda source: accelerated)
    make_masks(scenes(6), tmp_path/"there", **options, workers=2)
    assert contents(tmp_path/"here") == contents(tmp_path/"there")


def test_what_was_swept_is_written_again(tmp_path):
    "Another run starts between writing and renaming, and takes the temporary file for a leftover"
    tries = []
    def sweep_twice_then_rename(aside, file):
        tries.append(aside)
        if len(tries) < 3:
            MaskStore(tmp_path, {}).sweep()
        os.replace(aside, file)
    replace_whole(tmp_path/"a/b.png", lambda aside: aside.write_bytes(b"mask"), sweep_twice_then_rename)
    assert (tmp_path/"a/b.png").read_bytes() == b"mask" and len(set(tries)) == 3
    assert sorted(contents(tmp_path)) == ["a/b.png", "manifest.json"]


@pytest.fixture
def begun_by_another(monkeypatch):
    "Two shards find no manifest; another one's, of 1 x 1 px, is there when this one's comes"
    begin = MaskStore._begin
    def begin_twice(self, file, manifest):
        begin(self, file, dict(size=[1, 1]))
        begin(self, file, manifest)
    monkeypatch.setattr(MaskStore, "_begin", begin_twice)


def test_first_manifest_stays(tmp_path, begun_by_another):
    assert MaskStore(tmp_path, dict(size=[1, 1])).manifest == dict(size=[1, 1])


def test_a_difference_from_the_first_manifest_is_told(tmp_path, begun_by_another):
    with pytest.raises(ValueError, match=r"size is \[1, 1\] there and \[2, 2\] here"):
        MaskStore(tmp_path, dict(size=[2, 2]))


def test_manifest_without_hard_links(tmp_path, monkeypatch):
    def refuse_links(*_):
        raise OSError(errno.EPERM, "no hard links here")
    monkeypatch.setattr(os, "link", refuse_links)
    assert MaskStore(tmp_path, dict(size=[1, 1])).manifest == dict(size=[1, 1])
    assert [*contents(tmp_path)] == ["manifest.json"]


def test_bar_tells_the_rate_of_this_run():
    "900 of 1,000 masks were there; 50 more in 10 s are 5 a second, and the last 50 take 10 s"
    with locloc.stores._bar(1000, 100, True) as bar:
        bar.update(50)
        shown = bar.format_meter(**bar.format_dict | dict(elapsed=10, rate=None))
    assert "950/1000 [00:10<00:10,  5.00 pictures/s]" in shown


def test_only_the_first_rank_shows_a_bar(monkeypatch):
    become_rank(monkeypatch, 1, 2)
    with locloc.stores._bar(1000, 100, True) as bar:
        assert bar.disable
