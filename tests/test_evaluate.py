"Every row of a report against the same figure counted literally; what a report says about itself."
import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from locloc.backbone import load_backbone
from locloc.boxes import box_iou, boxes_from_map, centred_box, map_boxes
from locloc.data import Dataset, PictureError, Protocol, Sample, Samples, get_protocol, load_dataset
from locloc.evaluate import evaluate
from locloc.geg import GEG
from locloc.lfdm import LFDM, LinearHead
from locloc.localization import Localization, class_key
from locloc.localizers import PPD, AttentionMap, GrabCut, load_localizer
from locloc.masks import GrabCutParams, grabcut_mask
from locloc.metrics import MaxBoxAcc, MaxBoxAccV2, mask_iou
from locloc.model import LocLoc, score_maps
from locloc.stores import make_masks, pseudo_truth

SQUASH = Protocol("squash", resize=224, squash=True)


class Light:
    "An attention source: how bright"
    name, fingerprint = "light", {"name": "light", "version": 3}
    calls = 0

    def __call__(self, pictures):
        self.calls += 1
        a = np.stack([p.mean(-1)[::8, ::8] for p in pictures]).astype(np.float32)
        return (a - a.min((1, 2), keepdims=True))/np.ptp(a, axis=(1, 2), keepdims=True)


class Known(Light):
    "An attention source that has been told"
    def __init__(self, attention):
        self.attention = attention.astype(np.float32)

    def __call__(self, pictures):
        return np.stack([self.attention]*len(pictures))


class Fixed:
    "A method that always gives the same answer"
    fingerprint, class_specific = {"name": "fixed"}, False

    def __init__(self, answer, name="fixed"):
        self.answer, self.name = answer, name

    def __call__(self, pictures, class_ids=None):
        return [self.answer]*len(pictures)


@pytest.fixture(scope="module")
def scenes():
    return load_dataset("scenes", split="test", count=5)


@pytest.fixture(scope="module")
def model(scenes):
    torch.manual_seed(0)
    vit = load_backbone("test_vit", weights=False)
    return LocLoc(vit, GEG(vit.embed_dim, 8, 8), LFDM.from_backbone(vit, len(scenes.classes)), scenes.classes)


@pytest.fixture(scope="module")
def linear(model):
    head = LinearHead.from_backbone(model.backbone, len(model.classes))
    classifier = LocLoc(model.backbone, None, head, model.classes)
    classifier.name = "linear head"
    return classifier


def dataset(samples, classes=("a", "b")):
    labels = np.array([sample.label for sample in samples])
    return Dataset("made", "test", classes, Samples(lambda sample: sample, samples), labels)


def sample(boxes, size=(100, 200), label=0, mask=None):
    picture = np.random.default_rng(0).integers(0, 255, (*size, 3), dtype=np.uint8)
    known = None if boxes is None else np.array(boxes, float)
    return Sample("x", label, size, known, lambda: picture, None if mask is None else lambda: mask)


def rows(report):
    return {(row["table"], row["protocol"], row["method"], row.get("origin", "")): row for row in report.rows}


def quiet(*args, **options):
    return evaluate(*args, **{"progress": False, "pictures": 0, "workers": 2} | options)


@pytest.fixture(scope="module")
def counted(scenes, model, linear):
    "A report of three kinds of methods, and what it was made from"
    params = GrabCutParams(.2, .8, split=.5)
    methods = [PPD(Light(), .4), GrabCut(Light(), params), model, linear]
    report = quiet(scenes, methods, (SQUASH, "wsoleval"), batch_size=3)
    inputs = np.stack([sample.picture for sample in scenes])
    activation, logits = model.heads(inputs)
    return rows(report), inputs, activation, logits


def share_right(boxes, scenes):
    return 100*np.mean([box_iou(box, sample.boxes).max() >= .5 for box, sample in zip(boxes, scenes, strict=True)])


