"What must hold for any input: lists and answers read back, boxes, settings, masks, and bytes at random."
import csv
import importlib.util
import json
import os
import signal
import warnings
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from tempfile import TemporaryDirectory
from xml.sax.saxutils import escape

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from PIL import Image
from test_layouts import write

from locloc.boxes import box_iou, boxes_from_map, crop_boxes, mask_box, scale_boxes
from locloc.cli import Evaluate, Masks, Source
from locloc.data import load_dataset
from locloc.files import is_hidden
from locloc.localization import Localization, one_line
from locloc.localizers import load_method
from locloc.masks import GrabCutParams
from locloc.report import Prediction, write_predictions
from locloc.stores import MaskStore
from locloc.train import GEGConfig, LFDMConfig

# HYPOTHESIS_PROFILE=long pytest tests/test_properties.py: more of them, others each time
settings.register_profile("check", derandomize=True, deadline=None, database=None, max_examples=25,
                          suppress_health_check=list(HealthCheck))
settings.register_profile("long", settings.get_profile("check"), derandomize=False, max_examples=1000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "check"))

FUZZ = Path(__file__).parents[1]/"benchmarks"/"fuzz_readers.py"
spec = importlib.util.spec_from_file_location("fuzz_readers", FUZZ)
fuzz_readers = importlib.util.module_from_spec(spec)
spec.loader.exec_module(fuzz_readers)


@contextmanager
def folder():
    with TemporaryDirectory() as name:
        yield Path(name)


def refused(call, *names):
    "Whether it is refused, in one line that holds one of the names"
    try:
        call()
    except (ValueError, FileNotFoundError) as error:
        said = str(error)
        assert len(said.splitlines()) == 1 and (not names or any(name in said for name in names)), said
        return True
    return False


# names, as lists may hold them: no line is cut off at either end, and no folder is left

def texts(without="", **options):
    letters = st.characters(exclude_categories=("Cs",), exclude_characters=f"\0/\\:{without}")
    liked = st.sampled_from([c for c in " ,;\t\"'#$%&<>[]{}=+-.éß漢🐦\u0301\u202e\x85" if c not in without])
    return st.text(letters | liked, min_size=1, **options).filter(lambda text: text == text.strip())


def paths(without=""):
    parts = texts(without, max_size=40).filter(lambda part: part not in (".", "..", "images"))
    return st.lists(parts, min_size=1, max_size=3).map(lambda parts: "/".join(parts) + ".jpg")


@st.composite
def boxes_within(draw, size):
    sides = []
    for side in size[::-1]:
        low, high = sorted(draw(st.lists(st.integers(0, side*64), min_size=2, max_size=2, unique=True)))
        sides.append((low/64, high/64))
    (x0, x1), (y0, y1) = sides
    return [x0, y0, x1, y1]


@st.composite
def pictures(draw, path):
    "{path: (class, (H, W), boxes)}"
    sizes, classes = st.tuples(st.integers(1, 3000), st.integers(1, 3000)), draw(st.lists(texts("\n\r"), min_size=1))
    found = {}
    for name in draw(st.lists(path, min_size=1, max_size=5, unique=True)):
        size = draw(sizes)
        boxes = draw(st.lists(boxes_within(size), min_size=1, max_size=3))
        found[name] = draw(st.sampled_from(classes)), size, boxes
    return found


def facts(data):
    return {s.id: (data.classes[s.label], s.size, s.boxes.tolist()) for s in data}


@given(pictures(paths()))
@example({"a,\"b\"\r\n.jpg": ("#1; $x", (3, 2), [[0, 0, 1.5, 2]])})
def test_index_csv_reads_back(wanted):
    with folder() as place:
        with open(place/"index.csv", "w", newline="", encoding="utf-8") as file:
            lines = csv.writer(file)
            lines.writerow("image class split width height x0 y0 x1 y1 mask".split())
            for path, (kind, (h, w), boxes) in wanted.items():
                lines.writerows([path, kind, "test", w, h, *box, ""] for box in boxes)
        assert facts(load_dataset(place, "test")) == wanted


