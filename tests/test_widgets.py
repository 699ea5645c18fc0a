"Every control by its value or its click, without a browser; extreme settings, pictures and data sets"
import asyncio
import json
import tracemalloc

import cv2
import numpy as np
import pytest

from locloc.attention import CLSAttention
from locloc.backbone import load_backbone
from locloc.data import load_dataset
from locloc.masks import PPD_THRESHOLDS, PRESETS, GrabCutParams, make_masks
from locloc.model import Prediction
from locloc.widgets import MaskBrowser, PredictionBrowser, SweepPanel, ThresholdTuner, tuning_page
from locloc.workbench import PANELS, as_dataset, explain

SCENES = load_dataset("scenes", split="test", count=6)


@pytest.fixture
def tuner(): return ThresholdTuner(SCENES)


def seen(tuner): return {name: image.value for name, image in tuner.panels.images.items()}
def words(tuner): return " ".join(w.value for w in tuner.panels.words.values())
def alive(tuner):
    "The next ordinary setting gives six pictures and no error"
    tuner.params = GrabCutParams(.1, .6, .4)
    return all(len(v) > 500 for v in seen(tuner).values()) and "></div>" in tuner.status.value


@pytest.mark.parametrize("name, value, changed", [
    ("deltas", (.2, .45), {"trimap", "grabcut", "difference"}),
    ("delta0", .3, {"trimap"}),
    ("delta1", .4, {"trimap"}),
    ("splitting", False, {"trimap", "grabcut"}),
    ("split", .6, {"trimap"}),
    ("rounds", 4, set()),
    ("ppd", .7, {"ppd", "difference"}),
    ("source", "locloc-tiny", {"attention", "trimap", "ppd"}),
])
def test_every_control_reaches_the_panels_that_depend_on_it(tuner, name, value, changed):
    before = seen(tuner)
    tuner.controls.controls[name].value = value
    after = seen(tuner)
    assert changed <= {n for n in PANELS if before[n] != after[n]} and "></div>" in tuner.status.value
    setting, params = tuner.setting, tuner.params
    told = dict(deltas=(params.delta0, params.delta1), delta0=params.delta0, delta1=params.delta1, splitting=params.split is not None, split=params.split,
        rounds=params.iterations, ppd=setting.ppd, source=setting.source)
    assert told[name] == value


def test_layers_and_heads(tuner):
    c = tuner.controls.controls
    assert c["layers"].disabled and c["heads"].disabled and "no layers" in tuner.controls.note.value
    c["source"].value = "locloc-tiny"
    assert not c["layers"].disabled and c["layers"].value == (3,) and len(c["heads"].options) == 6
    before, made = seen(tuner), tuner.bench.rows.made
    c["layers"].value = (0, 1)
    c["heads"].value = (2,)
    assert tuner.setting.layers == (0, 1) and tuner.setting.heads == (2,) and seen(tuner)["attention"] != before["attention"]
    assert tuner.bench.rows.made == made, "another choice of layers needs no second pass"
    assert np.allclose(tuner.source(tuner.bench.view(0).picture[None])[0], tuner.bench.attention(0, tuner.setting), atol=1e-6)
    c["layers"].value = ()
    c["heads"].value = ()
    assert tuner.setting.layers is None and seen(tuner) == before


@pytest.mark.parametrize("name", PRESETS)
def test_presets(tuner, name):
    tuner.controls.presets[name].click()
    assert tuner.params == PRESETS[name] and tuner.setting.ppd == PPD_THRESHOLDS[name]
    assert tuner.controls.controls["deltas"].value == (PRESETS[name].delta0, PRESETS[name].delta1)


def test_a_number_beyond_the_other_takes_it_along(tuner):
    tuner.controls.controls["delta0"].value = .9
    assert (tuner.params.delta0, tuner.params.delta1) == (.9, .9)
    tuner.controls.controls["delta1"].value = .2
    assert (tuner.params.delta0, tuner.params.delta1) == (.2, .2) and alive(tuner)


@pytest.mark.parametrize("d0, d1", [(0, 0), (1, 1), (0, 1), (.5, .5), (.999, 1)])
@pytest.mark.parametrize("split", [None, 0., 1.])
def test_extreme_settings_are_explained(tuner, d0, d1, split):
    tuner.params = GrabCutParams(d0, d1, split)
    cut = tuner.bench.cut(0, tuner.setting)
    assert all(len(v) > 500 for v in seen(tuner).values())
    start = cut.marks & 1
    if not start.any() or start.all() or cut.marks.max() < 2:
        assert explain(cut.marks)[:20] in tuner.status.value and explain(cut.marks)
    assert alive(tuner)