def test_rows_of_a_model_counted_literally(counted, scenes):
    found, _, activation, logits = counted
    first, labels = logits.argmax(1).numpy(), np.array([sample.label for sample in scenes])
    boxes = [boxes_from_map(score_map, .5)[0] for score_map in score_maps(activation, (224, 224))]
    right = np.array([box_iou(box, sample.boxes).max() >= .5 for box, sample in zip(boxes, scenes, strict=True)])
    row = found["boxes", "squash", "locloc", "fixed"]
    assert row["GT-known Loc"] == pytest.approx(100*right.mean())
    assert row["Top-1 Loc"] == pytest.approx(100*(right & (first == labels)).mean())
    assert found["classes", "squash", "locloc", ""]["Top-1 Cls"] == pytest.approx(100*(first == labels).mean())


def test_rows_of_masks_counted_literally(counted, scenes):
    found, inputs, _, _ = counted
    params = GrabCutParams(.2, .8, split=.5)
    cut = [grabcut_mask(picture, a, params) for picture, a in zip(inputs, Light()(inputs), strict=True)]
    boxes = [boxes_from_map(mask, .5)[0] for mask in cut]
    ious = [mask_iou(mask, sample.mask) for mask, sample in zip(cut, scenes, strict=True)]
    row = found["boxes", "squash", "grabcut:light", "fixed"]
    assert row["GT-known Loc"] == pytest.approx(share_right(boxes, scenes)) and "Top-1 Loc" not in row
    assert found["masks", "squash", "grabcut:light", "fixed"]["mean IoU"] == pytest.approx(100*np.mean(ious))


def test_trivial_rows_counted_literally(counted, scenes):
    found = counted[0]
    centred = [share_right([centred_box((224, 224), side/100)]*5, scenes) for side in range(1, 101)]
    assert found["boxes", "squash", "best centred box", "oracle"]["GT-known Loc"] == pytest.approx(max(centred))
    assert found["boxes", "squash", "whole picture", ""]["GT-known Loc"] == pytest.approx(centred[-1])


def test_a_classifier_alone_has_no_boxes(counted, scenes, linear):
    found, inputs, _, _ = counted
    first, labels = linear.heads(inputs)[1].argmax(1).numpy(), [sample.label for sample in scenes]
    assert found["classes", "squash", "linear head", ""]["Top-1 Cls"] == pytest.approx(100*np.mean(first == labels))
    assert not any(table != "classes" for table, _, method, _ in found if method == "linear head")


def test_sweeps_counted_literally(counted, scenes):
    found, _, activation, _ = counted
    protocol, steps = get_protocol("wsoleval"), dict(thresholds=np.arange(0, 1, .001))
    sweep, both = MaxBoxAcc(**steps), MaxBoxAccV2(**steps)
    for activated, sample in zip(activation.squeeze(1).numpy(), scenes, strict=True):
        for metric in (sweep, both):
            metric.update(protocol.score_map(activated), protocol.boxes(sample.boxes, sample.size, True))
    oracle = [row for row in found.values() if row["method"] == "locloc" and row.get("origin") == "oracle"]
    assert len(oracle) == 1 # the last of the two has the key of the first
    v2 = both.compute()
    assert oracle[0]["MaxBoxAccV2"] == pytest.approx(v2["MaxBoxAcc"])
    assert oracle[0]["MaxBoxAcc at IoU 0.7"] == pytest.approx(v2["per_iou"][.7])
    assert ("boxes", "squash", "locloc", "oracle") not in found


def test_max_box_acc_is_a_row_of_its_own(scenes, model):
    found = quiet(scenes, [model]).rows
    protocol, sweep = get_protocol("wsoleval"), MaxBoxAcc(thresholds=np.arange(0, 1, .001))
    activation, _ = model.heads(np.stack([sample.picture for sample in scenes]))
    for activated, sample in zip(activation.squeeze(1).numpy(), scenes, strict=True):
        sweep.update(protocol.score_map(activated), protocol.boxes(sample.boxes, sample.size, True))
    wanted = sweep.compute()["MaxBoxAcc"]
    oracle = [row for row in found if row["method"] == "locloc" and row.get("origin") == "oracle"]
    assert [row["GT-known Loc"] for row in oracle if "GT-known Loc" in row] == [pytest.approx(wanted)]


