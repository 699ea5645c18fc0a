"Masks: the kernel against OpenCV itself, damaged and mixed stores, a killed run"
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace

import cv2
import numpy as np
import psutil
import pytest
from PIL import Image

from locloc.attention import load_attention
from locloc.data import load_dataset
from locloc.grabcut import PreparedPicture, grabcut
from locloc.masks import (
    GrabCutParams,
    MaskStore,
    grabcut_mask,
    make_masks,
    ppd_mask,
    trimap,
)

SCENES = dict(split="train", count=8, size=96)

@pytest.fixture(scope="module")
def scene():
    sample = load_dataset("scenes", **SCENES)[0]
    return sample.picture, load_attention("lowlevel")(sample.picture[None])[0]

@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return make_masks(load_dataset("scenes", **SCENES), tmp_path_factory.mktemp("masks")/"store", size=96, progress=False)

def files(folder): return {f.relative_to(folder).as_posix(): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}


def test_grabcut_is_opencv_seeded(scene):
    picture, attention = scene
    marks = trimap(attention, .12, .6, picture.shape[:2], .3)
    before = marks.copy()
    expected = marks.copy()
    cv2.setRNGSeed(0)
    cv2.grabCut(np.ascontiguousarray(picture[..., ::-1]), expected, None, np.zeros((1, 65)), np.zeros((1, 65)), 2, cv2.GC_INIT_WITH_MASK)
    cv2.setRNGSeed(7)
    assert (grabcut(picture, marks, iterations=2, kernel="cv2") == np.isin(expected, (1, 3))).all() # RGB or BGR is the same to it
    assert (marks == before).all()
    assert (grabcut(picture[::-1, ::-1], marks[::-1, ::-1]) == grabcut(picture[::-1, ::-1].copy(), marks[::-1, ::-1].copy())).all()

@pytest.mark.parametrize("code, expected", [(0, False), (2, False), (1, True), (3, True)])
def test_grabcut_one_side_only(code, expected):
    noise = np.random.default_rng(0).integers(0, 256, (8, 9, 3), dtype=np.uint8)
    assert (grabcut(noise, np.full((8, 9), code, np.uint8)) == expected).all()

def test_grabcut_nothing_uncertain():
    noise = np.random.default_rng(0).integers(0, 256, (8, 9, 3), dtype=np.uint8)
    marks = (noise[..., 0] > 99).astype(np.uint8)
    assert (grabcut(noise, marks) == (marks == 1)).all()

@pytest.mark.parametrize("image, marks, told", [
    (np.zeros((4, 4, 3)), np.zeros((4, 4), np.uint8), "float64"),
    (np.zeros((4, 4), np.uint8), np.zeros((4, 4), np.uint8), r"\(4, 4\) uint8"),
    (np.zeros((4, 4, 3), np.uint8), np.zeros((4, 5), np.uint8), r"\(4, 5\)"),
    (np.zeros((4, 4, 3), np.uint8), np.full((4, 4), 4, np.uint8), "got 4"),
])
def test_grabcut_refuses(image, marks, told):
    with pytest.raises(ValueError, match=told):
        grabcut(image, marks)


@pytest.mark.parametrize("split", [None, .4])
def test_trimap_pixel_by_pixel(split):
    attention = np.random.default_rng(3).random((5, 7)).astype(np.float32)
    up = cv2.resize(attention, (31, 20), interpolation=cv2.INTER_LINEAR)
    marks = trimap(attention, .2, .7, (20, 31), split)
    for (y, x), a in np.ndenumerate(up):
        assert marks[y, x] == (0 if a < .2 else 1 if a >= .7 else 3 if split is not None and a > split else 2)

def test_thresholds_are_inclusive():
    flat = np.full((4, 4), .5, np.float32)
    assert (trimap(flat, .5, .5, (8, 8)) == 1).all() and ppd_mask(flat, .5, (8, 8)).all()
    assert (trimap(flat, .5, .6, (8, 8), split=.5) == 2).all() and (trimap(flat, .51, .6, (8, 8)) == 0).all()

