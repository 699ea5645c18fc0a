"Every row of a report against the same figure counted literally; what a report says about itself."
import csv
import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from locloc.backbone import load_backbone
from locloc.boxes import box_iou, boxes_from_map, centred_box
from locloc.data import Dataset, PictureError, Protocol, Sample, Samples, get_protocol, load_dataset
from locloc.evaluate import evaluate, mask_iou
from locloc.geg import GEG
from locloc.lfdm import LFDM, LinearHead
from locloc.masks import GrabCutParams, grabcut_mask
from locloc.metrics import MaxBoxAcc, MaxBoxAccV2
from locloc.model import LocLoc, score_maps

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
    def __init__(self, attention): self.attention = attention.astype(np.float32)
    def __call__(self, pictures): return np.stack([self.attention]*len(pictures))


@pytest.fixture(scope="module")
def scenes(): return load_dataset("scenes", split="test", count=5)


@pytest.fixture(scope="module")
def model(scenes):
    torch.manual_seed(0)
    vit = load_backbone("test_vit", weights=False)
    return LocLoc(vit, GEG(vit.embed_dim, 8, 8), LFDM.from_backbone(vit, len(scenes.classes)), scenes.classes)


@pytest.fixture(scope="module")
def linear(model): return LocLoc(model.backbone, model.geg, LinearHead.from_backbone(model.backbone, len(model.classes)), model.classes)


def dataset(samples, classes=("a", "b")):
    return Dataset("made", "test", classes, Samples(lambda s: s, samples), np.array([s.label for s in samples]))


def sample(boxes, size=(100, 200), label=0, mask=None):
    picture = np.random.default_rng(0).integers(0, 255, (*size, 3), dtype=np.uint8)
    return Sample("x", label, size, None if boxes is None else np.array(boxes, float), lambda: picture, None if mask is None else lambda: mask)


def rows(report): return {(r["table"], r["protocol"], r["method"]): r for r in report.rows}


def quiet(*args, **kwargs): return evaluate(*args, **{"progress": False, "pictures": 0, "workers": 2} | kwargs)


def test_every_row_counted_literally(scenes, model, linear):
    light, params = Light(), GrabCutParams(.2, .8, split=.5)
    found = rows(quiet(scenes, model, light, params, .4, (SQUASH, "wsoleval"), linear, batch_size=3))
    inputs, truths, masks = (np.stack([f(s) for s in scenes]) for f in (lambda s: s.picture, lambda s: s.boxes, lambda s: s.mask))
    labels = np.array([s.label for s in scenes])
    with torch.no_grad():
        activation, logits = model(model.backbone.normalize(inputs))
    maps, first = score_maps(activation, (224, 224)), logits.argmax(1).numpy()
    cut = [grabcut_mask(p, a, params) for p, a in zip(inputs, light(inputs))]
    right = lambda boxes: np.array([box_iou(b, t).max() >= .5 for b, t in zip(boxes, truths)])
    geg = right([boxes_from_map(m, .5)[0] for m in maps])
    box = found["boxes", "squash", "GEG"]
    assert box["GT-known Loc"] == pytest.approx(100*geg.mean()) and box["Top-1 Loc"] == pytest.approx(100*(geg & (first == labels)).mean())
    assert found["boxes", "squash", "GrabCut mask"]["GT-known Loc"] == pytest.approx(100*right([boxes_from_map(m, .5)[0] for m in cut]).mean())
    assert found["masks", "squash", "GrabCut mask"]["mean IoU"] == pytest.approx(100*np.mean([mask_iou(a, b) for a, b in zip(cut, masks)]))
    centred = [right([centred_box((224, 224), s/100)]*5).mean() for s in range(1, 101)]
    assert found["boxes", "squash", "best centred box"]["GT-known Loc"] == pytest.approx(100*max(centred))
    assert found["boxes", "squash", "whole picture"]["GT-known Loc"] == pytest.approx(100*centred[-1])
    assert found["classes", "squash", "LFDM"]["Top-1 Cls"] == pytest.approx(100*(first == labels).mean())
    with torch.no_grad():
        other = linear(model.backbone.normalize(inputs))[1].argmax(1).numpy()
    assert found["classes", "squash", "linear head"]["Top-1 Cls"] == pytest.approx(100*(other == labels).mean())
    wsoleval = get_protocol("wsoleval")
    sweep, both = MaxBoxAcc(thresholds=np.arange(0, 1, .001)), MaxBoxAccV2(thresholds=np.arange(0, 1, .001))
    for m, s in zip(activation.squeeze(1).numpy(), scenes):
        for metric in (sweep, both):
            metric.update(wsoleval.score_map(m), wsoleval.boxes(s.boxes, s.size, True))
    assert found["boxes", "wsoleval", "GEG, MaxBoxAcc"]["GT-known Loc"] == pytest.approx(sweep.compute()["MaxBoxAcc"])
    row, found_both = found["boxes", "wsoleval", "GEG, MaxBoxAccV2"], both.compute()
    assert row["MaxBoxAccV2"] == pytest.approx(found_both["MaxBoxAcc"]) and row["MaxBoxAcc at IoU 0.7"] == pytest.approx(found_both["per_iou"][.7])
    assert ("boxes", "squash", "GEG, MaxBoxAcc") not in found