def test_batches_and_threads_do_not_matter(scenes):
    methods, protocols = ["attention:lowlevel", "grabcut:lowlevel"], ("wsoleval", "locloc")
    one, many = (quiet(scenes.subset(4), methods, protocols, batch_size=batch, workers=workers).rows
                 for batch, workers in ((1, 1), (3, 3)))
    assert one == many


def test_pictures_open_once_and_shared_inputs_are_seen_once(scenes):
    opened, light = [], Light()

    def counting(sample):
        def opens():
            opened.append(sample.id)
            return sample.picture
        return replace(sample, open=opens)

    counted = replace(scenes, samples=Samples(counting, [*scenes]))
    methods = [AttentionMap(light), PPD(light, .4), GrabCut(light)]
    quiet(counted, methods, ("wsoleval", SQUASH, "locloc", "locloc_first_box"), batch_size=4)
    assert sorted(opened) == [sample.id for sample in scenes]
    assert light.calls == 2*2 # two batches, two geometries: three methods and four protocols share


def test_one_pass_of_a_backbone_serves_all_heads(scenes, model, monkeypatch):
    passes, forward = [], type(model.backbone).forward

    def counting(self, *args, **options):
        passes.append(self)
        return forward(self, *args, **options)

    monkeypatch.setattr(type(model.backbone), "forward", counting)
    other = LocLoc(model.backbone, model.geg, LinearHead.from_backbone(model.backbone, 8), model.classes)
    other.name = "other"
    quiet(scenes, [model, other], ("wsoleval", "tscam"), batch_size=5)
    assert len(passes) == 1


def test_first_box_only_and_several_boxes():
    two = dataset([sample([[0, 0, 20, 10], [0, 0, 200, 100]])])
    every, first = (rows(quiet(two, protocols=(replace(SQUASH, first_box_only=alone),))) for alone in (False, True))
    key = "boxes", "squash", "whole picture", ""
    assert (every[key]["GT-known Loc"], first[key]["GT-known Loc"]) == (100, 0)


def test_box_outside_the_crop_is_a_miss_not_a_skip():
    wide = dataset([sample([[0, 0, 20, 100]], (100, 400))])
    row = rows(quiet(wide, protocols="locloc"))["boxes", "locloc", "whole picture", ""]
    assert row["GT-known Loc"] == 0 and row["n"] == 1


def test_the_crop_moves_masks_too():
    mask = np.zeros((100, 200), bool)
    mask[:, 60:140] = True
    told = PPD(Known(get_protocol("locloc").mask(mask)), .5)
    report = quiet(dataset([sample(None, mask=mask)]), [told], "locloc")
    assert rows(report)["masks", "locloc", "ppd:light", "fixed"]["mean IoU"] == 100


def test_without_boxes_masks_or_known_classes(model):
    report = quiet(dataset([sample(None), sample(None, label=1)]), [model])
    text = report.to_markdown()
    assert report.rows == () and "0 with boxes, 0 with masks" in text and "does not know a, b" in text


def test_some_without_boxes_are_left_out_of_n():
    row = rows(quiet(dataset([sample(None), sample([[0, 0, 200, 100]])]), protocols=(SQUASH,)))
    assert row["boxes", "squash", "whole picture", ""]["n"] == 1
    assert row["boxes", "squash", "whole picture", ""]["GT-known Loc"] == 100


def test_a_class_order_of_its_own(scenes, model):
    turned = LocLoc(model.backbone, model.geg, model.lfdm, model.classes[::-1])
    _, logits = model.heads(np.stack([sample.picture for sample in scenes]))
    places = [len(model.classes) - 1 - int(row.argmax()) for row in logits]
    wanted = np.mean([place == sample.label for place, sample in zip(places, scenes, strict=True)])
    assert rows(quiet(scenes, [turned]))["classes", "wsoleval", "locloc", ""]["Top-1 Cls"] == pytest.approx(100*wanted)