def test_paging(tuner):
    p = tuner.picker
    first = seen(tuner)
    p.next.click()
    second = seen(tuner)
    assert tuner.index == 1 and second != first and p.slider.value == 2
    p.previous.click()
    p.previous.click()
    assert tuner.index == 0 and seen(tuner) == first
    p.slider.value = 6
    assert tuner.index == 5
    p.next.click()
    assert tuner.index == 5
    p.jump.value = SCENES[2].id
    assert tuner.index == 2 and SCENES[2].id in words(tuner)
    p.jump.value = "nobody"
    assert tuner.index == 2 and "nobody" in tuner.status.value
    p.jump.value = "4"
    assert tuner.index == 3
    tuner.go(4)
    assert tuner.index == 4 and p.slider.value == 5


def test_save_and_load(tuner, tmp_path):
    name, save, load = tuner.files.children
    name.value = str(tmp_path/"params.json")
    tuner.params = wanted = GrabCutParams(.07, .66, .31, 3)
    save.click()
    assert GrabCutParams.from_json((tmp_path/"params.json").read_text()) == wanted and "locloc masks" in tuner.status.value
    tuner.params = GrabCutParams()
    load.click()
    assert tuner.params == wanted and tuner.controls.controls["rounds"].value == 3
    for text in ("{", "[1]", '{"delta0": 2}', '{"delta": .2}'):
        (tmp_path/"params.json").write_text(text)
        load.click()
        assert "params.json" in tuner.status.value and "⚠" in tuner.status.value and tuner.params == wanted
    name.value = str(tmp_path/"nowhere"/"params.json")
    load.click()
    assert "nowhere" in tuner.status.value
    save.click()
    assert "nowhere" in tuner.status.value and alive(tuner)


def test_a_source_that_cannot_be_had(tmp_path):
    tuner = ThresholdTuner(SCENES)
    tuner.bench.sources.names.append("dino_vits16")
    tuner.controls.controls["source"].options = tuner.bench.sources.names
    tuner.controls.controls["source"].value = "dino_vits16"
    assert "weights" in tuner.status.value and tuner.setting.source == "lowlevel" and tuner.controls.controls["source"].value == "lowlevel" and alive(tuner)


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 500, 3), (300, 2, 3), (3, 5)])
def test_odd_pictures(shape):
    tuner = ThresholdTuner([np.full(shape, 120, np.uint8)])
    assert all(len(v) > 300 for v in seen(tuner).values()) and f"{shape[1]} × {shape[0]} px" in words(tuner)
    for params in ((0, 0), (1, 1), (.2, .5)):
        tuner.params = GrabCutParams(*params)
        assert all(len(v) > 300 for v in seen(tuner).values())


def test_pictures_that_cannot_be_read(tmp_path):
    (tmp_path/"a.jpg").write_bytes(b"no picture")
    (tmp_path/"c.png").write_bytes(b"")
    cv2.imwrite(str(tmp_path/"b.png"), SCENES[0].picture[..., ::-1])
    tuner = ThresholdTuner(tmp_path)
    assert "a.jpg" in tuner.status.value and set(words(tuner).split()) == {"–"}
    tuner.controls.controls["ppd"].value = .6
    assert "a.jpg" in tuner.status.value
    tuner.picker.next.click()
    assert alive(tuner) and "b.png" in words(tuner)
    tuner.picker.next.click()
    assert "c.png" in tuner.status.value
    tuner.picker.previous.click()
    assert alive(tuner)


def test_no_pictures(tmp_path):
    for nothing in ([], tmp_path):
        tuner = ThresholdTuner(nothing)
        assert "no pictures" in tuner.status.value and tuner.picker.next.disabled
        tuner.controls.controls["deltas"].value = (.3, .4)
        tuner.picker.next.click()
        tuner.go(7)
        assert tuner.params.delta0 == .3 and "no pictures" in tuner.status.value
        panel = SweepPanel(tuner)
        panel.runner.run()
        assert "no pictures" in panel.status.value and not panel.runner.start.disabled
        assert "no pictures" in PredictionBrowser(Guess(), as_dataset([])).status.value


def test_attention_once_a_picture_and_flat_memory():
    tuner = ThresholdTuner(load_dataset("scenes", count=200))
    tuner.params = GrabCutParams(.9, .9) # nothing for GrabCut to do: it is paging that is measured
    tuner.go(9)
    tracemalloc.start()
    try:
        for i in (*range(10, 110), 109):
            tuner.go(i)
        half = tracemalloc.get_traced_memory()[0]
        for i in range(110, 200):
            tuner.go(i)
        grown = tracemalloc.get_traced_memory()[0] - half
    finally:
        tracemalloc.stop()
    for i in (3, 50, 199):
        tuner.go(i)
    a_map = 112 * 112 * 4 # bytes; these alone are kept
    assert tuner.bench.rows.made == 193 and grown - 90 * a_map < 1e6, f"{grown / 1e6:.2f} MB"
    assert tuner.bench.rows.nbytes == 193 * a_map