@given(pictures(paths(",\n\r")))
def test_lists_of_wsolevaluation_read_back(wanted):
    kinds = sorted({kind for kind, _, _ in wanted.values()})
    lists = {
        "image_ids": [(path,) for path in wanted],
        "class_labels": [(path, kinds.index(kind)) for path, (kind, _, _) in wanted.items()],
        "image_sizes": [(path, w, h) for path, (_, (h, w), _) in wanted.items()],
        "localization": [(path, *box) for path, (_, _, boxes) in wanted.items() for box in boxes],
    }
    files = {f"test/{name}.txt": "".join(",".join(map(str, row)) + "\n" for row in rows)
             for name, rows in lists.items()}
    with folder() as place:
        data = load_dataset(write(place, files), "test")
        assert {s.id: (kinds[s.label], s.size, s.boxes.tolist()) for s in data} == wanted


@given(pictures(paths()))
def test_coco_reads_back(wanted):
    kinds = sorted({kind for kind, _, _ in wanted.values()})
    images, annotations = [], []
    for path, (kind, (h, w), boxes) in wanted.items():
        images.append(dict(id=path, file_name=path, width=w, height=h))
        for x0, y0, x1, y1 in boxes:
            box = dict(bbox=[x0, y0, x1 - x0, y1 - y0], image_id=path, category_id=kinds.index(kind))
            annotations.append(dict(id=len(annotations), **box))
    categories = [dict(id=k, name=kind) for k, kind in enumerate(kinds)]
    whole = json.dumps(dict(images=images, categories=categories, annotations=annotations))
    with folder() as place:
        assert facts(load_dataset(write(place, {"annotations/instances_test.json": whole}), "test")) == wanted


XML_LETTERS = dict(exclude_categories=("Cc", "Cs", "Cn"), exclude_characters="\ufffe\uffff")


def of_xml(text):
    return escape(text).replace("\r", "&#13;")


@given(st.dictionaries(
    texts("\n\r", max_size=40).filter(lambda name: len(name.split()) == 1 and not name.startswith(".")),
    st.text(st.characters(**XML_LETTERS), min_size=1).filter(lambda text: text == text.strip()),
    min_size=1, max_size=4))
def test_voc_reads_back(kinds):
    files = {"ImageSets/Main/test.txt": "".join(f"{name}\n" for name in kinds)}
    box = "<bndbox><xmin>2</xmin><ymin>3</ymin><xmax>50</xmax><ymax>40</ymax></bndbox>"
    for name, kind in kinds.items():
        about = f"<name>{of_xml(kind)}</name>{box}"
        size = "<size><width>50</width><height>40</height></size>"
        files[f"Annotations/{name}.xml"] = f"<annotation>{size}<object>{about}</object></annotation>"
    with folder() as place:
        wanted = {f"JPEGImages/{name}.jpg": (kind, (40, 50), [[1, 2, 50, 40]]) for name, kind in kinds.items()}
        assert facts(load_dataset(write(place, files), "test")) == wanted


FILES = texts(max_size=40).map(lambda name: f"{name}.png")


@given(st.dictionaries(FILES, texts(max_size=40).filter(lambda name: not is_hidden(name)), min_size=1, max_size=4))
def test_folders_of_classes_read_back(kinds):
    with folder() as place:
        for name, kind in kinds.items():
            (place/"train"/kind).mkdir(parents=True, exist_ok=True)
            Image.new("1", (3, 2)).save(place/"train"/kind/name)
        wanted = {f"train/{kind}/{name}": kind for name, kind in kinds.items() if not is_hidden(name)}
        if not wanted:
            assert refused(lambda: load_dataset(place, "train"), str(place))
            return
        data = load_dataset(place, "train")
        assert {s.id: data.classes[s.label] for s in data} == wanted
        assert all(s.picture.shape == (2, 3, 3) for s in data)


# bytes at random

@pytest.fixture(scope="module", params=fuzz_readers.TARGETS)
def reader(request, tmp_path_factory):
    "Name of a target, the target, and the bytes of its small valid files"
    target = fuzz_readers.TARGETS[request.param]
    return request.param, target, target.prepare(tmp_path_factory.mktemp(request.param))