@pytest.mark.parametrize("attention", [np.full((2, 2), np.nan), np.full((2, 2), 1.1), np.zeros((1, 2, 2)), np.zeros((0, 2))])
def test_attention_is_checked(attention):
    with pytest.raises(ValueError, match="attention must"):
        ppd_mask(attention, .5, (4, 4))

@pytest.mark.parametrize("wrong", [dict(delta0=.8), dict(delta1=1.2), dict(delta0=-.1), dict(split=2), dict(iterations=0), dict(delta0=float("nan"))])
def test_params_are_checked(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        GrabCutParams(**wrong)

def test_params_json():
    for name in ("paper", "lowlevel"):
        params = GrabCutParams.preset(name)
        assert GrabCutParams.from_json(params.to_json()) == params
    assert GrabCutParams.preset("paper") == GrabCutParams()
    with pytest.raises(ValueError, match="lowlevel"):
        GrabCutParams.preset("nothing")


def test_store_holds_what_grabcut_gives(store):
    sample = load_dataset("scenes", **SCENES)[3]
    expected = grabcut_mask(sample.picture, load_attention("lowlevel")(sample.picture[None])[0], GrabCutParams.preset("lowlevel"))
    assert (store.read(sample.id) == expected).all()
    assert Image.open(store.folder/"train/00003.png").mode == "1"
    assert len(store) == 8 and store.manifest["counts"] == dict(pictures=8, masks=8)
    assert store.manifest["params"] == asdict(GrabCutParams.preset("lowlevel")) and store.manifest["size"] == [96, 96]

def test_second_run_keeps(store):
    times = {f: f.stat().st_mtime_ns for f in store.folder.rglob("*.png")}
    make_masks(load_dataset("scenes", **SCENES), store.folder, size=96, progress=False)
    assert times == {f: f.stat().st_mtime_ns for f in store.folder.rglob("*.png")}

@pytest.mark.parametrize("other, told", [
    (dict(params=replace(GrabCutParams.preset("lowlevel"), split=.45)), r"params\.split is 0\.\d+ there and 0\.45 here"),
    (dict(size=64), r"size is \[96, 96\]"),
])
def test_mixed_parameters_are_refused(store, other, told):
    before = files(store.folder)
    with pytest.raises(ValueError, match=told):
        make_masks(load_dataset("scenes", **SCENES), store.folder, **{"size": 96, "progress": False} | other)
    assert files(store.folder) == before

def test_other_split_is_refused(store):
    with pytest.raises(ValueError, match="split is 'train' there and 'test' here"):
        make_masks(load_dataset("scenes", **SCENES | dict(split="test")), store.folder, size=96, progress=False)

@pytest.mark.parametrize("damage", [lambda b: b[:len(b) // 2], lambda b: b[:-12], lambda b: b"", lambda b: b"not a picture", lambda b: b[:60] + bytes([b[60] ^ 255]) + b[61:]])
def test_damaged_mask_is_named(tmp_path, damage):
    store = MaskStore(tmp_path, dict(size=[9, 9]))
    store.write("a/b.jpg", np.random.default_rng(0).random((40, 40)) > .5)
    file = tmp_path/"a/b.png"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(ValueError, match=r"a/b\.png is damaged .*delete it and run make_masks"):
        store.read("a/b.jpg")

def test_store_edges(tmp_path):
    store = MaskStore(tmp_path/"s", {})
    mask = np.eye(5, dtype=bool)
    store.write("001.Bird/x.y.JPG", mask)
    assert "001.Bird/x.y.JPG" in store and store.ids() == ["001.Bird/x.y"] and (store.read("001.Bird/x.y.JPG") == mask).all()
    with pytest.raises(ValueError, match="missing"):
        store.read("001.Bird/z.jpg")
    for id in ("../x.jpg", "/etc/x.jpg", ""):
        with pytest.raises(ValueError, match="does not name a picture"):
            store.write(id, mask)
    with pytest.raises(ValueError, match="bool"):
        store.write("a.jpg", mask.astype(np.uint8))
    with pytest.raises(ValueError, match="no manifest.json"):
        MaskStore(tmp_path)
    (tmp_path/"own").mkdir()
    Image.new("1", (4, 4)).save(tmp_path/"own/mine.png")
    with pytest.raises(ValueError, match="no manifest.json"):
        MaskStore(tmp_path/"own", {})

def test_damaged_picture_is_named_and_the_rest_kept(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (4, 50, 60, 3), dtype=np.uint8)
    (tmp_path/"pictures/cat").mkdir(parents=True)
    for i in range(4):
        Image.fromarray(noise[i]).save(tmp_path/f"pictures/cat/{i}.jpg")
    bad = tmp_path/"pictures/cat/2.jpg"
    whole = bad.read_bytes()
    bad.write_bytes(whole[:len(whole) // 2])
    run = lambda: make_masks(load_dataset(tmp_path/"pictures"), tmp_path/"masks", size=64, batch_size=1, progress=False)
    with pytest.raises(ValueError, match=r"2\.jpg"):
        run()
    assert len(MaskStore(tmp_path/"masks")) == 2 and "counts" not in MaskStore(tmp_path/"masks").manifest
    bad.write_bytes(whole)
    assert run().ids() == ["cat/0", "cat/1", "cat/2", "cat/3"]
    (tmp_path/"pictures/cat/0.png").write_bytes((tmp_path/"pictures/cat/0.jpg").read_bytes())
    with pytest.raises(ValueError, match=r"0\.jpg and cat/0\.png would share"):
        run()

RUN = "from locloc.masks import make_masks; from locloc.data import load_dataset\nif __name__ == '__main__': make_masks(load_dataset('scenes', split='train', count=24), {!r}, workers=2, batch_size=2, progress=False)"

def ended(process):
    try:
        return process.status() == psutil.STATUS_ZOMBIE # nobody has asked for its exit status yet
    except psutil.NoSuchProcess:
        return True

def test_killed_run_goes_on(tmp_path):
    "SIGKILL after a few masks; the second run ends with the bytes of an undisturbed one, and no worker is left behind"
    (tmp_path/"run.py").write_text(RUN.format(str(tmp_path/"killed")))
    started = subprocess.Popen([sys.executable, tmp_path/"run.py"])
    while len(list(tmp_path.rglob("killed/**/*.png"))) < 3:
        assert started.poll() is None
        time.sleep(.01)
    workers = psutil.Process(started.pid).children(recursive=True)
    os.kill(started.pid, signal.SIGKILL)
    started.wait()
    stop = time.monotonic() + 60
    while not all(map(ended, workers)):
        assert time.monotonic() < stop, "a worker is left behind"
        time.sleep(.01)
    assert workers and 3 <= len(list(tmp_path.rglob("killed/**/*.png"))) < 24
    next(tmp_path.rglob("killed/**/*.png")).with_name(".00099.png.1.tmp").write_bytes(b"half")
    dataset = load_dataset("scenes", split="train", count=24)
    for name in ("killed", "whole"):
        make_masks(dataset, tmp_path/name, progress=False)
    assert files(tmp_path/"killed") == files(tmp_path/"whole") and len(files(tmp_path/"whole")) == 25


def test_a_prepared_picture_has_the_same_masks_and_one_kernel():
    picture, attention = load_dataset("scenes", count=1)[0].picture, np.linspace(0, 1, 196, dtype=np.float32).reshape(14, 14)
    ready = PreparedPicture(picture)
    for params in (GrabCutParams(.2, .8, split=.5), GrabCutParams(.1, .6)):
        assert np.array_equal(grabcut_mask(ready, attention, params), grabcut_mask(picture, attention, params))
    with pytest.raises(ValueError, match="kernel grid, not cv2"):
        grabcut_mask(ready, attention, GrabCutParams(kernel="cv2"))