def test_classes_are_the_same_by_their_wordnet_id():
    cat = dict(label="cat", class_id="n02124075", score=1., top=(("cat", 1.),), top_ids=("n02124075",))
    whole = [[0, 0, 200, 100]]
    data = dataset([sample(whole), sample(whole, label=1)], ("n02124075_Egyptian_cat", "n02123045"))
    row = rows(quiet(data, [Fixed(Localization([[0, 0, 224, 224]], **cat))], (SQUASH,)))["boxes", "squash", "fixed", ""]
    assert (row["Top-1 Loc"], row["Top-5 Loc"], row["GT-known Loc"]) == (50, 50, 100)


PHOTOGRAPHS = { # class -> picture in data/images; its width, height and box
    "n02124075_Egyptian_cat": ("cat/chelsea.jpg", "451,300,0,0,400,300"),
    "n07920052_espresso": ("cup/coffee.jpg", "600,400,80,15,478,385"),
    "n03126707": ("rocket/rocket.jpg", "640,427,307,118,340,418"), # a crane, which stands beside it
    "n01440764_tench": ("astronaut/astronaut.jpg", "512,512,20,16,364,512")} # a fish, which she is not


@pytest.fixture
def photographs(tmp_path):
    lines = ["image,class,split,width,height,x0,y0,x1,y1,mask"]
    for name, (picture, numbers) in PHOTOGRAPHS.items():
        (tmp_path/name).mkdir()
        shutil.copy(Path(__file__).parents[1]/"data"/"images"/picture, tmp_path/name/"1.jpg")
        lines.append(f"{name}/1.jpg,{name},test,{numbers},")
    (tmp_path/"index.csv").write_text("\n".join(lines) + "\n")
    return load_dataset(tmp_path, "test")


def test_the_shipped_model_is_judged_by_class_without_training(photographs):
    protocol = get_protocol("wsoleval")
    answers = load_localizer("locloc-tiny")([protocol.picture(sample.picture) for sample in photographs])
    first, among, right = [], [], []
    for answer, sample in zip(answers, photographs, strict=True):
        true_class = class_key(photographs.classes[sample.label])
        first.append(answer.class_id == true_class)
        among.append(true_class in answer.top_ids)
        boxes = protocol.boxes(sample.boxes, sample.size, True)
        right.append(box_iou(answer.box, boxes, inclusive=True).max() >= .5)
    found = rows(quiet(photographs, ["locloc-tiny"], "wsoleval"))
    classes, boxes = found["classes", "wsoleval", "locloc-tiny", ""], found["boxes", "wsoleval", "locloc-tiny", "fixed"]
    assert sorted(among) == [False, True, True, True] # whatever the weights are, this is EfficientNet-Lite0
    shares = {"Top-1 Cls": first, "Top-5 Cls": among}
    assert {name: classes[name] for name in shares} == pytest.approx({k: 100*np.mean(v) for k, v in shares.items()})
    shares = {"Top-1 Loc": np.logical_and(first, right), "Top-5 Loc": np.logical_and(among, right)}
    assert {name: boxes[name] for name in shares} == pytest.approx({k: 100*np.mean(v) for k, v in shares.items()})


class ByClass:
    "A class-specific method: the left half is `a`, the right half is `b`; it says `a` first"
    name, fingerprint, class_specific = "by class", {"name": "by class"}, True

    def __init__(self):
        self.asked = []

    def __call__(self, pictures, class_ids=None):
        self.asked.append(class_ids)
        halves = {"a": [[0, 0, 112, 224]], "b": [[112, 0, 224, 224]]}
        names = dict(label="a", class_id="a", score=.6, top=(("a", .6), ("b", .4)), top_ids=("a", "b"))
        return [Localization(halves[name or "a"], **names) for name in class_ids or ["a"]*len(pictures)]


def test_a_class_specific_method_is_asked_for_the_true_class():
    method, right_half = ByClass(), [[100, 0, 200, 100]]
    data = dataset([sample(right_half, label=1), sample(right_half, label=0)])
    row = rows(quiet(data, [method], (SQUASH,)))["boxes", "squash", "by class", ""]
    assert method.asked == [None, ["b", "a"]]
    assert row["GT-known Loc"] == 50 # b's half is right, a's is not
    assert row["Top-1 Loc"] == 0     # its own class is a: wrong class, then wrong box
    assert row["Top-5 Loc"] == 50    # b is among the first five, and b's box is right