@st.composite
def changes(draw):
    "A function that changes bytes in a few places"
    def change(content):
        for kind, share, more in changed:
            at = int(share*len(content))
            end = {"insert": at, "replace": at + len(more), "cut": len(content), "drop": at + 20, "twice": at}[kind]
            more = content[max(0, at - 40):at] if kind == "twice" else more if kind in ("insert", "replace") else b""
            content = content[:at] + more + content[end:]
        return content
    kinds = st.sampled_from(["insert", "replace", "cut", "drop", "twice"])
    liked = st.sampled_from([b"\n", b"\r", b",", b'"', b"\0", b"\xff", b"-", b"9"*400, b"1e999", b"nan", b"..", b"/",
                             b" ", b"\xe2\x80\xa8", b"\x1c", b"[", b"{", b"null", b"[[", b"<", b"&"])
    changed = draw(st.lists(st.tuples(kinds, st.floats(0, 1, exclude_max=True), liked | st.binary(max_size=8)),
                            min_size=1, max_size=4))
    return change


def check(name, target, content):
    found = fuzz_readers.finding(name, target, content)
    if found:
        what, error = found
        raise AssertionError(f"{name}: {what}: {error!r} of {content!r}") from error


@given(st.data())
@settings(max_examples=3*settings().max_examples)
def test_damaged_files_are_read_or_refused_in_one_line(reader, data):
    name, target, seeds = reader
    check(name, target, data.draw(changes())(data.draw(st.sampled_from(seeds))))


@contextmanager
def at_most(seconds):
    def stop(*_):
        raise AssertionError(f"it takes more than {seconds} s")
    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


SEEDS = sorted((Path(__file__).parent/"seeds").iterdir())


@pytest.mark.parametrize("seed", SEEDS, ids=lambda seed: seed.name)
def test_what_was_found_stays_mended(seed, tmp_path):
    name = seed.name.partition("-")[0]
    target = fuzz_readers.TARGETS[name]
    target.prepare(tmp_path)
    with at_most(120):
        check(name, target, seed.read_bytes())


# boxes

@st.composite
def some_boxes(draw, most=12, whole=True):
    ends = st.integers(0, most) if whole else st.integers(-most*64, most*64).map(lambda value: value/64)
    pairs = st.tuples(ends, ends).map(sorted)
    boxes = draw(st.lists(st.tuples(pairs, pairs), min_size=1, max_size=4))
    return np.array([[x0, y0, x1, y1] for (x0, x1), (y0, y1) in boxes], dtype=float)


def pixels(box, inclusive):
    x0, y0, x1, y1 = box.astype(int)
    drawn = np.zeros((20, 20), bool)
    drawn[y0:y1 + inclusive, x0:x1 + inclusive] = True
    return drawn


@given(some_boxes(), some_boxes(), st.booleans())
def test_iou_is_that_of_counted_pixels(a, b, inclusive):
    found = box_iou(a, b, inclusive)
    for i, j in np.ndindex(found.shape):
        one, other = pixels(a[i], inclusive), pixels(b[j], inclusive)
        union = np.count_nonzero(one | other)
        assert found[i, j] == (np.count_nonzero(one & other)/union if union else 0)


@given(some_boxes(1e6, whole=False), some_boxes(1e6, whole=False), st.booleans())
def test_iou_is_a_share_and_the_same_both_ways(a, b, inclusive):
    found = box_iou(a, b, inclusive)
    assert ((found >= 0) & (found <= 1)).all() and np.array_equal(found, box_iou(b, a, inclusive).T)
    has_area = inclusive or ((a[:, 2:] > a[:, :2]).all(1))
    assert np.array_equal(np.diag(box_iou(a, a, inclusive)), np.broadcast_to(has_area, len(a)).astype(float))


@given(st.lists(st.floats() | st.floats(-9, 9), min_size=4, max_size=4))
def test_boxes_are_taken_or_refused(box):
    x0, y0, x1, y1 = box
    right = np.isfinite(box).all() and x0 <= x1 and y0 <= y1
    for use in (lambda: box_iou(box, [0, 0, 1, 1]), lambda: crop_boxes(box, (0, 0, 5, 5)),
                lambda: scale_boxes(box, (2, 2), (4, 4)), lambda: Localization(np.array([box]))):
        with np.errstate(over="ignore", invalid="ignore"):
            assert refused(use, "box") != right or x0 == x1 or y0 == y1


SIZES = st.tuples(st.integers(1, 5000), st.integers(1, 5000))


@given(some_boxes(5000, whole=False), SIZES, SIZES)
def test_boxes_scale_there_and_back(boxes, here, there):
    back = scale_boxes(scale_boxes(boxes, here, there), there, here)
    assert np.allclose(back, boxes, rtol=1e-12, atol=1e-9)


