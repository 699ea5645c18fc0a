"Pictures, data sets, geometries and protocols: what they give, and what they say of what is wrong."
import dataclasses
import os
import pickle
import struct
import warnings
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image

from locloc.boxes import box_iou, centred_box, mask_box
from locloc.data import (
    PICTURE_SUFFIXES,
    PROTOCOLS,
    Geometry,
    PictureError,
    Protocol,
    get_protocol,
    load_dataset,
    open_picture,
)
from locloc.scenes import SCENE_CLASSES, make_scene, scene_mask
from locloc.train import LFDMConfig, TrainSet

HEADER = "image,class,split,width,height,x0,y0,x1,y1,mask"
rgb = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
steps = np.tile(np.repeat(np.arange(0, 255, 51, dtype=np.uint8), 8), (30, 1)).reshape(30, 40, 1).repeat(3, 2)


def save(path, array=rgb, mode=None, **options):
    picture = Image.fromarray(array)
    (picture.convert(mode) if mode else picture).save(path, **options)
    return path


# pictures

def test_rgb_path_pil_and_array_agree(tmp_path):
    path = save(tmp_path / "a.png")
    for source in (path, str(path), Image.open(path), rgb):
        np.testing.assert_array_equal(open_picture(source), rgb)


@pytest.mark.parametrize("name, mode", [
    ("a.jpg", "CMYK"),
    ("a.png", "LA"),
    ("a.png", "L"),
    ("a.png", "P"),
    ("a.png", "RGBA"),
    ("a.bmp", None),
])
def test_modes(tmp_path, name, mode):
    picture = open_picture(save(tmp_path / name, steps, mode))
    assert picture.dtype == np.uint8
    np.testing.assert_allclose(picture, steps, atol=8)


def test_sixteen_bit_grey_keeps_its_range(tmp_path):
    grey = np.arange(0, 65536, 257, dtype=np.uint16).reshape(16, 16)
    picture = open_picture(save(tmp_path / "a.png", grey))
    np.testing.assert_array_equal(picture, np.repeat((grey / 257).round().astype(np.uint8)[..., None], 3, -1))


def test_transparent_is_white_even_in_a_palette(tmp_path):
    clear = np.dstack([np.zeros_like(rgb), np.zeros((30, 40), np.uint8)])
    assert (open_picture(clear) == 255).all()
    picture = Image.fromarray(steps).quantize(8)
    picture.save(tmp_path / "a.png", transparency=picture.getpixel((0, 0)))
    opened = open_picture(tmp_path / "a.png")
    assert (opened[:, 0] == 255).all() and (opened[:, -1] < 255).all()


def test_exif_turns_the_picture(tmp_path):
    exif = Image.Exif()
    exif[0x112] = 6 # turn clockwise to see it upright
    path = save(tmp_path / "a.png", rgb, exif=exif)
    np.testing.assert_array_equal(open_picture(path), np.rot90(rgb, -1))


def test_one_pixel(tmp_path):
    picture = open_picture(save(tmp_path / "a.png", rgb[:1, :1]))
    np.testing.assert_array_equal(picture, rgb[:1, :1])
    for name in ("wsoleval", "locloc", "bas"):
        assert (get_protocol(name).picture(picture) == rgb[0, 0]).all()


