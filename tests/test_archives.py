"Pictures in tar and zip files, read in place: the same pictures, the same masks, and what is wrong with an archive"
import io
import shutil
import tarfile
import zipfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from locloc import files
from locloc.cli import main
from locloc.data import PictureError, load_dataset

NAMES = [f"train/{kind}/{k}.png" for kind in ("cat", "dog") for k in range(3)]


@pytest.fixture
def folder(tmp_path):
    "An index.csv and its pictures, noise so that one can't be taken for another"
    rows = ["image,class,split,width,height"]
    for k, name in enumerate(NAMES):
        (tmp_path/name).parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(k).integers(0, 256, (30, 40, 3), np.uint8)
        Image.fromarray(noise).save(tmp_path/name)
        rows.append(f"{name},{name.split('/')[1]},train,40,30")
    (tmp_path/"index.csv").write_text("\n".join(rows) + "\n")
    return tmp_path


def to_tar(path, contents):
    with tarfile.open(path, "w") as archive:
        for name, content in contents.items():
            about = tarfile.TarInfo(name)
            about.size = len(content)
            archive.addfile(about, io.BytesIO(content))


def to_zip(path, contents, how=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", how) as archive:
        for name, content in contents.items():
            archive.writestr(name, content)


def tars_in_a_tar(path, contents): # as ILSVRC has them
    inner = {}
    for kind in ("cat", "dog"):
        made = path.with_name("inner.tar")
        to_tar(made, {name.split("/")[1]: content for name, content in contents.items() if name.startswith(kind)})
        inner[f"{kind}.tar"] = made.read_bytes()
        made.unlink()
    to_tar(path, inner)


def below(contents, above):
    return {above + name: content for name, content in contents.items()}


ARCHIVES = {
    "zip": lambda folder, contents: to_zip(folder/"train.zip", contents),
    "deflated zip": lambda folder, contents: to_zip(folder/"train.zip", contents, zipfile.ZIP_DEFLATED),
    "tar": lambda folder, contents: to_tar(folder/"train.tar", contents),
    "tar with a dot": lambda folder, contents: to_tar(folder/"train.tar", below(contents, "./")),
    "tar of the folder": lambda folder, contents: to_tar(folder/"train.tar", below(contents, "train/")),
    "tars in a tar": lambda folder, contents: tars_in_a_tar(folder/"train.tar", contents),
}


def pack(folder, how):
    contents = {name.removeprefix("train/"): (folder/name).read_bytes() for name in NAMES}
    shutil.rmtree(folder/"train")
    ARCHIVES[how](folder, contents)


@pytest.mark.parametrize("how", ARCHIVES)
def test_pictures_in_an_archive_are_those_of_the_folder(folder, how):
    before = [sample.picture for sample in load_dataset(folder)]
    pack(folder, how)
    for seen, sample in zip(before, load_dataset(folder), strict=True):
        assert np.array_equal(seen, sample.picture)


def test_many_threads_read_one_archive(folder):
    before = [sample.picture for sample in load_dataset(folder)]
    pack(folder, "deflated zip")
    dataset = load_dataset(folder)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda i: dataset[i % 6].picture, range(120)))
    assert all(np.array_equal(picture, before[i % 6]) for i, picture in enumerate(found))


def test_masks_of_an_archive_are_those_of_the_folder(folder, capsys):
    main(["masks", "--data", str(folder), "--out", str(folder/"a"), "--workers", "0", "--size", "64"])
    pack(folder, "tar")
    (folder/"train.tar").rename(folder/"all.tar")
    (folder/"index.csv").write_text((folder/"index.csv").read_text().replace("train/", "", 6))
    main(["masks", "--data", str(folder), "--pictures", str(folder/"all.tar"), "--out", str(folder/"b"),
          "--workers", "2", "--size", "64"])
    masks = [sorted(path.read_bytes() for path in (folder/name).rglob("*.png")) for name in "ab"]
    assert len(masks[0]) == 6 and masks[0] == masks[1]


def test_an_archive_that_was_written_anew_is_read_anew(folder):
    pack(folder, "tar")
    dataset = load_dataset(folder)
    before = dataset[0].picture
    first = (files.read_archived(folder/name) for name in NAMES[::-1])
    to_tar(folder/"new.tar", dict(zip((name.removeprefix("train/") for name in NAMES), first, strict=True)))
    (folder/"new.tar").replace(folder/"train.tar")
    assert np.array_equal(dataset[5].picture, before)


def test_a_picture_that_is_not_in_its_archive_is_told(folder):
    pack(folder, "zip")
    to_zip(folder/"train.zip", {"cat/0.png": b"no picture"})
    dataset = load_dataset(folder)
    with pytest.raises(PictureError, match=r"1\.png: no such file in .*train\.zip"):
        dataset[1].open()
    with pytest.raises(PictureError, match=r"train/cat/0\.png: not a picture but text"):
        dataset[0].open()
    to_zip(folder/"train.zip", {"cat/0.png": b""})
    with pytest.raises(PictureError, match=r"train/cat/0\.png: the file is empty"):
        dataset[0].open()


@pytest.mark.parametrize("how, spoil, told", [
    ("zip", lambda content: b"PK" + content[9:-30], "train.zip: a damaged archive"),
    ("tar", lambda content: b"x"*600 + content[600:], "train.tar: a damaged archive"),
    ("tar", lambda content: content[:700], "train.tar: a damaged archive"),
    ("zip", lambda content: content.replace(b"\x14\0\0\0", b"\x14\0\1\0"), "is encrypted"),
])
def test_a_damaged_archive_is_named(folder, how, spoil, told):
    pack(folder, how)
    archive = folder/f"train.{how}"
    archive.write_bytes(spoil(archive.read_bytes()))
    with pytest.raises(PictureError, match=told):
        load_dataset(folder)[0].open()


def test_a_file_that_is_there_goes_before_an_archive(folder):
    before = load_dataset(folder)[0].picture
    to_tar(folder/"train.tar", {"cat/0.png": b"something else"})
    assert np.array_equal(load_dataset(folder)[0].picture, before)