@given(some_boxes(99, whole=False), some_boxes(99, whole=False))
def test_cropped_boxes_stay_in_their_window(boxes, windows):
    for window in windows:
        found, side = crop_boxes(boxes, window), np.tile(window[2:] - window[:2], 2)
        assert (found >= 0).all() and (found <= side).all() and (found[:, :2] <= found[:, 2:]).all()
        inside = (boxes >= np.tile(window[:2], 2)).all(1) & (boxes <= np.tile(window[2:], 2)).all(1)
        assert np.array_equal(found[inside], boxes[inside] - np.tile(window[:2], 2))


def of_shape(kind, most=20):
    shapes = st.tuples(st.integers(1, most), st.integers(1, most))
    return st.tuples(shapes, st.integers(0, 2**32)).map(lambda drawn: kind(np.random.default_rng(drawn[1]), drawn[0]))


def mask_of(rng, shape): return rng.random(shape) < rng.choice([0, .05, .5, 1])


@given(of_shape(mask_of), st.floats(0, 1), st.sampled_from(["largest", "pixels", "all"]))
def test_boxes_of_masks_hold_pixels_of_them(mask, threshold, contours):
    h, w = mask.shape
    (box,) = mask_box(mask)
    x0, y0, x1, y1 = box.astype(int)
    assert mask.sum() == mask[y0:y1, x0:x1].sum()
    assert not mask.any() or mask[[y0, y1 - 1], x0:x1].any(1).all() and mask[y0:y1, [x0, x1 - 1]].any(0).all()
    for x0, y0, x1, y1 in boxes_from_map(mask, threshold, contours)[0].astype(int):
        assert 0 <= x0 <= x1 <= w and 0 <= y0 <= y1 <= h
        assert mask[y0:y1, x0:x1].any() or not (mask.any() and threshold < 1)


@given(of_shape(mask_of, 70), paths())
@example(np.ones((1, 1), bool), "a.jpg")
@example(np.eye(7, 9) > 0, "a b/ü,#.jpg")
def test_masks_read_back(mask, id):
    assume(all(part not in (".", "..") for part in id.split("/")))
    with folder() as place:
        store = MaskStore(place, {"size": list(mask.shape)})
        store.write(id, mask)
        assert np.array_equal(store.read(id), mask) and id in store and MaskStore(place).ids() == [id[:-4]]


# settings

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-2**63, 2**63) | st.floats() | st.text(max_size=5) |
    st.sampled_from(["grid", "cv2", .1, .9, 1]),
    lambda inside: st.lists(inside, max_size=3) | st.dictionaries(st.text(max_size=5), inside, max_size=3),
    max_leaves=5)
PARAMS = [field.name for field in fields(GrabCutParams)]


@given(JSON | st.dictionaries(st.sampled_from([*PARAMS, "a\nb"]), JSON, max_size=4) | st.fixed_dictionaries(
    {}, optional=dict(delta0=st.floats(0, .5), delta1=st.floats(.5, 1), split=st.none() | st.floats(0, 1),
                      iterations=st.integers(1, 9), seed=st.integers(-2**31, 2**31 - 1))))
@example({"iterations": float("inf")})
@example({"kernel": []})
@example({"seed": 2**31})
def test_saved_thresholds_are_taken_or_refused(value):
    made = []
    if not refused(lambda: made.append(GrabCutParams.from_json(json.dumps(value)))):
        (params,) = made
        assert GrabCutParams.from_json(params.to_json()) == params
        assert {name: value[name] for name in value} == {name: asdict(params)[name] for name in value}


CONFIGS = [
    (GEGConfig, {}),
    (LFDMConfig, {}),
    (Source, {}),
    (Masks, dict(data="scenes", out=Path("masks"))),
    (Evaluate, dict(data="scenes")),
]
NUMBERS = st.integers(-2**63, 2**63 - 1) | st.floats() | st.integers(-2, 600) | st.floats(-1, 2)
ANY = st.none() | st.booleans() | NUMBERS | st.text() | st.binary() | st.lists(NUMBERS) | st.just(np.zeros(3)) | (
    st.lists(st.text()).map(tuple) | st.text(max_size=3).map(Path) |
    st.sampled_from(["paper", "tiny", "adam", "lbfgs", "lookahead_adamw", "rand-m9", "1/4", "4/1", "bf16", "centre"]))