def test_dragging_shows_fast_frames_and_drops_stale_work():
    async def drag():
        tuner = ThresholdTuner(SCENES, size=448)
        cuts, show = [], tuner.panels.show
        tuner.panels.show = lambda cut: (cuts.append(cut), show(cut))
        for d1 in (.5, .55, .6, .65):
            tuner.controls.controls["deltas"].value = (.1, d1)
            await asyncio.sleep(.01)
        assert "≈" in words(tuner)
        while not (cuts and cuts[-1].exact):
            await asyncio.sleep(.02)
        return cuts, words(tuner)
    cuts, told = asyncio.run(asyncio.wait_for(drag(), 20))
    assert [cut.exact for cut in cuts] == [False] * 4 + [True] and cuts[-1].setting.params.delta1 == .65 and "≈" not in told


def test_small_views_are_exact_at_once():
    async def drag():
        tuner = ThresholdTuner(SCENES)
        tuner.settler.work = None # not asked
        tuner.controls.controls["deltas"].value = (.1, .6)
        shown = tuner.panels.images["grabcut"].value
        await asyncio.sleep(.3)
        return tuner, shown
    tuner, shown = asyncio.run(drag())
    assert "≈" not in words(tuner) and tuner.panels.images["grabcut"].value == shown and not tuner.status.value.count("⚠")
    tuner.settle()
    assert tuner.panels.images["grabcut"].value == shown


def test_a_failure_while_settling_is_told():
    async def fail():
        tuner = ThresholdTuner(SCENES, size=448)
        def broken(*args): raise RuntimeError("out of luck")
        tuner.settler.work, tuner.settler.pause = broken, .01
        tuner.controls.controls["ppd"].value = .2
        await asyncio.sleep(.2)
        return tuner.status.value
    assert "out of luck" in asyncio.run(fail())


def test_sweep_panel(tuner):
    panel = SweepPanel(tuner, workers=2)
    c = panel.controls
    c["count"].value, c["delta0"].value, c["delta1"].value = 3, "0.05, .3", ".2 .5 .8"
    panel.runner.start.click()
    assert panel.runner.words.value == "3 of 3" and panel.table.values.shape[:3] == (3, 2, 3) and panel.curves.value[:4] == b"\x89PNG"
    made = tuner.bench.sweeps.made
    c["count"].value = 5
    panel.runner.start.click()
    assert tuner.bench.sweeps.made == made + 2, "pictures that were swept are not swept again"
    c["measure"].value = "area"
    buttons = [b for b in panel.heat.children[0].children if hasattr(b, "click")]
    assert len(buttons) == 5 # δ0 .3 has no δ1 .2
    buttons[1].click()
    assert (tuner.params.delta0, tuner.params.delta1) == (.05, .5) and "area" in buttons[1].tooltip
    assert "Spearman" in panel.worth.value
    for wrong in ("", "a b", "2", ".9 1"):
        c["delta0"].value = wrong
        panel.runner.start.click()
        assert "⚠" in panel.status.value and not panel.runner.start.disabled


def test_sweep_without_truth_and_with_a_broken_file(tmp_path):
    (tmp_path/"a.jpg").write_bytes(b"no picture")
    cv2.imwrite(str(tmp_path/"b.png"), SCENES[0].picture[..., ::-1])
    panel = SweepPanel(ThresholdTuner(tmp_path), workers=1)
    panel.controls["delta0"].value, panel.controls["delta1"].value = ".1 .2", ".4 .6"
    panel.runner.run()
    assert "a.jpg" in panel.status.value and "can't be checked" in panel.worth.value and "stability" in panel.worth.value
    assert panel.table.measures() == ["area", "disagreement", "stability", "edge contrast", "attention agreement", "separation"]


def test_sweep_in_the_background_can_be_stopped(tuner):
    async def go():
        panel = SweepPanel(tuner, workers=1)
        panel.controls["count"].value, panel.controls["delta0"].value, panel.controls["delta1"].value = 6, ".1", ".4 .6"
        panel.runner.start.click()
        assert panel.runner.start.disabled and not panel.runner.stop.disabled
        while panel.runner.bar.value < 2:
            await asyncio.sleep(.01)
        panel.runner.stop.click()
        await panel.runner.task
        return panel
    panel = asyncio.run(asyncio.wait_for(go(), 30))
    assert "stopped" in panel.runner.words.value and 2 <= len(panel.table.values) < 6 and not panel.runner.start.disabled


