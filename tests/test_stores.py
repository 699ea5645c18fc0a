"Stores of masks: what make_masks writes, damaged and mixed stores, a killed run"
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace

import numpy as np
import psutil
import pytest
from PIL import Image
from stored import contents

from locloc.attention import load_attention
from locloc.data import load_dataset
from locloc.masks import GrabCutParams, grabcut_mask
from locloc.stores import MaskStore, check_masks, make_masks, pseudo_truth

LOWLEVEL = GrabCutParams.preset("lowlevel")


def scenes(split="train"):
    return load_dataset("scenes", split=split, count=8, size=96)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return make_masks(scenes(), tmp_path_factory.mktemp("masks")/"store", size=96, progress=False)


def test_store_holds_what_grabcut_gives(store):
    sample = scenes()[3]
    attention = load_attention("lowlevel")(sample.picture[None])[0]
    assert np.array_equal(store.read(sample.id), grabcut_mask(sample.picture, attention, LOWLEVEL))


def test_masks_are_pictures_of_one_bit(store):
    assert Image.open(store.folder/"train/00003.png").mode == "1"


def test_manifest_tells_how_many_masks_there_are(store):
    assert len(store) == 8 and store.manifest["counts"] == dict(pictures=8, masks=8)


def test_manifest_tells_how_masks_were_made(store):
    assert store.manifest["params"] == asdict(LOWLEVEL) and store.manifest["size"] == [96, 96]


def test_second_run_keeps(store):
    def times():
        return {file: file.stat().st_mtime_ns for file in store.folder.rglob("*.png")}
    before = times()
    make_masks(scenes(), store.folder, size=96, progress=False)
    assert times() == before and len(before) == 8


@pytest.mark.parametrize("other, told", [
    (dict(params=replace(LOWLEVEL, split=.45), size=96), r"params\.split is 0\.\d+ there and 0\.45 here"),
    (dict(size=64), r"size is \[96, 96\]"),
])
def test_mixed_parameters_are_refused(store, other, told):
    before = contents(store.folder)
    with pytest.raises(ValueError, match=told):
        make_masks(scenes(), store.folder, **other, progress=False)
    assert contents(store.folder) == before


def test_other_split_is_refused(store):
    with pytest.raises(ValueError, match="split is 'train' there and 'test' here"):
        make_masks(scenes("test"), store.folder, size=96, progress=False)


def flip_one_byte(content):
    return content[:60] + bytes([content[60] ^ 255]) + content[61:]