@pytest.mark.parametrize("kind, needed", CONFIGS, ids=[kind.__name__ for kind, _ in CONFIGS])
@given(data=st.data())
@settings(max_examples=4*settings().max_examples)
def test_settings_are_taken_or_refused_by_name(kind, needed, data):
    name = data.draw(st.sampled_from([field.name for field in fields(kind)]))
    value = data.draw(ANY)
    names = ("crop", "resize") if name in ("crop", "resize") else (name, name.replace("_", "-"))
    refused(lambda: kind(**needed | {name: value}), *names)


OPTIONS = st.tuples(st.sampled_from(["share", "size", "x"]), JSON.map(json.dumps) | texts()).map("=".join)


@given(st.sampled_from(["centred", "whole", "nothing", "", "whole:"]), st.lists(texts() | OPTIONS, max_size=3))
@example("centred", ["share=" + "["*100_000])
@example("x"*300, [])
def test_methods_are_made_or_refused(name, options):
    try:
        method = load_method(",".join([name, *options]))
    except (ValueError, FileNotFoundError) as error:
        assert str(error)
    else:
        assert method.name == ",".join([name, *options])


# answers

@st.composite
def predictions(draw):
    found, score = [], st.floats(0, 1)
    for image in draw(st.lists(paths(), max_size=4, unique=True)):
        size = draw(SIZES)
        boxes = np.array(draw(st.lists(boxes_within(size), max_size=3)), float).reshape(-1, 4)
        kind = draw(st.none() | texts())
        where = Localization(boxes, class_id=kind, score=None if kind is None else draw(score))
        found.append(Prediction(image, size, where))
    return found


CARRIAGE = Prediction("a\rb.jpg", (3, 2), Localization(np.array([[0, 0, 1, 1.5]]), class_id="c\rd", score=.5))


@given(predictions())
@example([CARRIAGE])
def test_answers_read_back_from_csv(said):
    with folder() as place:
        write_predictions(place/"found.csv", said, "csv")
        with open(place/"found.csv", encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
    wanted = [(one.image, one.class_name, one.score, *one.size, tuple(box))
              for one in said for box in one.found.boxes.tolist() or [("",)*4]]
    assert wanted == [
        (row["image"], row["class"], float(row["score"]), int(row["height"]), int(row["width"]),
         tuple(row[side] and float(row[side]) for side in ("x0", "y0", "x1", "y1"))) for row in rows]


@given(predictions())
@example([CARRIAGE])
def test_answers_read_back_from_coco(said):
    with folder() as place:
        write_predictions(place/"annotations"/"instances_test.json", said, "coco")
        found = json.loads((place/"annotations"/"instances_test.json").read_text(encoding="utf-8"))
        for rows in found.values():
            assert [row["id"] for row in rows] == list(range(len(rows)))
        assert [(row["file_name"], row["height"], row["width"]) for row in found["images"]] == [
            (one.image, *one.size) for one in said]
        wanted = {one.image: (one.class_name, one.size, one.found.boxes.tolist())
                  for one in said if len(one.found.boxes)}
        if wanted:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore") # pictures without a box are left out
                assert facts(load_dataset(place, "test")) == wanted


@given(predictions())
@example([CARRIAGE])
@example([Prediction("classes.jpg", (3, 2), Localization(np.array([[0, 0, 1, 1.5]])))])
def test_answers_read_back_from_yolo(said):
    with folder() as place:
        if refused(lambda: write_predictions(place/"labels", said, "yolo"), "would share"):
            names = [Path(one.image).stem for one in said]
            assert "classes" in names or len(set(names)) < len(names)
            return
        classes = (place/"labels"/"classes.txt").read_text(encoding="utf-8").split("\n")[:-1]
        for one in said:
            (h, w), boxes = one.size, []
            lines = (place/"labels"/Path(one.image).with_suffix(".txt")).read_text().splitlines()
            for line in lines:
                number, *numbers = line.split()
                assert classes[int(number)] == one_line(one.class_name)
                x, y, wide, high, _ = map(float, numbers)
                assert all(0 <= float(value) <= 1 for value in numbers)
                boxes.append([(x - wide/2)*w, (y - high/2)*h, (x + wide/2)*w, (y + high/2)*h])
            assert np.allclose(np.reshape(boxes, (-1, 4)), one.found.boxes, atol=1e-6*max(w, h))