EMPTY = Localization()
NO_MASK = Localization(mask=np.zeros((224, 224), bool))
NO_MAP = Localization(score_map=np.zeros((7, 7)))


@pytest.mark.parametrize("answer, protocol, right", [
    (EMPTY, "wsoleval", 0), (EMPTY, "bas", 100), (EMPTY, "tscam", 0), (NO_MASK, "bas", 100), (NO_MASK, "locloc", 0),
    (NO_MAP, "bas", 100), (NO_MAP, "tscam", 0)])
def test_nothing_found_is_scored_as_the_protocols_authors_do(answer, protocol, right):
    data = dataset([sample([[0, 0, 200, 200]], (200, 200))])
    found = [row for row in quiet(data, [Fixed(answer)], protocol).rows if row["method"] == "fixed"]
    assert [row["GT-known Loc"] for row in found if row["table"] == "boxes"] == [right]


def test_the_report_says_what_it_was_made_with(tmp_path, scenes, model):
    methods = [AttentionMap(Light()), PPD(Light(), .35), GrabCut(Light()), model]
    report = quiet(scenes, methods, ("wsoleval", "locloc"), pictures=2, command="`locloc evaluate`")
    report.save(tmp_path)
    files = ["curves.png", "extremes.png", "figure.png", "ious.png", "pictures.csv", "report.csv", "report.json",
             "report.md"]
    assert sorted(path.name for path in tmp_path.iterdir()) == files
    text = (tmp_path/"report.md").read_text(encoding="utf-8")
    for part in ("split test", "5 pictures of 8 classes", "version 3", "δ0 0.02, δ1 0.75", "attention ≥ 0.35",
                 model.fingerprint["weights_hash"], "`locloc evaluate`", "| oracle", "| fixed", "(figure.png)"):
        assert part in text, part
    saved = json.loads((tmp_path/"report.json").read_text(encoding="utf-8"))
    assert saved["rows"] == list(report.rows)
    assert saved["settings"]["methods"]["grabcut:light"]["params"]["delta1"] == .75
    assert saved["settings"]["methods"]["locloc"] == model.fingerprint
    assert (tmp_path/"figure.png").read_bytes()[:4] == b"\x89PNG"


def test_every_origin_is_named(scenes, model):
    methods = [AttentionMap(Light()), PPD(Light(), .35), model]
    boxes = [row for row in quiet(scenes, methods, ("wsoleval", "locloc")).rows if row["table"] == "boxes"]
    origins = {(row["method"], row["protocol"]): {r["origin"] for r in boxes if
               (r["method"], r["protocol"]) == (row["method"], row["protocol"])} for row in boxes}
    assert origins == {
        **{("whole picture", p): {""} for p in ("wsoleval", "locloc")},
        **{("best centred box", p): {"oracle"} for p in ("wsoleval", "locloc")},
        **{("ppd:light", p): {"fixed"} for p in ("wsoleval", "locloc")},
        ("attention:light", "wsoleval"): {"oracle"}, ("attention:light", "locloc"): {"fixed"},
        ("locloc", "wsoleval"): {"fixed", "oracle"}, ("locloc", "locloc"): {"fixed"}}


def test_csv_and_intervals(tmp_path, scenes, model):
    report = quiet(scenes, [model])
    report.save(tmp_path)
    lines = list(csv.DictReader((tmp_path/"report.csv").open(encoding="utf-8")))
    figures = {(line["method"], line["figure"]) for line in lines}
    assert figures >= {("locloc", "GT-known Loc"), ("locloc", "Top-1 Cls"), ("locloc", "part"), ("locloc", "PxAP")}
    for row in report.rows:
        for name, (low, high) in row.get("intervals", {}).items():
            assert 0 <= low <= row[name] <= high <= 100