def cut_in_half(content):
    return content[:len(content) // 2]


@pytest.mark.parametrize("damage", [
    cut_in_half, lambda content: content[:-12], lambda content: b"", lambda content: b"not a picture", flip_one_byte])
def test_damaged_mask_is_named(tmp_path, damage):
    store = MaskStore(tmp_path, dict(size=[9, 9]))
    store.write("a/b.jpg", np.random.default_rng(0).random((40, 40)) > .5)
    file = tmp_path/"a/b.png"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(ValueError, match=r"a/b\.png is damaged .*delete it and run make_masks"):
        store.read("a/b.jpg")


MASK = np.eye(5, dtype=bool)


@pytest.fixture
def small(tmp_path):
    return MaskStore(tmp_path/"small", {})


def test_a_mask_is_found_by_the_id_of_its_picture(small):
    small.write("001.Bird/x.y.JPG", MASK)
    assert "001.Bird/x.y.JPG" in small and small.ids() == ["001.Bird/x.y"]
    assert np.array_equal(small.read("001.Bird/x.y.JPG"), MASK)


def test_a_missing_mask_is_named(small):
    with pytest.raises(ValueError, match=r"001\.Bird/z\.png is missing"):
        small.read("001.Bird/z.jpg")


@pytest.mark.parametrize("id", ["../x.jpg", "/etc/x.jpg", ""])
def test_masks_stay_in_their_folder(small, id):
    with pytest.raises(ValueError, match="does not name a picture"):
        small.write(id, MASK)


def test_masks_are_bool(small):
    with pytest.raises(ValueError, match="bool"):
        small.write("a.jpg", MASK.astype(np.uint8))


def test_a_folder_without_manifest_is_no_store(small):
    with pytest.raises(ValueError, match=r"no manifest\.json"):
        MaskStore(small.folder.parent)


def test_a_folder_with_pictures_of_ones_own_becomes_no_store(tmp_path):
    Image.new("1", (4, 4)).save(tmp_path/"mine.png")
    with pytest.raises(ValueError, match=r"no manifest\.json"):
        MaskStore(tmp_path, {})


@pytest.fixture
def photographs(tmp_path):
    "Folder of four noisy JPEGs"
    folder = tmp_path/"pictures/cat"
    folder.mkdir(parents=True)
    noise = np.random.default_rng(0).integers(0, 256, (4, 50, 60, 3), dtype=np.uint8)
    for i, picture in enumerate(noise):
        Image.fromarray(picture).save(folder/f"{i}.jpg")
    return folder


def make_of_photographs(photographs):
    dataset, folder = load_dataset(photographs.parent), photographs.parents[1]/"masks"
    return make_masks(dataset, folder, size=64, batch_size=1, progress=False)


def no_picture(whole):
    return b"no picture"


@pytest.mark.parametrize("harm", [cut_in_half, no_picture]) # its size can be read, or not even that
@pytest.mark.parametrize("workers, batch_size", [(0, 1), (0, 4), (2, 2)])
def test_a_damaged_picture_is_passed_over(photographs, tmp_path, capfd, harm, workers, batch_size):
    def make(folder="masks"):
        dataset = load_dataset(photographs.parent)
        return make_masks(dataset, tmp_path/folder, size=64, workers=workers, batch_size=batch_size, progress=False)
    whole, damaged = make("whole"), photographs/"2.jpg"
    content = damaged.read_bytes()
    damaged.write_bytes(harm(content))
    store = make()
    assert store.ids() == ["cat/0", "cat/1", "cat/3"] and "counts" not in store.manifest
    assert [*store.damaged] == ["cat/2.jpg"] and str(damaged) in store.damaged["cat/2.jpg"]
    assert capfd.readouterr().err == f"no mask: {store.damaged['cat/2.jpg']}\n"
    (problem,) = check_masks(load_dataset(photographs.parent), store.folder, progress=False)
    assert "cat/2.png is missing: its picture is damaged" in problem and problem.endswith("once more")
    before = contents(store.folder)
    assert len(pseudo_truth(load_dataset(photographs.parent), store)) == 3
    assert make().damaged and contents(store.folder) == before, "it is tried again, and nothing else is made"
    damaged.write_bytes(content)
    assert contents(make().folder) == contents(whole.folder)


def test_masks_beside_a_damaged_picture_are_what_they_would_be(tmp_path):
    "A ViT sees a batch of the same shape"
    vit = load_attention("test_vit", weights=False)
    folder = tmp_path/"pictures/cat"
    folder.mkdir(parents=True)
    for i in range(4):
        Image.fromarray(scenes()[i].picture).save(folder/f"{i}.png")
    def make(name):
        return make_masks(load_dataset(folder.parent), tmp_path/name, vit, size=96, progress=False)
    whole = contents(make("whole").folder)
    (folder/"1.png").write_bytes(b"")
    store = make("masks")
    assert len(store) == 3 and all(whole[f"{id}.png"] == contents(store.folder)[f"{id}.png"] for id in store.ids())


@pytest.mark.parametrize("wrong, told", [
    (dict(size=0), "size must be 1 or more, got 0"), (dict(size=-16), "size must be 1 or more"),
    (dict(workers=-1), "workers must be 0 or more, got -1"), (dict(batch_size=0), "batch must be 1 or more, got 0"),
    (dict(size=100, attention="vit"), "multiples of its patch size 16, got 100×100"),
    (dict(shard=(3, 2)), "from 1 to n"),
])
def test_impossible_settings_are_refused_before_anything_is_written(tmp_path, wrong, told):
    if wrong.get("attention"):
        wrong = wrong | dict(attention=load_attention("test_vit", weights=False))
    with pytest.raises(ValueError, match=told):
        make_masks(scenes(), tmp_path/"store", **wrong, progress=False)
    assert not (tmp_path/"store").exists()


def test_a_folder_is_the_same_however_it_is_typed(photographs, tmp_path, monkeypatch):
    monkeypatch.chdir(photographs.parent)
    make_of_photographs(photographs)
    before = contents(tmp_path/"masks")
    for name in (".", "./", f"{photographs.parent}/", f"../{photographs.parent.name}"):
        make_masks(load_dataset(name), tmp_path/"masks", size=64, batch_size=1, progress=False)
    assert contents(tmp_path/"masks") == before


def test_two_pictures_that_would_share_a_mask_are_named(photographs):
    (photographs/"0.png").write_bytes((photographs/"0.jpg").read_bytes())
    with pytest.raises(ValueError, match=r"0\.jpg and cat/0\.png would share"):
        make_of_photographs(photographs)


RUN = """import sys
from locloc.data import load_dataset
from locloc.stores import make_masks

if __name__ == "__main__":
    dataset = load_dataset("scenes", split="train", count=24)
    make_masks(dataset, sys.argv[1], workers=2, batch_size=2, progress=False)
"""


def has_ended(process):
    try:
        return process.status() == psutil.STATUS_ZOMBIE # nobody has asked for its exit status yet
    except psutil.NoSuchProcess:
        return True


def wait_until(what, look, patience=600):
    stop = time.monotonic() + patience
    while not look():
        assert time.monotonic() < stop, f"waited {patience} s for {what}"
        time.sleep(.01)


@pytest.fixture
def killed(tmp_path):
    "Store of a run that was killed after a few masks"
    (tmp_path/"run.py").write_text(RUN)
    folder = tmp_path/"killed"
    running = subprocess.Popen([sys.executable, tmp_path/"run.py", folder])
    wait_until("three masks", lambda: len([*folder.rglob("*.png")]) >= 3)
    workers = psutil.Process(running.pid).children(recursive=True)
    running.send_signal(signal.SIGKILL)
    running.wait()
    wait_until("the workers to end", lambda: all(map(has_ended, workers)))
    assert workers and 3 <= len([*folder.rglob("*.png")]) < 24
    return folder


def test_killed_run_goes_on(killed, tmp_path):
    "The second run ends with the bytes of an undisturbed one, leftovers are swept, and no worker goes on alone"
    next(killed.rglob("*.png")).with_name(".0123456789abcdef.tmp").write_bytes(b"half")
    dataset = load_dataset("scenes", split="train", count=24)
    for name in ("killed", "whole"):
        make_masks(dataset, tmp_path/name, progress=False)
    assert contents(killed) == contents(tmp_path/"whole") and len(contents(killed)) == 25