def test_mask_browser(tmp_path):
    store = make_masks(SCENES.subset(range(4)), tmp_path/"store", progress=False)
    browser = MaskBrowser(store, SCENES)
    gallery = browser.gallery
    assert len(gallery.rows) == 4 and gallery.rows[0].disagreement == max(r.disagreement for r in gallery.rows)
    for order, key in (("area, largest first", lambda r: -r.area), ("area, smallest first", lambda r: r.area), ("IoU, lowest first", lambda r: r.iou), ("name", lambda r: r.id)):
        browser.order.value = order
        assert gallery.rows == sorted(gallery.rows, key=key)
    gallery.cells[2].children[1].click()
    assert browser.tuner.index == gallery.rows[2].index and browser.tuner in browser.below.children
    assert [cell.layout.display for cell in gallery.cells[3:5]] == [None, "none"]
    (store.folder/"test"/"00001.png").write_bytes(b"damaged")
    browser.runner.start.click()
    assert len(gallery.rows) == 3 and "damaged" in browser.status.value
    assert "no mask" in MaskBrowser(store, as_dataset([SCENES[0].picture])).status.value


def test_gallery_pages(tmp_path):
    gallery = PredictionBrowser(Guess(), load_dataset("scenes", count=15)).gallery
    assert gallery.where.value == "1 to 12 of 15" and gallery.previous.disabled
    gallery.next.click()
    assert gallery.where.value == "13 to 15 of 15" and gallery.next.disabled
    gallery.previous.click()
    assert gallery.where.value == "1 to 12 of 15"


class Guess:
    "The middle of the picture; every class is the first"
    classes = SCENES.classes
    def predict(self, picture):
        h, w = picture.shape[:2]
        return Prediction(self.classes[0], .5, np.array([w / 4, h / 4, w * .75, h * .75]), np.ones((8, 8), np.float32), ((self.classes[0], .5),))


def test_prediction_browser(tuner):
    browser = PredictionBrowser(Guess(), SCENES, tuner)
    rows = browser.gallery.rows
    assert len(rows) == 6 and [r.class_right for r in rows] == [i % 8 == 0 for i in range(6)]
    for chooser, value, keep in ((browser.kind, "right", lambda r: r.class_right), (browser.kind, "wrong", lambda r: not r.class_right),
        (browser.box, "right", lambda r: r.iou >= .5), (browser.box, "wrong", lambda r: r.iou < .5), (browser.error, "part", lambda r: r.error == "part")):
        chooser.value = value
        assert browser.gallery.rows == [r for r in rows if keep(r)]
        chooser.value = "all"
    browser.gallery.cells[3].children[1].click()
    assert tuner.index == 3 and rows[3].id in browser.status.value


def test_what_is_shown_is_what_is_made(tmp_path):
    tuner = ThresholdTuner(SCENES)
    tuner.params = params = GrabCutParams(.07, .6, .35)
    store = make_masks(SCENES.subset([2]), tmp_path/"store", tuner.source, params, progress=False)
    assert np.array_equal(store.read(SCENES[2].id), tuner.bench.cut(2, tuner.setting).grabcut)


def test_page_of_all():
    tabs = tuning_page(SCENES, params=GrabCutParams(.1, .5))
    assert [tabs.get_title(i) for i in range(2)] == ["Tuner", "Sweep"] and tabs.children[0].params.delta1 == .5
    assert json.loads(tabs.children[0].params.to_json())["delta0"] == .1


def test_any_backbone_can_be_the_source():
    vit = load_backbone("test_vit", weights=False)
    for source in (vit, CLSAttention(vit, layers=(0,))):
        tuner = ThresholdTuner(SCENES, source, params=GrabCutParams(.2, .6))
        assert tuner.setting.source == "test_vit" and tuner.controls.controls["layers"].options == tuple(range(vit.depth)) and alive(tuner)
    assert tuner.controls.controls["layers"].value == (0,) and tuner.source.layers == (0,)
    tuner.controls.controls["heads"].value = (1,)
    assert np.allclose(tuner.source(tuner.bench.view(0).picture[None])[0], tuner.bench.attention(0, tuner.setting), atol=1e-5)


def test_sweep_of_a_single_setting(tuner):
    panel = SweepPanel(tuner, workers=1)
    panel.controls["count"].value, panel.controls["delta0"].value, panel.controls["delta1"].value = 2, ".1", ".6"
    panel.runner.run()
    assert "⚠" not in panel.status.value and "stability" not in panel.table.measures() and len(panel.curves.value) > 1000