def test_failed_save_leaves_the_old_report(tmp_path, scenes):
    report = quiet(scenes.subset([0]))
    report.save(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(TypeError):
        replace(report, header={"title": object()}).save(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_held_out_threshold_and_mean_box_come_from_elsewhere(scenes):
    train, protocol, light = load_dataset("scenes", split="train", count=6), get_protocol("locloc"), Light()
    report = quiet(scenes, [AttentionMap(light)], "locloc", held_out=train, train=train)

    def wide(sample):
        return protocol.score_map(light(protocol.picture(sample.picture)[None])[0])

    sweep = MaxBoxAcc(inclusive=False)
    for one in train:
        sweep.update(wide(one), protocol.boxes(one.boxes, one.size))
    share = sweep.compute()["threshold"]
    found = rows(report)
    row = found["boxes", "locloc", "attention:light", "held_out"]
    boxes = [boxes_from_map(wide(one), share)[0] for one in scenes]
    truth = [protocol.boxes(one.boxes, one.size) for one in scenes]
    right = [box_iou(box, known).max() >= .5 for box, known in zip(boxes, truth, strict=True)]
    assert row["threshold"] == f"{share:.3g} of maximum" and row["GT-known Loc"] == pytest.approx(100*np.mean(right))
    mean = np.concatenate([protocol.boxes(one.boxes, one.size) for one in train]).mean(0)
    answers = [box_iou(mean, known).max() >= .5 for known in truth]
    assert found["boxes", "locloc", "mean training box", "train"]["GT-known Loc"] == pytest.approx(100*np.mean(answers))
    said = "scenes, split train: 6 pictures"
    assert report.header["held_out thresholds"] == report.header["mean training box"] == said


def test_pseudo_thresholds_look_at_no_true_box(tmp_path, scenes):
    train, light, protocol = load_dataset("scenes", split="train", count=6), Light(), get_protocol("tscam")
    store = make_masks(train, tmp_path/"masks", progress=False)
    blind = replace(train, samples=Samples(lambda i: replace(train[i], boxes=None, open_mask=None), range(6)))
    report = quiet(scenes, [AttentionMap(light)], "tscam", pseudo=pseudo_truth(blind, store))
    sweep = MaxBoxAcc(inclusive=True)
    for one in train:
        score_map = protocol.score_map(light(protocol.picture(one.picture)[None])[0])
        sweep.update(score_map, protocol.boxes(map_boxes(store.read(one.id)), one.size, True))
    row = rows(report)["boxes", "tscam", "attention:light", "pseudo"]
    assert row["threshold"] == f"{sweep.compute()['threshold']:.3g} of maximum"
    assert report.header["pseudo thresholds"] == "scenes, split train: 6 pictures"


def test_methods_without_a_map_are_not_asked_for_thresholds(scenes):
    light = Light()
    quiet(scenes, [PPD(light, .4)], "tscam", held_out=load_dataset("scenes", split="train", count=6), batch_size=3)
    assert light.calls == 1 + 2 # the first held-out batch, then two batches of the evaluated pictures


def test_errors_add_up(scenes):
    found = rows(quiet(scenes, ["grabcut:lowlevel"], ("wsoleval", "bas")))
    for (table, *_), row in found.items():
        if table == "errors":
            assert sum(value for value in row.values() if isinstance(value, float)) == pytest.approx(100)
    for protocol in ("wsoleval", "bas"):
        right = found["errors", protocol, "grabcut:lowlevel", "fixed"]["right"]
        assert right == found["boxes", protocol, "grabcut:lowlevel", "fixed"]["GT-known Loc"]


def test_pxap_ignores():
    mask, ignore = np.zeros((2, 100, 200), bool)
    mask[:, :100], ignore[:, 100:] = True, True
    pair = [replace(sample(None, mask=mask), open_ignore=lambda: ignore)]
    known = AttentionMap(Known(np.tile(np.repeat([1., .2], 112), (224, 1))))
    found = [row for row in quiet(dataset(pair), [known], (SQUASH,)).rows if "PxAP" in row]
    assert [row["PxAP"] for row in found] == [100]


@pytest.mark.parametrize("iou", [.3, .9])
def test_errors_use_the_protocols_iou(scenes, iou):
    found = rows(quiet(scenes, ["ppd:lowlevel"], (replace(SQUASH, iou=iou),)))
    errors, boxes = (found[table, "squash", "ppd:lowlevel", "fixed"] for table in ("errors", "boxes"))
    assert errors["right"] == boxes["GT-known Loc"]


def test_a_broken_training_picture_costs_one_row_only(scenes):
    def broken(i):
        raise PictureError("train/cat/0.jpg: not a picture")

    train = replace(scenes, name="other", split="train", samples=Samples(broken, range(2)))
    report = quiet(scenes, protocols=("wsoleval", "wsoleval"), train=train)
    assert [row["method"] for row in report.rows if row["table"] == "boxes"] == ["whole picture", "best centred box"]
    assert report.header["mean training box"] == "left out: train/cat/0.jpg: not a picture"


def test_masks_that_show_nothing_have_no_pxap():
    data = dataset([sample(None, mask=np.zeros((100, 200), bool))])
    found = quiet(data, [AttentionMap(Light()), PPD(Light(), .4)], "locloc").rows
    assert not any("PxAP" in row for row in found) and any(row["method"] == "ppd:light" for row in found)


def test_a_trivial_method_has_one_row(scenes):
    found = [row["method"] for row in quiet(scenes, ["whole", "centred"]).rows if row["table"] == "boxes"]
    assert found.count("whole picture") == 1 and "centred box" in found


@pytest.mark.parametrize("options, words", [
    (dict(protocols="cub"), "no protocol"), (dict(protocols=()), "name one"),
    (dict(localizers=["grabcutt"]), "no method"),
    (dict(localizers=["whole", "whole"]), "two methods are called whole picture")])
def test_bad_calls(scenes, options, words):
    with pytest.raises(ValueError, match=words):
        quiet(scenes, **options)


def test_thresholds_of_the_evaluated_split_are_not_held_out(scenes):
    with pytest.raises(ValueError, match="not held out"):
        quiet(scenes, ["attention:lowlevel"], held_out=scenes)


def test_nothing_to_evaluate(scenes):
    with pytest.raises(ValueError, match="no pictures"):
        quiet(scenes.subset([]))


def test_a_run_is_a_method(tmp_path, scenes, model):
    model.save(tmp_path/"run"/"model")
    loaded = load_localizer(tmp_path/"run", threshold=.3)
    found = rows(quiet(scenes, [loaded], "locloc"))
    assert found["boxes", "locloc", str(tmp_path/"run"), "fixed"]["threshold"] == "0.3 of maximum"


def test_a_class_that_a_method_does_not_know_is_not_asked_for():
    method = ByClass()
    method.classes = "a", "b"
    quiet(dataset([sample([[0, 0, 9, 9]]), sample([[0, 0, 9, 9]], label=1)], ("b", "c")), [method], (SQUASH,))
    assert method.asked == [None, ["b", None]]


def test_each_picture_adds_up_to_the_table(scenes, model):
    report = quiet(scenes, [AttentionMap(Light()), PPD(Light(), .35), model], ("wsoleval", "bas"), pictures=0)
    boxes = [row for row in report.rows if row["table"] == "boxes" and row.get("scored") and row["origin"] != "oracle"]
    assert len(boxes) >= 3
    for row in boxes:
        key = row["protocol"], row["method"], row["origin"]
        mine = [one for one in report.each if one[:3] == key]
        least = .5 if row["protocol"] == "wsoleval" else np.nextafter(.5, 1)
        assert len(mine) == row["n"] == len({one.picture for one in mine})
        assert np.isclose(row["GT-known Loc"], 100*np.mean([one.iou >= least for one in mine]))
        assert all(0 <= share <= 1 for one in mine for share in (one.covered, one.inside))
        if "Top-1 Loc" in row:
            assert np.isclose(row["Top-1 Loc"], 100*np.mean([one.rank == 0 and one.own_iou >= least for one in mine]))


def test_each_picture_without_a_place(tmp_path, scenes, linear):
    report = quiet(scenes.subset(2), [PPD(Light(), .35), linear])
    assert [(one.iou is None, one.rank is None) for one in report.each] == [(False, True)]*2 + [(True, False)]*2
    report.save(tmp_path)
    lines = (tmp_path/"pictures.csv").read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith("protocol,method,origin,picture,") and len(lines) == 1 + 4