def test_batches_and_threads_do_not_matter(scenes):
    one, many = (quiet(scenes.subset(4), attention="lowlevel", protocols=("wsoleval", "locloc"), batch_size=b, workers=w).rows for b, w in ((1, 1), (3, 3)))
    assert one == many


def test_pictures_open_once_and_shared_inputs_are_seen_once(scenes):
    opened, light = [], Light()
    counted = replace(scenes, samples=Samples(lambda s: replace(s, open=lambda: (opened.append(s.id), s.picture)[1]), [*scenes]))
    quiet(counted, attention=light, protocols=("wsoleval", SQUASH, "locloc", "locloc_first_box"), batch_size=4)
    assert sorted(opened) == [s.id for s in scenes] and light.calls == 2*2


def test_first_box_only_and_several_boxes():
    two = [sample([[0, 0, 20, 10], [0, 0, 200, 100]])]
    every, first = (rows(quiet(dataset(two), protocols=(replace(SQUASH, first_box_only=f),)))["boxes", "squash", "whole picture"]["GT-known Loc"] for f in (False, True))
    assert (every, first) == (100, 0)


def test_box_outside_the_crop_is_a_miss_not_a_skip():
    wide = [sample([[0, 0, 20, 100]], (100, 400))]
    row = rows(quiet(dataset(wide), protocols="locloc"))["boxes", "locloc", "whole picture"]
    assert row["GT-known Loc"] == 0 and row["n"] == 1


def test_the_crop_moves_masks_too():
    mask = np.zeros((100, 200), bool)
    mask[:, 60:140] = True
    report = quiet(dataset([sample(None, mask=mask)]), attention=Known(get_protocol("locloc").mask(mask)), ppd_threshold=.5, protocols="locloc")
    assert rows(report)["masks", "locloc", "PPD mask"]["mean IoU"] == 100


def test_without_boxes_masks_or_known_classes(model):
    report = quiet(dataset([sample(None), sample(None, label=1)]), model)
    assert report.rows == () and "0 with boxes, 0 with masks" in report.to_markdown() and "does not know a, b" in report.to_markdown()


def test_some_without_boxes_are_left_out_of_n():
    row = rows(quiet(dataset([sample(None), sample([[0, 0, 200, 100]])]), protocols=(SQUASH,)))["boxes", "squash", "whole picture"]
    assert row["n"] == 1 and row["GT-known Loc"] == 100


def test_a_class_order_of_its_own(scenes, model):
    turned = LocLoc(model.backbone, model.geg, model.lfdm, model.classes[::-1])
    logits = model(model.backbone.normalize(np.stack([s.picture for s in scenes])))[1]
    wanted = np.mean([len(model.classes) - 1 - int(row.argmax()) == s.label for row, s in zip(logits, scenes)])
    assert rows(quiet(scenes, turned))["classes", "wsoleval", "LFDM"]["Top-1 Cls"] == pytest.approx(100*wanted)
    with pytest.raises(ValueError, match="another order"):
        quiet(scenes, model, linear=LocLoc(model.backbone, None, LinearHead.from_backbone(model.backbone, 8), model.classes[::-1]))


def test_the_report_says_what_it_was_made_with(tmp_path, scenes, model):
    light = Light()
    report = quiet(scenes, model, light, protocols=("wsoleval", "locloc"), folder=tmp_path, pictures=2, command="`locloc evaluate`")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["curves.png", "extremes.png", "figure.png", "ious.png", "report.csv", "report.json", "report.md"]
    text, saved = (tmp_path/"report.md").read_text(encoding="utf-8"), json.loads((tmp_path/"report.json").read_text(encoding="utf-8"))
    for part in ("split test", "5 pictures of 8 classes", "light (version 3)", "δ0 0.02, δ1 0.75", model.backbone.weights_hash, "`locloc evaluate`", "| oracle", "| fixed", "(figure.png)"):
        assert part in text, part
    assert saved["rows"] == list(report.rows) and saved["settings"]["params"]["delta1"] == .75 and saved["settings"]["model"]["weights_hash"] == model.backbone.weights_hash
    origins = {r["method"]: r["origin"] for r in saved["rows"] if r["table"] == "boxes"}
    assert origins == {"whole picture": "", "best centred box": "oracle", "PPD mask": "fixed", "GrabCut mask": "fixed", "GEG": "fixed", "attention": "fixed", **{f"{m}, {kind}": "oracle" for m in ("attention", "GEG") for kind in ("MaxBoxAcc", "MaxBoxAccV2")}}
    lines = list(csv.DictReader((tmp_path/"report.csv").open(encoding="utf-8")))
    assert {(r["method"], r["figure"]) for r in lines} >= {("GEG", "GT-known Loc"), ("LFDM", "Top-1 Cls"), ("GEG", "part"), ("GEG, PxAP", "PxAP")}
    for row in saved["rows"]:
        for name, (low, high) in row.get("intervals", {}).items():
            assert 0 <= low <= row[name] <= high <= 100
    assert (tmp_path/"figure.png").read_bytes()[:4] == b"\x89PNG"


