"Pictures, data sets, geometries and protocols: what they give, and what they say of what is wrong."
import dataclasses
import pickle

import cv2
import numpy as np
import pytest
from PIL import Image

from locloc.boxes import box_iou, centred_box, mask_box
from locloc.data import PROTOCOLS, Geometry, PictureError, Protocol, get_protocol, load_dataset, open_picture
from locloc.scenes import SCENE_CLASSES, make_scene, scene_mask

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


def test_too_many_pixels(tmp_path, monkeypatch):
    path = save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(PictureError, match="MAX_IMAGE_PIXELS"):
        open_picture(path)


@pytest.mark.parametrize("source", [rgb / 255, rgb[None], rgb[..., :2], rgb[:0], rgb.astype(np.int64), None, 3])
def test_sources_that_are_no_pictures(source):
    with pytest.raises(PictureError, match="got"):
        open_picture(source)


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
    ("a.png,cat,train,40,30,1,2,41,20,", "line 2: the box 1, 2, 41, 20"),
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
    (HEADER.replace(",", ";"), "lacks image, class"),
    ("", "lacks image"),
])
def test_wrong_header(folder, header, why):
    with pytest.raises(ValueError, match=why):
        load_dataset(index(folder, header=header))


def test_empty_index(folder):
    with pytest.raises(ValueError, match="none at all"):
        load_dataset(index(folder))
    (folder / "index.csv").write_bytes(b"")
    with pytest.raises(ValueError, match="lacks image"):
        load_dataset(folder)


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
        contours="largest", inclusive=False, clamp=False, first_box_only=False, iou=.5, strict=False,
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