@pytest.fixture
def no_pictures(tmp_path):
    "A folder of files that cannot be read as pictures"
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.jpg").write_text("not a picture\n")
    for kind in ("jpg", "png"):
        data = save(tmp_path / f"whole.{kind}").read_bytes()
        (tmp_path / f"cut.{kind}").write_bytes(data[:len(data) // 2])
    save(tmp_path / "float.tif", rgb[..., 0].astype(np.float32))
    return tmp_path


@pytest.mark.parametrize("name, why", [
    ("missing.jpg", "no such file"),
    ("", "is a folder"),
    ("empty.jpg", "empty"),
    ("text.jpg", "not a picture"),
    ("cut.jpg", "truncated"),
    ("cut.png", "cannot be read"),
    ("float.tif", "floating-point"),
])
def test_files_that_are_no_pictures(no_pictures, name, why):
    with pytest.raises(PictureError, match=why) as caught:
        open_picture(no_pictures / name)
    assert str(no_pictures / name) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["empty.jpg", "text.jpg", "cut.jpg", "cut.png", "float.tif", "whole.png"])
def test_bytes_of_a_file_are_opened_as_the_file_is(no_pictures, name):
    told = []
    for source, called in ((no_pictures / name, str(no_pictures / name)), ((no_pictures / name).read_bytes(), "it")):
        try:
            told.append(open_picture(source, "it").tolist())
        except PictureError as error:
            told.append(str(error).replace(called, "it", 1))
    assert told[0] == told[1]


def test_too_many_pixels(tmp_path, monkeypatch):
    path = save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(PictureError, match="MAX_IMAGE_PIXELS"):
        open_picture(path)


@pytest.mark.parametrize("source", [rgb / 255, rgb[None], rgb[..., :2], rgb[:0], rgb.astype(np.int64), None, 3])
def test_sources_that_are_no_pictures(source):
    with pytest.raises(PictureError, match="got"):
        open_picture(source)


# what a picture says of itself

def tiff_entry(tag, kind, count, value): # of EXIF, in the first IFD
    return struct.pack("<HHLL", tag, kind, count, value)


def exif(*entries, more=b""):
    head = b"II*\0" + struct.pack("<LH", 8, len(entries))
    return head + b"".join(entries) + struct.pack("<L", 0) + more


def in_jpeg(path, *segments): # (number of APPn, content)
    data = save(path).read_bytes()
    extra = [struct.pack(">BBH", 0xff, 0xe0 + n, len(content) + 2) + content for n, content in segments]
    path.write_bytes(data[:2] + b"".join(extra) + data[2:])
    return path


def png_chunk(kind, content, crc=None):
    crc = zlib.crc32(kind + content) if crc is None else crc
    return struct.pack(">L", len(content)) + kind + content + struct.pack(">L", crc)


def in_png(path, *chunks, behind=False): # behind: the pixels; else before them
    data = save(path).read_bytes()
    at = data.index(b"IEND" if behind else b"IDAT") - 4
    path.write_bytes(data[:at] + b"".join(chunks) + data[at:])
    return path


def header_size(path):
    "As a data set reads it, without the pixels"
    folder = path.parent/"set"/"cat"
    folder.mkdir(parents=True, exist_ok=True)
    (folder/path.name).write_bytes(path.read_bytes())
    sizes = {sample.id: sample.size for sample in load_dataset(path.parent/"set")}
    return sizes[f"cat/{path.name}"]


SIDEWAYS = tiff_entry(0x112, 3, 1, 6)


@pytest.mark.parametrize("content", [
    exif(SIDEWAYS, tiff_entry(0x11a, 10, 1, 38), more=struct.pack("<ll", -1, 0)),
    exif(SIDEWAYS, tiff_entry(0x100, 2, 4, 0x636261)), # width in letters
    exif(SIDEWAYS, tiff_entry(0x8769, 4, 1, 9999)), # its part for cameras lies nowhere
])
def test_odd_exif_turns_like_any_other(tmp_path, content):
    path = in_jpeg(tmp_path/"a.jpg", (1, b"Exif\0\0" + content))
    assert open_picture(path).shape == (40, 30, 3) and header_size(path) == (40, 30)


@pytest.mark.parametrize("content", [
    exif(tiff_entry(0x112, 3, 1, 0)),
    exif(tiff_entry(0x112, 3, 1, 9)),
    exif(tiff_entry(0x112, 2, 2, 0x36)), # the letter 6
    exif(tiff_entry(0x112, 5, 1, 9999)),
    exif(tiff_entry(0x112, 9, 1, 2**32 - 6)),
    exif(tiff_entry(0x112, 12, 1, 9999)),
    b"",
    b"II*\0",
    b"MM\0*\xff\xff\xff\xff",
    bytes(range(99)),
])
def test_an_orientation_that_means_nothing_is_none(tmp_path, content):
    for path in (in_jpeg(tmp_path/"a.jpg", (1, b"Exif\0\0" + content)),
                 in_png(tmp_path/"b.png", png_chunk(b"eXIf", content))):
        assert open_picture(path).shape == rgb.shape and header_size(path) == rgb.shape[:2]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp", "a.tif"])
def test_one_rule_of_orientation_for_header_and_pixels(tmp_path, orientation, name):
    exif = Image.Exif()
    exif[0x112] = orientation
    path = save(tmp_path/name, exif=exif)
    assert open_picture(path).shape[:2] == header_size(path) == ((40, 30) if orientation > 4 else (30, 40))


@pytest.mark.parametrize("segment", [
    (0, b"JFIF\0"),
    (2, b"ICC_PROFILE\0"),
    (2, b"ICC_PROFILE\0\x05\x01" + b"x"*99),
    (2, b"MPF\0II*\0"),
    (13, b"Photoshop 3.0\x008BIM"),
    (14, b"Adobe"),
])
def test_remarks_in_a_jpeg_do_not_cost_its_pixels(tmp_path, segment):
    whole = open_picture(save(tmp_path/"whole.jpg"))
    path = in_jpeg(tmp_path/"a.jpg", segment)
    np.testing.assert_array_equal(open_picture(path), whole)
    path = in_jpeg(tmp_path/"b.jpg", segment, (1, b"Exif\0\0" + exif(SIDEWAYS)))
    np.testing.assert_array_equal(open_picture(path), np.rot90(whole, -1))
    assert header_size(path) == (40, 30)


BOMB = zlib.compress(bytes(2**21))


@pytest.mark.parametrize("chunk", [
    png_chunk(b"zTXt", b"Comment\0\0" + BOMB),
    png_chunk(b"iTXt", b"Comment\0\x01\0\0\0" + BOMB),
    png_chunk(b"iCCP", b"icc\0\0" + BOMB),
    png_chunk(b"iCCP", b"icc"),
    png_chunk(b"tEXt", b"Comment\0fine", crc=1),
    png_chunk(b"pHYs", b"1"),
    png_chunk(b"gAMA", b""),
    png_chunk(b"acTL", b"1"),
    png_chunk(b"tIME", b"", crc=7),
    b"".join(png_chunk(b"zTXt", b"C%d\0\0" % k + zlib.compress(bytes(2**20 - 1))) for k in range(70)),
], ids=range(10))
@pytest.mark.parametrize("behind", [False, True])
def test_remarks_in_a_png_do_not_cost_its_pixels(tmp_path, chunk, behind):
    path = in_png(tmp_path/"a.png", chunk, behind=behind)
    np.testing.assert_array_equal(open_picture(path), rgb)
    path = in_png(tmp_path/"b.png", chunk, png_chunk(b"eXIf", exif(SIDEWAYS)), behind=behind)
    np.testing.assert_array_equal(open_picture(path), np.rot90(rgb, -1))
    assert header_size(path) == (40, 30)


@pytest.mark.parametrize("name", ["a.jpg", "a.png"])
def test_a_file_cut_short_is_no_picture_whatever_its_remarks(tmp_path, name):
    path = tmp_path/name
    if name == "a.jpg":
        in_jpeg(path, (2, b"MPF\0"))
    else:
        in_png(path, png_chunk(b"zTXt", b"Comment\0\0" + BOMB))
    data = path.read_bytes()
    for length in (len(data)*3//4, len(data) - 30):
        path.write_bytes(data[:length])
        with pytest.raises(PictureError, match=name):
            open_picture(path)


def test_pixels_that_say_sixteen_bits_and_others(tmp_path):
    grey = rgb[..., 0]
    for name, array in (("a.tif", grey.astype(np.uint16)*257), ("a.png", grey.astype(np.uint16)*257)):
        np.testing.assert_array_equal(open_picture(save(tmp_path/name, array))[..., 0], grey)
    (tmp_path/"a.pgm").write_bytes(b"P5 40 30 65535\n" + (grey.astype(">u2")*257).tobytes())
    np.testing.assert_array_equal(open_picture(tmp_path/"a.pgm")[..., 0], grey)
    for scale in (1, 257, 2**20):
        with pytest.raises(PictureError, match="a.tif: .*32-bit integers, expected 8 or 16 bits"):
            open_picture(save(tmp_path/"a.tif", grey.astype(np.int32)*scale))
    with pytest.raises(PictureError, match="32-bit integers"):
        open_picture(Image.fromarray(grey.astype(np.int32)))


@pytest.mark.parametrize("content, why", [
    (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 5\n", "a Git LFS pointer: .*git lfs pull"),
    (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(99), "HEIC: convert"),
    (b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic" + bytes(99), "HEIC: convert"),
    (b"\0\0\0\x18ftypisom\0\0\0\0mp42" + bytes(99), "a film"),
    (b"<!DOCTYPE html>\n<html><body>Not found</body></html>", "a web page .*download it again"),
    (b"\xef\xbb\xbf\n  <HTML>", "a web page"),
    (b"<!-- 404 -->\n<html>", "a web page"),
    (b"<?xml version='1.0' encoding='UTF-8'?>\n<Error><Code>AccessDenied</Code></Error>", "XML.*download it again"),
    (b"<?xml version='1.0'?>\n<!-- drawn -->\n<svg width='9'></svg>", "SVG"),
    (b'{"error": "quota"}', "JSON"),
    (b"%PDF-1.4\n", "PDF"),
    (b"PK\x03\x04" + bytes(99), "an archive: unpack"),
    (bytes(999), "only zeros"),
    (b"404 page not found\n", "text, .*download"),
    (("4" + "é"*999).encode(), "text, .*download"),
    (b"\x01\x02\x03\xff"*99, "not a picture that can be read"),
])
def test_what_a_file_called_jpg_is_instead(tmp_path, content, why):
    (tmp_path/"a.jpg").write_bytes(content)
    with pytest.raises(PictureError, match=f"a.jpg: not a picture .*{why}|a.jpg: {why}") as caught:
        open_picture(tmp_path/"a.jpg")
    assert "\n" not in str(caught.value)


def test_a_pipe_does_not_keep_anybody_waiting(tmp_path):
    os.mkfifo(tmp_path/"a.jpg")
    with pytest.raises(PictureError, match="a.jpg: .*a pipe"):
        open_picture(tmp_path/"a.jpg")


def test_a_missing_picture_that_is_there_in_another_case(tmp_path):
    (tmp_path/"Cat").mkdir()
    save(tmp_path/"Cat/A.JPG")
    with pytest.raises(PictureError, match="no such file; there is .*Cat/A.JPG, which differs only in upper and lower"):
        open_picture(tmp_path/"cat/a.jpg")
    for name in ("Cat/B.jpg", "dog/A.JPG"):
        with pytest.raises(PictureError, match=f"{name}: no such file$"):
            open_picture(tmp_path/name)


# scenes

def test_scenes_are_repeatable_and_splits_differ():
    seen = {}
    for split in ("train", "val", "test"):
        for sample in load_dataset("scenes", split, count=8, size=48):
            assert sample.picture.tobytes() not in seen
            seen[sample.picture.tobytes()] = sample.id
    assert len(seen) == 24
    np.testing.assert_array_equal(make_scene(3, size=48)[0], load_dataset("scenes", size=48)[3].picture)


def test_scenes_stay_as_they_are():
    "Everything measured on scenes depends on them; within what another processor may round otherwise"
    picture, mask, _ = make_scene(5, "test", size=96)
    parts = cv2.resize(picture, (3, 3), interpolation=cv2.INTER_AREA)
    np.testing.assert_allclose(parts.astype(int), [
        [[162, 146, 111], [138, 126, 90], [118, 108, 80]],
        [[204, 187, 150], [153, 129, 101], [123, 107, 80]],
        [[201, 186, 151], [180, 163, 128], [150, 139, 101]]], atol=1)
    np.testing.assert_allclose(picture[40, 40:44].astype(int), [
        [175, 146, 117], [142, 116, 91], [116, 92, 71], [112, 88, 69]], atol=2)
    assert abs(int(mask.sum()) - 1947) <= 2


def test_hard_scenes_are_repeatable_and_pass_for_no_others():
    pictures, ids = set(), set()
    for split in ("train", "val", "test"):
        for hard in (False, True):
            data = load_dataset("scenes", split, count=8, size=48, hard=hard)
            assert [*data.ids()] == [sample.id for sample in data]
            ids.update(data.ids())
            pictures.update(sample.picture.tobytes() for sample in data)
    assert len(ids) == len(pictures) == 48
    one, same = load_dataset("scenes-hard", size=48), load_dataset("scenes", size=48, hard=True)
    assert one.name == same.name == "scenes-hard" and one[3].id == same[3].id == "hard/train/00003"
    np.testing.assert_array_equal(one[3].picture, make_scene(3, size=48, hard=True)[0])


def test_hard_scenes_have_the_figures_of_the_others_smaller():
    for index in range(24):
        picture, mask, label = make_scene(index, size=96, hard=True)
        assert picture.shape == (96, 96, 3) and picture.dtype == np.uint8 and label == index % 8
        np.testing.assert_array_equal(mask, scene_mask(index, size=96, hard=True))
        assert .03 < mask.mean() < scene_mask(index, size=96).mean()


@pytest.mark.parametrize("size", [32, 75, 224, 300])
def test_scene_mask_and_box_are_exact(size):
    for index in range(8):
        picture, mask, label = make_scene(index, "val", 5, size)
        sample = load_dataset("scenes", "val", seed=5, size=size)[index]
        assert picture.shape == (size, size, 3) and picture.dtype == np.uint8 and label == sample.label == index
        np.testing.assert_array_equal(mask, sample.mask)
        np.testing.assert_array_equal(mask_box(mask), sample.boxes)
        assert .05 < mask.mean() < .5 and not (mask[0].all() or mask[:, 0].all())


def contrast(picture, mask):
    "Mean colour step across the mask's left and right edges"
    step = np.abs(np.diff(picture.astype(float), axis=1)).sum(-1)
    return step[np.diff(mask, axis=1)].mean()


def test_scene_outline_lies_where_the_mask_ends():
    scenes = [make_scene(index) for index in range(16)]
    here = np.mean([contrast(picture, mask) for picture, mask, _ in scenes])
    beside = np.mean([contrast(picture, np.roll(mask, 4, 1)) for picture, mask, _ in scenes])
    assert here > 1.5 * beside


def test_centred_box_is_a_poor_answer_for_scenes():
    tight = np.concatenate([mask_box(scene_mask(k, "test", size=112)) for k in range(200)])
    best = max((box_iou(centred_box((112, 112), s), tight) >= .5).mean() for s in np.linspace(.4, 1, 25))
    assert .4 < best < .6


def test_scene_count():
    data = load_dataset("scenes", "val", count=20)
    assert len(data) == 20 and data.classes == SCENE_CLASSES and (data.labels == np.arange(20) % 8).all()
    assert data[-1].id == "val/00019"
    with pytest.raises(IndexError):
        data[20]


@pytest.mark.parametrize("wrong, why", [
    (dict(split="valid"), "train, val, test"),
    (dict(count=0), "count"),
    (dict(size=8, count=1), "size"),
])
def test_wrong_scene_options(wrong, why):
    with pytest.raises(ValueError, match=why):
        load_dataset("scenes", **wrong)[0]


def test_data_sets_pickle_and_subset():
    data = load_dataset("scenes", count=50, size=32)
    some = pickle.loads(pickle.dumps(data.subset(12)))
    assert [s.label for s in some] == some.labels.tolist()
    assert {s.id for s in data.subset(5)} < {s.id for s in some}
    assert [s.id for s in data.subset([3, 1])] == ["train/00003", "train/00001"]
    assert len(data.subset(99)) == 50


def test_data_loader_workers():
    from torch.utils.data import DataLoader
    loader = DataLoader(load_dataset("scenes", count=4, size=32), batch_size=None, num_workers=1)
    assert [s.picture.shape for s in loader] == [(32, 32, 3)] * 4


# folders

@pytest.fixture
def folder(tmp_path):
    for name in ("images/cat/a.png", "images/dog/b.png", "masks/cat/a.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    save(tmp_path / "images/cat/a.png")
    save(tmp_path / "images/dog/b.png")
    save(tmp_path / "masks/cat/a.png", (rgb[..., 0] > 99).astype(np.uint8) * 255)
    return tmp_path


def index(folder, *rows, header=HEADER, end="\n", encoding="utf-8"):
    (folder / "index.csv").write_bytes(end.join((header,) + rows + ("",)).encode(encoding))
    return folder


GOOD = (
    "images/cat/a.png,cat,train,40,30,1,2,30,20,masks/cat/a.png",
    "images/cat/a.png,cat,train,40,30,5,5,9.5,9,masks/cat/a.png",
    "images/dog/b.png,dog,test,40,30,,,,,",
)


@pytest.mark.parametrize("options", [
    {},
    dict(end="\r\n"),
    dict(encoding="utf-8-sig"),
    dict(encoding="utf-8-sig", end="\r\n"),
])
def test_index(folder, options):
    data = load_dataset(index(folder, *GOOD, **options), "train")
    (sample,) = data
    assert (sample.id, sample.label, sample.size, data.classes) == ("cat/a.png", 0, (30, 40), ("cat", "dog"))
    np.testing.assert_array_equal(sample.boxes, [[1, 2, 30, 20], [5, 5, 9.5, 9]])
    np.testing.assert_array_equal(sample.picture, rgb)
    np.testing.assert_array_equal(sample.mask, rgb[..., 0] > 99)
    other = load_dataset(folder, "test")[0]
    assert (other.label, other.boxes, other.mask) == (1, None, None)
    assert len(load_dataset(folder, "all")) == 2


@pytest.mark.parametrize("row, why", [
    ("a.png,cat,train,40,30,1,2,45,20,", "line 2: the box 1, 2, 45, 20"),
    ("a.png,cat,train,40,30,9,2,9,20,", "line 2: the box"),
    ("a.png,cat,train,40,30,nan,2,9,20,", "line 2: the box"),
    ("a.png,cat,train,40,30,1,2,9,,", "line 2: x0, y0, x1, y1 must be numbers, got 1, 2, 9, nothing"),
    ("a.png,cat,train,forty,30,1,2,9,9,", "line 2: width, height must be whole numbers"),
    ("a.png,cat,train,0,30,,,,,", "line 2: width, height must be positive"),
    ("a.png,cat,train,40,30,1,2,9", "line 2: expected 10 values"),
    ("a.png,cat,train,40,30,1,2,9,9,,,", "line 2: expected 10 values"),
    ("a.png,,train,40,30,1,2,9,9,", "line 2: class"),
    ("../a.png,cat,train,40,30,,,,,", "line 2: the path"),
    ("/a.png,cat,train,40,30,,,,,", "line 2: the path"),
    ("a.png,cat,train,40,30,,,,,\na.png,dog,train,40,30,,,,,", "line 3: a.png has another class"),
    ("a.png,cat,test,40,30,,,,,", "no pictures of the split 'train'; it has test"),
])
def test_wrong_rows(folder, row, why):
    with pytest.raises(ValueError) as caught:
        load_dataset(index(folder, row))
    assert why in str(caught.value) and "index.csv" in str(caught.value)


@pytest.mark.parametrize("header, why", [
    ("image,klass,split,width,height,x0,y0,x1,y1,mask", "line 1: lacks class"),
    (HEADER.replace(",", "|"), "lacks image, class"),
    ("", "lacks image"),
    ("image,class,split,width,height,x0,y0,x1", "lacks y1"),
    ("image,class,split,width,height,masks", "lacks x0, y0, x1, y1, mask"),
])
def test_wrong_header(folder, header, why):
    with pytest.raises(ValueError, match=why):
        load_dataset(index(folder, header=header))


@pytest.mark.parametrize("columns", [5, 9])
def test_where_nothing_has_a_mask_or_a_box_columns_may_be_left_out(folder, columns):
    row = "a.png,cat,train,40,30,1,2,20,25"
    header, row = (",".join(line.split(",")[:columns]) for line in (HEADER, row))
    (sample,) = load_dataset(index(folder, row, header=header))
    assert sample.mask is None and (sample.boxes is None) == (columns == 5)


def test_empty_index(folder):
    with pytest.raises(ValueError, match="none at all"):
        load_dataset(index(folder))
    (folder / "index.csv").write_bytes(b"")
    with pytest.raises(ValueError, match="lacks image"):
        load_dataset(folder)


@pytest.mark.parametrize("separator", [";", "\t"])
def test_index_of_a_spreadsheet(folder, separator):
    header = HEADER.title().replace(",", f" {separator} ")
    rows = [row.replace(",40,30,", ",40.0,30.0,").replace(",", separator) for row in GOOD]
    data = load_dataset(index(folder, *rows, header=header, encoding="utf-8-sig"), "all")
    assert [sample.size for sample in data] == [(30, 40), (30, 40)]
    np.testing.assert_array_equal(data[0].boxes, [[1, 2, 30, 20], [5, 5, 9.5, 9]])


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("row, why", [
    ("c.png,cat,train,4.5,30,,,,,", "width, height must be whole numbers, got 4.5, 30"),
    ("c.png,cat,train,inf,30,,,,,", "width, height must be whole numbers, got inf, 30"),
    ("c\0.png,cat,train,40,30,,,,,", r"the path 'c\x00.png' holds a NUL"),
    (r"C:\data\c.png,cat,train,40,30,,,,,", "the path .* must be relative"),
    (r"\\server\c.png,cat,train,40,30,,,,,", "the path .* must be relative"),
])
def test_the_line_of_a_wrong_row(folder, row, why, end):
    noted = 'images/dog/b.png,dog,test,40,30,,,,,,"first' + end + 'second"'
    text = index(folder, f"{GOOD[0]},", "", noted, f"{row},", header=f"{HEADER},note", end=end)
    with pytest.raises(ValueError) as caught:
        load_dataset(text)
    assert f"index.csv, line 6: {why}".split(" .* ")[0] in str(caught.value)
    assert why.split(" .* ")[-1] in str(caught.value)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_the_line_of_a_byte_that_is_not_utf8(folder, end):
    rows = [f"images/{k}.png,cat,train,40,30,,,,," for k in range(2500)]
    (index(folder, *rows, end=end)/"index.csv").write_bytes(
        (folder/"index.csv").read_bytes().replace(b"images/1998.png", b"images/\xe9.png"))
    with pytest.raises(ValueError, match="index.csv, line 2000: not UTF-8"):
        load_dataset(folder)


def test_backslashes_are_slashes(folder):
    rows = [row.replace("images/cat/", "images\\cat\\") for row in GOOD[:2]]
    assert load_dataset(index(folder, *rows))[0].picture.shape == rgb.shape


def test_an_index_with_a_class_that_holds_a_nul(folder):
    with pytest.raises(ValueError, match=r"index.csv: the class 'c\\x00t' holds a NUL"):
        load_dataset(index(folder, "a.png,c\0t,train,40,30,,,,,"))


def test_boxes_a_pixel_outside_are_clipped_on_all_sides_and_counted(folder):
    rows = [f"images/cat/a.png,cat,train,40,30,{box}," for box in ("-1,-2,9,9", "3,3,41,33", "1,1,9,9")]
    with pytest.warns(UserWarning, match="index.csv: 2 of 3 boxes end outside their picture and are clipped"):
        data = load_dataset(index(folder, *rows))
    np.testing.assert_array_equal(data[0].boxes, [[0, 0, 9, 9], [3, 3, 40, 30], [1, 1, 9, 9]])


@pytest.mark.parametrize("box", ["-5,2,9,9", "1,-4,9,9", "1,2,45,9", "1,2,9,34", "-3,2,-1,9", "41,2,43,9", "9,2,1,9",
                                 "inf,2,9,9"])
def test_boxes_far_outside_are_refused(folder, box):
    with pytest.raises(ValueError, match=f"line 2: the box {box.replace(',', ', ')} must"):
        load_dataset(index(folder, f"images/cat/a.png,cat,train,40,30,{box},"))


def test_a_size_that_exif_has_turned_says_so(folder):
    exif = Image.Exif()
    exif[0x112] = 6
    save(folder/"images/cat/a.png", exif=exif)
    sample = load_dataset(index(folder, "images/cat/a.png,cat,train,40,30,,,,,masks/cat/a.png"))[0]
    with pytest.raises(PictureError, match=r"is 30 x 40 \(turned by its EXIF orientation 6\), but .* says 40 x 30"):
        sample.open()
    sample = load_dataset(index(folder, "images/cat/a.png,cat,train,30,40,,,,,masks/cat/a.png"))[0]
    assert sample.picture.shape == (40, 30, 3)
    with pytest.raises(PictureError, match="masks/cat/a.png: is 40 x 30, but its picture says 30 x 40"):
        sample.open_mask()


@pytest.fixture
def large(folder):
    "Two smooth pictures of 800 x 600 px, one as a JPEG that lies on its side, one as PNG"
    y, x = np.mgrid[:600, :800]
    picture = Image.fromarray((255*np.stack([x/800, y/600, (x + y)/1400], 2)).astype(np.uint8))
    exif = Image.Exif()
    exif[0x112] = 6
    picture.save(folder/"images/cat/large.jpg", quality=95, exif=exif)
    picture.save(folder/"images/cat/large.png")
    return folder


def listed(folder):
    return load_dataset(index(folder, "images/cat/large.jpg,cat,train,600,800,,,,,",
                              "images/cat/large.png,cat,train,800,600,,,,,"))


def in_folders(folder):
    (folder/"train").mkdir()
    (folder/"images/cat").rename(folder/"train/cat")
    return load_dataset(folder)


@pytest.mark.parametrize("load", [listed, in_folders])
def test_a_large_jpeg_is_decoded_no_larger_than_asked(large, load):
    samples = {sample.id.rsplit("/")[-1]: sample for sample in load(large)}
    jpeg, png = samples["large.jpg"], samples["large.png"]
    shapes = {side: jpeg.at_least(side).shape[:2] for side in (30, 75, 76, 150, 256, 300, 301, 5000)}
    assert shapes == {30: (100, 75), 75: (100, 75), 76: (200, 150), 150: (200, 150), 256: (400, 300), 300: (400, 300),
                      301: (800, 600), 5000: (800, 600)}
    assert png.at_least(30).shape == (600, 800, 3) and jpeg.picture.shape == (800, 600, 3)
    whole, reduced = (cv2.resize(picture, (64, 64), interpolation=cv2.INTER_AREA).astype(float)
                      for picture in (jpeg.picture, jpeg.at_least(64)))
    assert np.abs(whole - reduced).mean() < 1
    config = LFDMConfig(augment=False, resize=64, crop=64)
    view = TrainSet([dataclasses.replace(jpeg, open=None)], config)[0, 0]["picture"].numpy()
    assert min(np.abs(reduced - seen).mean() for seen in (view, view[:, ::-1])) < 1


def test_a_large_jpeg_of_another_size_than_listed_is_told(large):
    sample = load_dataset(index(large, "images/cat/large.jpg,cat,train,800,600,,,,,"))[0]
    with pytest.raises(PictureError, match=r"is 600 x 800 \(turned .*\), but .*index.csv says 800 x 600"):
        sample.at_least(64)


def test_index_of_another_encoding(folder):
    with pytest.raises(ValueError, match="index.csv"):
        load_dataset(index(folder, "\u00e9.png,cat,train,40,30,,,,,", encoding="latin-1"))


def test_picture_or_mask_of_another_size(folder):
    sample = load_dataset(index(folder, "images/cat/a.png,cat,train,41,30,,,,,masks/cat/a.png"))[0]
    with pytest.raises(PictureError, match="is 40 x 30, but .*index.csv says 41 x 30"):
        sample.open()
    with pytest.raises(PictureError, match="is 40 x 30"):
        sample.open_mask()


def test_image_folder(folder):
    cat, dog = load_dataset(folder / "images")
    assert (cat.id, cat.label, cat.size, cat.boxes) == ("cat/a.png", 0, (30, 40), None)
    assert (dog.id, dog.label, dog.size, dog.boxes) == ("dog/b.png", 1, (30, 40), None)
    with pytest.raises(ValueError, match="no folder test/"):
        load_dataset(folder / "images", "test")


def test_image_folder_with_splits(folder):
    root = folder / "images"
    for split in ("train", "test"):
        (root / split / "cat").mkdir(parents=True)
        save(root / split / "cat" / "c.png")
    (root / "test/ape").mkdir()
    data = load_dataset(root, "test")
    assert ([s.id for s in data], data.classes, data.labels.tolist()) == (["test/cat/c.png"], ("ape", "cat"), [1])
    assert len(load_dataset(root, "all")) == 2
    with pytest.raises(ValueError, match="no folder val/; it has train, test"):
        load_dataset(root, "val")


def pictures_at(folder, *names):
    for k, name in enumerate(names):
        (folder/name).parent.mkdir(parents=True, exist_ok=True)
        save(folder/name, rgb + np.uint8(k))
    return folder


def ids(data):
    return [sample.id for sample in data]


@pytest.mark.parametrize("train, val, test", [
    ("training", "validation", "testing"),
    ("Train", "Valid", "Test"),
    ("TRAIN", "dev", "evaluation"),
    ("training_set", "val2017", "test-images"),
])
def test_splits_by_any_usual_name(tmp_path, train, val, test):
    names = [f"{name}/{kind}/1.png" for name in (train, val, test) for kind in ("cat", "dog")]
    pictures_at(tmp_path, *names)
    for split, name in dict(train=train, val=val, test=test).items():
        for asked in (split, name):
            data = load_dataset(tmp_path, asked)
            assert (ids(data), data.classes, data.split) == ([f"{name}/cat/1.png", f"{name}/dog/1.png"],
                                                              ("cat", "dog"), split)
    assert len(load_dataset(tmp_path, "all")) == 6


def test_a_split_that_is_there_under_another_name_is_told(tmp_path):
    pictures_at(tmp_path, "training/cat/1.png", "test/cat/1.png")
    with pytest.raises(ValueError, match=r"has no folder val/; it has train \(training/\), test$"):
        load_dataset(tmp_path, "val")


def test_splits_in_a_folder_of_the_same_name(tmp_path):
    pictures_at(tmp_path, "training_set/training_set/cat/1.png", "test_set/test_set/dog/1.png")
    data = load_dataset(tmp_path, "test")
    assert (ids(data), data.classes) == (["test_set/test_set/dog/1.png"], ("cat", "dog"))
    pictures_at(tmp_path/"vehicles", "train/train/1.png", "test/train/1.png") # a class called train
    assert load_dataset(tmp_path/"vehicles").classes == ("train",)


def test_two_folders_of_one_split(tmp_path):
    pictures_at(tmp_path, "train/cat/1.png", "val/cat/1.png", "valid/cat/1.png")
    with pytest.raises(ValueError, match="val/ and valid/ are both called like the split val"):
        load_dataset(tmp_path)


def test_folders_beside_the_splits_are_told(tmp_path):
    pictures_at(tmp_path, "train/cat/1.png", "extra/cat/1.png", "extra/2.png", "more/3.png", ".git/4.png")
    (tmp_path/"docs").mkdir()
    with pytest.warns(UserWarning, match="3 pictures left out, in extra/, more/ beside the splits train/"):
        assert ids(load_dataset(tmp_path)) == ["train/cat/1.png"]


@pytest.mark.parametrize("names, said", [
    (["cat/train/1.png", "cat/test/2.png", "dog/train/3.png"], "cat/test, cat/train, dog/train are called like splits"),
    (["set/train/cat/1.png", "set/valid/cat/2.png"], "if .*/set is the data set, name that"),
    (["set/Train/cat/1.png"], "if .*/set is the data set"),
])
def test_splits_below_the_classes_are_refused(tmp_path, names, said):
    with pytest.raises(ValueError, match=said):
        load_dataset(pictures_at(tmp_path, *names))


def test_hidden_files_are_nobodys_pictures(tmp_path):
    pictures_at(tmp_path, "train/cat/1.png", "train/dog/2.png", "train/dog/old/3.png")
    for name in ("__MACOSX/cat/._1.png", "cat/._1.png", "cat/.trash/4.png", "dog/@eaDir/2.png/thumb.jpg",
                 "dog/Thumbs.db", "dog/desktop.ini", "dog/.DS_Store", ".ipynb_checkpoints/1.png"):
        (tmp_path/"train"/name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path/"train"/name).write_bytes(b"Mac OS X")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = load_dataset(tmp_path)
    assert (ids(data), data.classes) == (["train/cat/1.png", "train/dog/2.png", "train/dog/old/3.png"], ("cat", "dog"))


@pytest.mark.parametrize("suffix", "jpg jpeg jpe jfif JPG png apng webp avif bmp dib gif tif tiff ppm pgm pbm pnm tga "
                                   "ico pcx sgi jp2 j2k qoi".split())
def test_every_suffix_of_a_picture_is_read(tmp_path, suffix):
    (tmp_path/"cat").mkdir()
    try:
        save(tmp_path/f"cat/a.{suffix}", mode="1" if suffix == "pbm" else None)
    except (OSError, ValueError, KeyError) as error:
        pytest.skip(f"this Pillow does not write it: {error}")
    (sample,) = load_dataset(tmp_path)
    assert sample.id == f"cat/a.{suffix}" and sample.picture.shape == (*sample.size, 3)


def test_no_suffix_of_pillow_is_forgotten():
    no_pictures = {"BUFR", "GRIB", "HDF5", "MPEG", "IPTC", "WMF", "EPS"}
    known = Image.registered_extensions().items()
    wanted = {suffix for suffix, kind in known if kind in Image.OPEN and kind not in no_pictures}
    assert wanted - {".heic", ".heif"} <= PICTURE_SUFFIXES


def test_files_passed_over_are_counted(tmp_path):
    pictures_at(tmp_path, "train/cat/1.png", "train/2.png")
    for name in ("cat/1.txt", "cat/2.txt", "cat/3.heic", "cat/README"):
        (tmp_path/"train"/name).touch()
    with pytest.warns(UserWarning) as warned:
        load_dataset(tmp_path)
    said = " ".join(str(w.message) for w in warned)
    assert (f"{tmp_path}: 4 files passed over, not called like pictures: .txt (2), .heic (1), no suffix (1), "
            "such as train/cat/1.txt") in said
    assert f"1 picture left out, in {tmp_path}/train in no class's folder, such as 2.png" in said


def test_links_to_nowhere_are_missing_pictures(tmp_path):
    pictures_at(tmp_path, "cat/1.png", "elsewhere/deep/3.png")
    os.symlink("../gone.png", tmp_path/"cat/2.png")
    os.symlink("4.png", tmp_path/"cat/4.png")
    os.symlink(tmp_path/"elsewhere", tmp_path/"cat/linked")
    os.symlink(tmp_path/"cat", tmp_path/"cat/circle")
    data = load_dataset(tmp_path)
    assert [*data.ids()] == ["cat/1.png", "cat/2.png", "cat/4.png", "cat/linked/deep/3.png", "elsewhere/deep/3.png"]
    with pytest.raises(PictureError, match="2.png: no such file .*../gone.png"):
        data[1]
    with pytest.raises(PictureError, match="4.png: "):
        data[2]


def test_a_class_folder_that_is_a_link_to_nowhere(tmp_path):
    pictures_at(tmp_path, "train/cat/1.png")
    os.symlink("gone", tmp_path/"train/dog")
    with pytest.warns(UserWarning, match="train/dog left out, a link to gone, where nothing is"):
        load_dataset(tmp_path)


def test_a_class_folder_that_is_not_utf8(tmp_path):
    pictures_at(tmp_path, "train/cat/1.png", os.fsdecode(b"train/caf\xe9/1.png"))
    with pytest.raises(ValueError, match=r"class folder 'caf\\udce9' is not UTF-8"):
        load_dataset(tmp_path)


def test_a_file_name_that_is_not_utf8_is_no_matter(tmp_path):
    pictures_at(tmp_path, os.fsdecode(b"train/cat/caf\xe9.png"))
    assert load_dataset(tmp_path)[0].picture.shape == rgb.shape


def test_a_slash_behind_the_folder_is_no_other_name(folder):
    assert load_dataset(f"{folder}/images/").name == load_dataset(folder/"images").name == str(folder/"images")
    index(folder, *GOOD)
    assert load_dataset(f"{folder}/").name == str(folder)


def test_no_data(tmp_path):
    with pytest.raises(ValueError, match="neither"):
        load_dataset(tmp_path)
    with pytest.raises(ValueError, match="no data set 'nothing'"):
        load_dataset("nothing")
    with pytest.raises(ValueError, match="options of scenes"):
        load_dataset(tmp_path, count=3)


def test_picture_of_an_image_folder_that_is_none(tmp_path):
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat/a.png").write_text("no picture")
    with pytest.raises(PictureError, match="a.png: not a picture"):
        load_dataset(tmp_path)[0]


# geometries

@pytest.mark.parametrize("geometry, name", [
    (Geometry(224, squash=True), "squash 224"),
    (Geometry(256, squash=True, crop=224), "squash 256, crop 224"),
    (Geometry(256, squash=False, crop=224), "shorter side 256, crop 224"),
])
def test_geometry_names_itself_and_its_side(geometry, name):
    assert (geometry.name, geometry.size) == (name, 224)


def test_geometries_are_values():
    geometry = Geometry(224, squash=True)
    assert geometry == Geometry(224, True, None) != Geometry(225, True)
    assert pickle.loads(pickle.dumps(geometry)) == geometry
    assert dataclasses.asdict(geometry) == dict(resize=224, squash=True, crop=None)


@pytest.mark.parametrize("wrong, why", [
    (dict(resize=256, squash=False), "must crop"),
    (dict(resize=224, squash=True, crop=256), "crop 256 exceeds resize 224"),
])
def test_wrong_geometries(wrong, why):
    with pytest.raises(ValueError, match=why):
        Geometry(**wrong)
    with pytest.raises(ValueError, match=why):
        Protocol("mine", **wrong)


def test_too_long_a_picture():
    wanted = "a picture of 100 x 300000 is too long"
    for keeps_aspect in (Geometry(256, squash=False, crop=224), get_protocol("locloc")):
        with pytest.raises(ValueError, match=wanted):
            keeps_aspect.boxes([[0, 0, 9, 9]], (300000, 100))


@pytest.mark.parametrize("protocol", PROTOCOLS.values(), ids=PROTOCOLS)
def test_protocol_sees_through_its_geometry(protocol):
    geometry, size = protocol.geometry, rgb.shape[:2]
    assert geometry == Geometry(protocol.resize, protocol.squash, protocol.crop)
    assert geometry.size == protocol.size
    np.testing.assert_array_equal(protocol.picture(rgb), geometry.picture(rgb))
    np.testing.assert_array_equal(protocol.mask(rgb[..., 0] > 99), geometry.mask(rgb[..., 0] > 99))
    np.testing.assert_array_equal(protocol.boxes([[3, 4, 30, 20]], size), geometry.boxes([[3, 4, 30, 20]], size))
    np.testing.assert_array_equal(protocol.to_original([[9, 9, 99, 99]], size),
                                  geometry.to_original([[9, 9, 99, 99]], size))


# protocols

def test_protocols_fields_stay_flat():
    protocol = Protocol("squash", resize=224, squash=True)
    assert dataclasses.asdict(protocol) == dict(
        name="squash", resize=224, squash=True, crop=None, threshold=.5, threshold_rule="fixed", step=.01,
        contours="largest", inclusive=False, end_pixels=False, clamp=False, first_box_only=False, iou=.5, strict=False,
        map_interpolation="bilinear", stretch="after", cut="bytes", nothing="corner")
    assert dataclasses.replace(protocol, resize=256).geometry == Geometry(256, squash=True)


@pytest.mark.parametrize("name", ["wsoleval", "locloc", "tscam", "bas"])
@pytest.mark.parametrize("size", [(300, 500), (500, 300), (100, 80), (224, 224)])
def test_picture_mask_and_boxes_move_together(name, size):
    protocol, (h, w) = get_protocol(name), size
    box = np.array([[.3 * w, .35 * h, .6 * w, .7 * h]]).round()
    x0, y0, x1, y1 = box[0].astype(int)
    mask = np.zeros(size, bool)
    mask[y0:y1, x0:x1] = True
    moved = protocol.boxes(box, size)
    assert protocol.picture(np.zeros((*size, 3), np.uint8)).shape == (protocol.size, protocol.size, 3)
    np.testing.assert_allclose(mask_box(protocol.mask(mask)), moved, atol=1)
    np.testing.assert_allclose(protocol.to_original(moved, size), box)


def test_inclusive_boxes_are_the_benchmarks_integers():
    boxes = get_protocol("wsoleval").boxes([[60, 27, 385, 331], [0, 0, 500, 335]], (335, 500), inclusive=True)
    np.testing.assert_array_equal(boxes, [[26, 18, 172, 221], [0, 0, 223, 223]])


def test_boxes_are_the_benchmarks_to_the_pixel():
    wsoleval, rng = get_protocol("wsoleval"), np.random.default_rng(0)
    for h, w in rng.integers(60, 600, (300, 2)):
        x0, y0 = rng.integers(0, (w // 2, h // 2))
        x1, y1 = rng.integers((w // 2, h // 2), (w, h))
        theirs = [int(x0 * 224 / w), int(y0 * 224 / h), int(x1 * 224 / w), int(y1 * 224 / h)]
        assert wsoleval.boxes([[x0, y0, x1, y1]], (h, w), inclusive=True)[0].tolist() == theirs


def test_found_follows_the_protocols_rules():
    corner = np.zeros((224, 224), np.float32)
    corner[100:, 100:] = .6
    wsoleval, tscam, bas = (get_protocol(name) for name in ("wsoleval", "tscam", "bas"))

    def found(protocol, *answer): return protocol.found(*answer)[0].tolist()

    assert found(wsoleval, corner, .5) == [100, 100, 223, 223]
    assert found(tscam, corner, .5) == [100, 100, 224, 224]
    assert found(bas, corner, .5) == [100, 100, 224, 224]
    assert found(bas, corner, .7) == [0, 0, 224, 224] # nothing: as it is, not a share of the largest value
    assert found(tscam, corner, .7) == [100, 100, 224, 224]
    assert found(bas, corner > 0, .5) == [100, 100, 224, 224]


@pytest.mark.parametrize("name, box", [
    ("wsoleval", [0, 0, 0, 0]), ("locloc", [0, 0, 1, 1]), ("tscam", [0, 0, 1, 1]), ("bas", [0, 0, 224, 224])])
def test_nothing_found_is_what_the_authors_compare(name, box):
    protocol = get_protocol(name)
    assert protocol.found(np.zeros((224, 224), bool), .5).tolist() == [box] == protocol.no_box.tolist()


def test_the_first_box_alone():
    assert len(get_protocol("locloc_first_box").boxes([[0, 0, 9, 9], [5, 5, 60, 60]], (80, 80))) == 1


def test_unknown_protocol():
    with pytest.raises(ValueError, match="expected one of wsoleval"):
        get_protocol("cub")


def test_strict_is_more_than_the_overlap():
    assert get_protocol("bas").least_iou > .5 == get_protocol("locloc").least_iou


@pytest.mark.parametrize("name", ["wsoleval", "locloc", "tscam", "bas"])
def test_score_maps_are_stretched(name):
    protocol = get_protocol(name)
    wide = protocol.score_map(np.random.default_rng(0).random((14, 14)))
    assert wide.shape == (protocol.size, protocol.size) and 0 <= wide.min() < .1 and .9 < wide.max() <= 1
    assert (wide.max() == 1) == (protocol.stretch == "after")
    assert not protocol.score_map(np.full((14, 14), .3)).any()
    with pytest.raises(ValueError, match="finite"):
        protocol.score_map(np.full((14, 14), np.inf))


@pytest.mark.parametrize("wrong", [
    dict(contours="smallest"),
    dict(map_interpolation="nearest"),
    dict(threshold_rule="best"),
    dict(stretch="never"),
    dict(cut="bits"),
])
def test_wrong_choices(wrong):
    with pytest.raises(ValueError, match="must be one of"):
        Protocol("mine", resize=224, squash=True, **wrong)