def test_failed_save_leaves_the_old_report(tmp_path, scenes):
    report = quiet(scenes.subset([0]), folder=tmp_path)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    with pytest.raises(TypeError):
        replace(report, header={"title": object()}).save(tmp_path)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_held_out_threshold_and_mean_box_come_from_elsewhere(scenes):
    train, protocol = load_dataset("scenes", split="train", count=6), get_protocol("locloc")
    report = quiet(scenes, attention=(light := Light()), protocols="locloc", train=train, held_out=train)
    sweep = MaxBoxAcc(inclusive=False)
    for s in train:
        sweep.update(protocol.score_map(light(protocol.picture(s.picture)[None])[0]), protocol.boxes(s.boxes, s.size))
    share, mean = sweep.compute()["threshold"], np.concatenate([protocol.boxes(s.boxes, s.size) for s in train]).mean(0)
    found = rows(report)
    row = found["boxes", "locloc", "attention, held-out threshold"]
    right = [box_iou(boxes_from_map(protocol.score_map(light(protocol.picture(s.picture)[None])[0]), share)[0], protocol.boxes(s.boxes, s.size)).max() >= .5 for s in scenes]
    assert (row["threshold"], row["origin"]) == (f"{share:.3g} of maximum", "held_out") and row["GT-known Loc"] == pytest.approx(100*np.mean(right))
    answers = [box_iou(mean, protocol.boxes(s.boxes, s.size)).max() >= .5 for s in scenes]
    assert found["boxes", "locloc", "mean training box"]["GT-known Loc"] == pytest.approx(100*np.mean(answers))
    assert report.header["held-out thresholds"] == report.header["mean training box"] == "scenes, split train: 6 pictures"


def test_errors_add_up_and_pxap_ignores(scenes):
    found = rows(quiet(scenes, attention="lowlevel", protocols=("wsoleval", "bas")))
    for (table, _, method), row in found.items():
        if table == "errors":
            assert sum(v for v in row.values() if isinstance(v, float)) == pytest.approx(100)
    for protocol in ("wsoleval", "bas"):
        assert found["errors", protocol, "GrabCut mask"]["right"] == found["boxes", protocol, "GrabCut mask"]["GT-known Loc"]
    mask, ignore = np.zeros((2, 100, 200), bool)
    mask[:, :100], ignore[:, 100:] = True, True
    pair = [replace(sample(None, mask=mask), open_ignore=lambda: ignore)]
    known = Known(np.tile(np.repeat([1., .2], 112), (224, 1)))
    assert rows(quiet(dataset(pair), attention=known, protocols=(SQUASH,)))["masks", "squash", "attention, PxAP"]["PxAP"] == 100


def test_errors_use_the_protocols_iou(scenes):
    for iou in (.3, .9):
        found = rows(quiet(scenes, attention="lowlevel", protocols=(replace(SQUASH, iou=iou),)))
        assert found["errors", "squash", "PPD mask"]["right"] == found["boxes", "squash", "PPD mask"]["GT-known Loc"]


def test_a_broken_training_picture_costs_one_row_only(scenes):
    def broken(): raise PictureError("train/cat/0.jpg: not a picture")
    train = replace(scenes, name="other", split="train", samples=Samples(lambda i: broken(), range(2)))
    report = quiet(scenes, protocols=("wsoleval", "wsoleval"), train=train)
    assert [r["method"] for r in report.rows if r["table"] == "boxes"] == ["whole picture", "best centred box"]
    assert report.header["mean training box"] == "left out: train/cat/0.jpg: not a picture"


def test_masks_that_show_nothing_have_no_pxap():
    report = quiet(dataset([sample(None, mask=np.zeros((100, 200), bool))]), attention=Light(), protocols="locloc")
    assert ("masks", "locloc", "attention, PxAP") not in rows(report) and ("masks", "locloc", "PPD mask") in rows(report)


def test_bad_calls(scenes):
    with pytest.raises(ValueError, match="no pictures"):
        quiet(scenes.subset([]))
    with pytest.raises(ValueError, match="no protocol"):
        quiet(scenes, protocols="cub")
    with pytest.raises(ValueError, match="name one"):
        quiet(scenes, protocols=())
    with pytest.raises(ValueError, match="not held out"):
        quiet(scenes, attention=Light(), held_out=scenes)
