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
from locloc.localization import Localization
from locloc.masks import GrabCutParams, preset, preset_names
from locloc.stores import make_masks
from locloc.sweeps import kept_sweeps
from locloc.widgets import MaskBrowser, PredictionBrowser, SweepPanel, ThresholdTuner, browsing_page, tuning_page
from locloc.workbench import PANELS, as_dataset, explain

SCENES = load_dataset("scenes", split="test", count=6)


@pytest.fixture
def tuner():
    return ThresholdTuner(SCENES)


def views(tuner):
    "Of the present setting"
    return {view["name"]: view for view in tuner.panels.columns[0]["views"]} if tuner.panels.columns else {}


def seen(tuner):
    return {name: view["image"] for name, view in views(tuner).items()}


def words(tuner):
    return " ".join(view["words"] for view in views(tuner).values())


def says_nothing(status):
    return "></div>" in status.value


def warns(status):
    return "⚠" in status.value


def alive(tuner):
    "The next ordinary setting gives six pictures and no error"
    tuner.params = GrabCutParams(.1, .6, .4)
    pictures = seen(tuner).values()
    return len(pictures) == 6 and all(len(one) > 500 for one in pictures) and says_nothing(tuner.status)


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
    getattr(tuner.controls, name).value = value
    after = seen(tuner)
    assert changed <= {panel for panel in PANELS if before[panel] != after[panel]}
    assert says_nothing(tuner.status)
    setting, params = tuner.setting, tuner.params
    told = dict(
        deltas=(params.delta0, params.delta1), delta0=params.delta0, delta1=params.delta1,
        splitting=params.split is not None, split=params.split, rounds=params.iterations,
        ppd=setting.ppd, source=setting.source)
    assert told[name] == value


def test_a_source_without_layers_has_none_to_choose(tuner):
    controls = tuner.controls
    assert controls.layers.disabled and controls.heads.disabled
    assert "no layers" in controls.note.value


def test_layers_and_heads(tuner):
    controls = tuner.controls
    controls.source.value = "locloc-tiny"
    assert not controls.layers.disabled
    assert controls.layers.value == (2,)
    assert len(controls.heads.options) == 6
    before, made = seen(tuner), tuner.bench.rows.made
    controls.layers.value = (0, 1)
    controls.heads.value = (2,)
    assert tuner.setting.layers == (0, 1) and tuner.setting.heads == (2,)
    assert seen(tuner)["attention"] != before["attention"]
    assert tuner.bench.rows.made == made, "another choice of layers needs no second pass"
    attention = tuner.source(tuner.bench.view(0).picture[None])[0]
    assert np.allclose(attention, tuner.bench.attention(0, tuner.setting), atol=1e-6)
    controls.layers.value = ()
    controls.heads.value = ()
    assert tuner.setting.layers is None
    assert seen(tuner) == before


@pytest.mark.parametrize("name", preset_names())
def test_presets(tuner, name):
    tuner.controls.presets[name].click()
    wanted = preset(name)
    assert tuner.params == wanted.params and tuner.setting.ppd == wanted.ppd
    assert tuner.controls.deltas.value == (wanted.params.delta0, wanted.params.delta1)


def test_a_number_beyond_the_other_takes_it_along(tuner):
    tuner.controls.delta0.value = .9
    assert (tuner.params.delta0, tuner.params.delta1) == (.9, .9)
    tuner.controls.delta1.value = .2
    assert (tuner.params.delta0, tuner.params.delta1) == (.2, .2)
    assert alive(tuner)


@pytest.mark.parametrize("d0, d1", [(0, 0), (1, 1), (0, 1), (.5, .5), (.999, 1)])
@pytest.mark.parametrize("split", [None, 0., 1.])
def test_extreme_settings_are_explained(tuner, d0, d1, split):
    tuner.params = GrabCutParams(d0, d1, split)
    marks = tuner.bench.cut(0, tuner.setting).marks
    assert all(len(picture) > 500 for picture in seen(tuner).values())
    start = marks & 1
    if not start.any() or start.all() or marks.max() < 2:
        assert explain(marks)
        assert explain(marks)[:20] in tuner.status.value
    assert alive(tuner)


def test_next_and_previous(tuner):
    picker, first = tuner.picker, seen(tuner)
    picker.next.click()
    assert tuner.index == 1 and picker.slider.value == 2
    assert seen(tuner) != first
    picker.previous.click()
    picker.previous.click()
    assert tuner.index == 0
    assert seen(tuner) == first


def test_the_last_picture_has_no_next(tuner):
    tuner.picker.slider.value = 6
    assert tuner.index == 5
    tuner.picker.next.click()
    assert tuner.index == 5


def test_jump_to_a_name_or_a_number(tuner):
    jump = tuner.picker.jump
    jump.value = SCENES[2].id
    assert tuner.index == 2
    assert SCENES[2].id in words(tuner)
    jump.value = "nobody"
    assert tuner.index == 2
    assert "nobody" in tuner.status.value
    jump.value = "4"
    assert tuner.index == 3


def test_go(tuner):
    tuner.go(4)
    assert tuner.index == 4 and tuner.picker.slider.value == 5


def test_save_and_load(tuner, tmp_path):
    name, save, load, _ = tuner.files.children
    file = tmp_path/"params.json"
    name.value = str(file)
    tuner.params = wanted = GrabCutParams(.07, .66, .31, 3)
    save.click()
    assert GrabCutParams.from_json(file.read_text()) == wanted
    assert "saved" in tuner.status.value and str(file) in tuner.command.value
    tuner.params = GrabCutParams()
    load.click()
    assert tuner.params == wanted and tuner.controls.rounds.value == 3


@pytest.mark.parametrize("text", ["{", "[1]", '{"delta0": 2}', '{"delta": .2}'])
def test_load_of_something_else(tuner, tmp_path, text):
    name, _, load, _ = tuner.files.children
    name.value = str(tmp_path/"params.json")
    (tmp_path/"params.json").write_text(text)
    before = tuner.params
    load.click()
    assert "params.json" in tuner.status.value and warns(tuner.status)
    assert tuner.params == before


@pytest.mark.parametrize("which", [1, 2])
def test_save_and_load_where_there_is_no_folder(tuner, tmp_path, which):
    tuner.files.children[0].value = str(tmp_path/"nowhere"/"params.json")
    tuner.files.children[which].click()
    assert "nowhere" in tuner.status.value
    assert alive(tuner)


def test_a_source_that_cannot_be_had(tuner):
    tuner.bench.sources.names.append("dino_vits16")
    source = tuner.controls.source
    source.options = tuner.bench.sources.names
    source.value = "dino_vits16"
    assert "weights" in tuner.status.value
    assert tuner.setting.source == "lowlevel" and source.value == "lowlevel"
    assert alive(tuner)


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 500, 3), (300, 2, 3), (3, 5)])
def test_odd_pictures(shape):
    tuner = ThresholdTuner([np.full(shape, 120, np.uint8)])
    assert all(len(picture) > 300 for picture in seen(tuner).values())
    assert f"{shape[1]} × {shape[0]} px" in words(tuner)
    for params in ((0, 0), (1, 1), (.2, .5)):
        tuner.params = GrabCutParams(*params)
        assert all(len(picture) > 300 for picture in seen(tuner).values())


def test_pictures_that_cannot_be_read(tmp_path):
    (tmp_path/"a.jpg").write_bytes(b"no picture")
    (tmp_path/"c.png").write_bytes(b"")
    cv2.imwrite(str(tmp_path/"b.png"), SCENES[0].picture[..., ::-1])
    tuner = ThresholdTuner(tmp_path)
    assert "a.jpg" in tuner.status.value
    assert not words(tuner)
    tuner.controls.ppd.value = .6
    assert "a.jpg" in tuner.status.value
    tuner.picker.next.click()
    assert alive(tuner) and "b.png" in words(tuner)
    tuner.picker.next.click()
    assert "c.png" in tuner.status.value
    tuner.picker.previous.click()
    assert alive(tuner)


@pytest.mark.parametrize("kind", ["list", "folder"])
def test_no_pictures(tmp_path, kind):
    tuner = ThresholdTuner([] if kind == "list" else tmp_path)
    assert "no pictures" in tuner.status.value
    assert tuner.picker.next.disabled
    tuner.controls.deltas.value = (.3, .4)
    tuner.picker.next.click()
    tuner.go(7)
    assert tuner.params.delta0 == .3
    assert "no pictures" in tuner.status.value


def png(picture):
    return cv2.imencode(".png", picture[..., ::-1])[1].tobytes()


def drop(tuner, *files):
    "As the browser does: name and bytes of each"
    for left, (name, data) in zip(range(len(files))[::-1], files, strict=True):
        piece = dict(name=name, size=len(data), left=left, start=0, unreadable=False)
        tuner.panels._handle_custom_msg(dict(kind="files", piece=piece), [data])


def test_a_dropped_picture_joins_the_others_and_is_shown(tuner):
    drop(tuner, ("a.png", png(SCENES[2].picture)), ("a.png", png(np.full((40, 60, 3), 90, np.uint8))))
    assert tuner.index == 7 and tuner.picker.where.value == "8 of 8" and tuner.picker.slider.max == 8
    assert "a.png (dropped 2)" in words(tuner) and "60 × 40 px" in words(tuner) and not warns(tuner.status)
    assert "lies in no folder" in tuner.about.value and tuner.command.value.startswith("locloc masks --data scenes")
    assert tuner.chosen.count <= 6 and len(tuner.bench) == 6, "it is not of the data set"
    tuner.picker.jump.value = "a.png (dropped)"
    assert tuner.index == 6
    assert (tuner.bench.view(6).picture == tuner.bench.view(2).picture).all()
    tuner.go(0)
    assert "lies in no folder" not in tuner.about.value and SCENES[0].id in words(tuner)


def test_what_is_dropped_and_is_no_picture_is_told_beside_those_that_are(tuner):
    drop(tuner, ("notes.txt", b"no picture"), ("a.png", png(SCENES[2].picture)), ("cut.png", b"\x89PNG\r\n\x1a\n"))
    assert tuner.index == 6 and "a.png (dropped)" in words(tuner)
    assert "notes.txt: not a picture but text" in tuner.status.value and "cut.png: " in tuner.status.value
    assert warns(tuner.status) and "<br" not in tuner.status.value
    drop(tuner, ("b.txt", b"no picture"))
    assert tuner.index == 6 and len(seen(tuner)) == 6 and "b.txt" in tuner.status.value
    assert alive(tuner)


def test_a_picture_can_be_dropped_where_there_are_none(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    tuner = ThresholdTuner([])
    assert "drop a picture" in tuner.status.value
    drop(tuner, ("a.png", png(SCENES[2].picture)))
    assert tuner.picker.where.value == "1 of 1" and alive(tuner)
    assert tuner.command.value == "" and "lies in no folder" in tuner.about.value


def test_strokes_on_a_dropped_picture_stay_in_memory_and_are_undone(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    tuner = ThresholdTuner(SCENES)
    drop(tuner, ("a.png", png(SCENES[2].picture)))
    before = seen(tuner)
    stroke = dict(kind="background", size=.2, points=[[.5, .5]])
    tuner.panels._handle_custom_msg(dict(kind="stroke", stroke=stroke | dict(done=True)), [])
    assert seen(tuner)["trimap"] != before["trimap"] and tuner.panels.strokes == [stroke]
    assert "while this page is open" in tuner.brush.words.value and "--corrections" not in tuner.command.value
    drop(tuner, ("a.png", png(SCENES[2].picture)))
    assert tuner.panels.strokes == [], "another picture of that name"
    tuner.go(6)
    tuner.history.undo()
    assert seen(tuner) == before and tuner.panels.strokes == []
    assert not list(tmp_path.iterdir())


def test_the_panels_say_that_they_are_busy_until_the_frame_is_exact():
    async def drag():
        tuner = ThresholdTuner(SCENES, size=448)
        told = [tuner.panels.busy]
        tuner.panels.observe(lambda change: told.append(change.new), "busy")
        tuner.controls.deltas.value = (.1, .6)
        assert tuner.panels.busy and "≈" in words(tuner)
        await until(lambda: not tuner.panels.busy)
        assert "≈" not in words(tuner)
        return told
    assert in_a_kernel(drag) == [False, True, False]


def test_the_panels_are_busy_while_a_source_is_loaded(tuner, monkeypatch):
    told = []
    monkeypatch.setattr(tuner.bench.sources, "_load", lambda name: told.append(tuner.panels.busy))
    tuner.controls.source.value = "locloc-tiny"
    assert told == [True] and not tuner.panels.busy


def test_no_pictures_to_sweep_over():
    panel = SweepPanel(ThresholdTuner([]))
    panel.runner.run()
    assert "no pictures" in panel.status.value
    assert not panel.runner.start.disabled


def test_no_pictures_to_predict_on():
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
    assert tuner.bench.rows.made == 193
    assert tuner.bench.rows.nbytes == 193 * a_map
    assert grown - 90 * a_map < 1e6, f"{grown / 1e6:.2f} MB"


def in_a_kernel(story, patience=120):
    "What a coroutine returns; with a running event loop handlers do what they do in a notebook"
    return asyncio.run(asyncio.wait_for(story(), patience))


async def until(happened):
    while not happened():
        await asyncio.sleep(.01)


def test_dragging_shows_fast_frames_and_drops_stale_work():
    async def drag():
        tuner = ThresholdTuner(SCENES, size=448)
        cuts, show = [], tuner._show
        def note_and_show(cut):
            cuts.append(cut)
            show(cut)
        tuner._show = tuner.settler.done = note_and_show
        for d1 in (.5, .55, .6, .65):
            tuner.controls.deltas.value = (.1, d1)
            assert "≈" in words(tuner)
            await asyncio.sleep(0) # the work that waits for the slider to rest begins to wait
        await until(lambda: cuts[-1].exact)
        return cuts, words(tuner)
    cuts, told = in_a_kernel(drag)
    assert [cut.exact for cut in cuts] == [False] * 4 + [True]
    assert cuts[-1].setting.params.delta1 == .65
    assert "≈" not in told


def test_small_views_are_exact_at_once():
    async def drag():
        tuner = ThresholdTuner(SCENES)
        tuner.controls.deltas.value = (.1, .6)
        return tuner
    tuner = in_a_kernel(drag)
    assert tuner.settler.task is None, "nothing waits for the slider to rest"
    shown = seen(tuner)
    assert "≈" not in words(tuner) and not warns(tuner.status)
    tuner.settle()
    assert seen(tuner) == shown


def test_a_failure_while_settling_is_told():
    def broken(*args):
        raise RuntimeError("out of luck")
    async def fail():
        tuner = ThresholdTuner(SCENES, size=448)
        tuner.settler.work, tuner.settler.pause = broken, .01
        tuner.controls.ppd.value = .2
        await tuner.settler.task
        return tuner.status.value
    assert "out of luck" in in_a_kernel(fail)


def cells_of(panel):
    "Buttons of the heat map"
    return [child for child in panel.heat.children[0].children if hasattr(child, "click")]


def test_sweep_panel(tuner):
    panel = SweepPanel(tuner, workers=2)
    panel.count.value, panel.delta0.value, panel.delta1.value = 3, "0.05, .3", ".2 .5 .8"
    panel.runner.start.click()
    assert panel.runner.words.value == "3 of 3"
    assert panel.table.values.shape[:3] == (3, 2, 3)
    assert panel.curves.value[:4] == b"\x89PNG"
    assert "Spearman" in panel.worth.value
    made = kept_sweeps(tuner.bench).made
    panel.count.value = 5
    panel.runner.start.click()
    assert kept_sweeps(tuner.bench).made == made + 2, "pictures that were swept are not swept again"


def test_pressing_a_value_sets_the_tuner(tuner):
    panel = SweepPanel(tuner, workers=1)
    panel.count.value, panel.delta0.value, panel.delta1.value = 2, ".05 .3", ".2 .5 .8"
    panel.runner.start.click()
    panel.measure.value = "area"
    buttons = cells_of(panel)
    assert len(buttons) == 5 # δ0 .3 has no δ1 .2
    assert "area" in buttons[1].tooltip
    buttons[1].click()
    assert (tuner.params.delta0, tuner.params.delta1) == (.05, .5)


@pytest.mark.parametrize("wrong", ["", "a b", "2", ".9 1"])
def test_values_that_make_no_grid(tuner, wrong):
    panel = SweepPanel(tuner, workers=1)
    panel.delta0.value, panel.delta1.value = wrong, ".2 .5 .8"
    panel.runner.start.click()
    assert warns(panel.status)
    assert not panel.runner.start.disabled


def test_sweep_without_truth_and_with_a_broken_file(tmp_path):
    (tmp_path/"a.jpg").write_bytes(b"no picture")
    cv2.imwrite(str(tmp_path/"b.png"), SCENES[0].picture[..., ::-1])
    panel = SweepPanel(ThresholdTuner(tmp_path), workers=1)
    panel.delta0.value, panel.delta1.value = ".1 .2", ".4 .6"
    panel.runner.run()
    assert "a.jpg" in panel.status.value
    assert "can't be checked" in panel.worth.value and "stability" in panel.worth.value
    known = ["area", "disagreement", "stability", "edge contrast", "attention agreement", "separation"]
    assert panel.table.measures() == known


def test_sweep_of_a_single_setting(tuner):
    panel = SweepPanel(tuner, workers=1)
    panel.count.value, panel.delta0.value, panel.delta1.value = 2, ".1", ".6"
    panel.runner.run()
    assert not warns(panel.status)
    assert "stability" not in panel.table.measures()
    assert len(panel.curves.value) > 1000


def test_sweep_in_the_background_can_be_stopped(tuner):
    async def sweep_and_stop():
        panel = SweepPanel(tuner, workers=1)
        panel.count.value, panel.delta0.value, panel.delta1.value = 6, ".1", ".4 .6"
        panel.runner.start.click()
        assert panel.runner.start.disabled and not panel.runner.stop.disabled
        def stop_at_two(change):
            if change.new == 2:
                panel.runner.stop.click()
        panel.runner.bar.observe(stop_at_two, "value")
        await panel.runner.task
        return panel
    panel = in_a_kernel(sweep_and_stop)
    assert "stopped" in panel.runner.words.value
    assert len(panel.table.values) == 2
    assert not panel.runner.start.disabled


@pytest.fixture
def store(tmp_path):
    return make_masks(SCENES.subset(range(4)), tmp_path/"store", progress=False)


def test_mask_browser_puts_the_most_suspect_first(store):
    rows = MaskBrowser(store, SCENES).gallery.rows
    assert len(rows) == 4
    assert rows[0].disagreement == max(row.disagreement for row in rows)


@pytest.mark.parametrize("order, key", [
    ("area, largest first", lambda row: -row.area),
    ("area, smallest first", lambda row: row.area),
    ("IoU, lowest first", lambda row: row.iou),
    ("name", lambda row: row.id),
])
def test_mask_browser_sorts(store, order, key):
    browser = MaskBrowser(store, SCENES)
    browser.order.value = order
    assert browser.gallery.rows == sorted(browser.gallery.rows, key=key)


def test_mask_browser_opens_a_tuner(store):
    browser = MaskBrowser(store, SCENES)
    cells = browser.gallery.cells
    assert [cell.layout.display for cell in cells[3:5]] == [None, "none"]
    cells[2].children[1].click()
    assert browser.tuner.index == browser.gallery.rows[2].index
    assert browser.tuner in browser.below.children


def test_mask_browser_leaves_damaged_masks_out(store):
    browser = MaskBrowser(store, SCENES)
    (store.folder/"test"/"00001.png").write_bytes(b"damaged")
    browser.runner.start.click()
    assert len(browser.gallery.rows) == 3
    assert "damaged" in browser.status.value


def test_mask_browser_of_other_pictures(store):
    assert "no mask" in MaskBrowser(store, as_dataset([SCENES[0].picture])).status.value


class Guess:
    "The middle of the picture; every class is the first"
    name, fingerprint, class_specific = "guess", {}, False

    def __call__(self, pictures, class_ids=None):
        return [self.look(picture) for picture in pictures]

    def look(self, picture):
        h, w = picture.shape[:2]
        middle = np.array([[w / 4, h / 4, w * .75, h * .75]])
        label = SCENES.classes[0]
        score_map = np.ones((8, 8), np.float32)
        return Localization(middle, None, score_map, label, label, .5, ((label, .5),))


def test_gallery_pages():
    gallery = PredictionBrowser(Guess(), load_dataset("scenes", count=15)).gallery
    assert gallery.where.value == "1 to 12 of 15" and gallery.previous.disabled
    gallery.next.click()
    assert gallery.where.value == "13 to 15 of 15" and gallery.next.disabled
    gallery.previous.click()
    assert gallery.where.value == "1 to 12 of 15"


@pytest.fixture
def predictions(tuner):
    return PredictionBrowser(Guess(), SCENES, tuner)


def test_predictions_are_compared_with_the_truth(predictions):
    rows = predictions.gallery.rows
    assert len(rows) == 6
    assert [row.predictions[0].class_right for row in rows] == [i % 8 == 0 for i in range(6)]


@pytest.mark.parametrize("chooser, value, keep", [
    ("kind", "right", lambda row: row.class_right),
    ("kind", "wrong", lambda row: not row.class_right),
    ("box", "right", lambda row: row.iou >= .5),
    ("box", "wrong", lambda row: row.iou < .5),
    ("error", "part", lambda row: row.error == "part"),
])
def test_predictions_are_filtered(predictions, chooser, value, keep):
    rows = predictions.gallery.rows
    getattr(predictions, chooser).value = value
    assert predictions.gallery.rows == [row for row in rows if keep(row.predictions[0])]
    getattr(predictions, chooser).value = "all"
    assert predictions.gallery.rows == rows


def test_pressing_a_prediction_opens_its_picture(predictions, tuner):
    predictions.gallery.cells[3].children[1].click()
    assert tuner.index == 3
    assert predictions.gallery.rows[3].id in predictions.status.value


def test_what_is_shown_is_what_is_made(tuner, tmp_path):
    tuner.params = params = GrabCutParams(.07, .6, .35)
    store = make_masks(SCENES.subset([2]), tmp_path/"store", tuner.source, params, progress=False)
    assert np.array_equal(store.read(SCENES[2].id), tuner.bench.cut(2, tuner.setting).grabcut)


def test_page_of_all():
    tabs = tuning_page(SCENES, params=GrabCutParams(.1, .5))
    assert [tabs.get_title(i) for i in range(2)] == ["Tuner", "Sweep"]
    tuner = tabs.children[0]
    assert tuner.params.delta1 == .5
    assert json.loads(tuner.params.to_json())["delta0"] == .1


def test_any_backbone_can_be_the_source():
    vit = load_backbone("test_vit", weights=False)
    tuner = ThresholdTuner(SCENES, vit, params=GrabCutParams(.2, .6))
    assert tuner.setting.source == "test_vit"
    assert tuner.controls.layers.options == tuple(range(vit.depth))
    assert alive(tuner)


def test_an_attention_source_keeps_its_layers():
    vit = load_backbone("test_vit", weights=False)
    tuner = ThresholdTuner(SCENES, CLSAttention(vit, layers=(0,)), params=GrabCutParams(.2, .6))
    assert tuner.controls.layers.options == tuple(range(vit.depth))
    assert tuner.controls.layers.value == (0,) and tuner.source.layers == (0,)
    assert alive(tuner)
    tuner.controls.heads.value = (1,)
    attention = tuner.source(tuner.bench.view(0).picture[None])[0]
    assert np.allclose(attention, tuner.bench.attention(0, tuner.setting), atol=1e-5)


# pin, undo, brush, keys

def press(tuner, key):
    tuner.panels._hear(None, dict(kind="key", key=key), [])


def draw(tuner, points, kind="foreground", size=.1, done=True):
    tuner.panels._hear(None, dict(kind="stroke", stroke=dict(kind=kind, size=size, points=points, done=done)), [])


def mask(tuner):
    return tuner._cut(tuner.index, tuner.setting).grabcut


@pytest.fixture
def brushed(tmp_path):
    return ThresholdTuner(SCENES, corrections=tmp_path/"corrections")


def test_a_stroke_changes_the_mask_and_is_kept(brushed, tmp_path):
    before = mask(brushed)
    draw(brushed, [[.02, .02], [.1, .02]], done=False)
    assert not (tmp_path/"corrections").exists() and brushed.panels.strokes
    draw(brushed, [[.02, .02], [.3, .02]])
    assert mask(brushed)[4, 4:60].all() and not before[4, 4:60].any()
    assert len(list((tmp_path/"corrections").rglob("*.json"))) == 1 and "1 stroke, kept in" in brushed.brush.words.value
    assert "--corrections" in brushed.command.value or not brushed.command.value
    brushed.go(1)
    assert not brushed.panels.strokes and not mask(brushed)[4, 4:60].all()
    again = ThresholdTuner(SCENES, corrections=tmp_path/"corrections")
    assert mask(again)[4, 4:60].all() and len(again.panels.strokes) == 1


def test_a_stroke_that_is_given_up_leaves_nothing(brushed, tmp_path):
    before = seen(brushed)
    draw(brushed, [[.02, .02], [.3, .02]], done=False)
    assert seen(brushed) != before
    draw(brushed, [])
    assert seen(brushed) == before and not brushed.panels.strokes and not (tmp_path/"corrections").exists()


def test_undo_and_redo_go_over_settings_and_strokes(brushed):
    brushed.history.pause = 0
    first = brushed.setting
    brushed.params = GrabCutParams(.1, .6, .4)
    draw(brushed, [[.02, .02], [.3, .02]])
    brushed.params = GrabCutParams(.2, .6, .4)
    press(brushed, "ctrl-z")
    assert brushed.params.delta0 == .1 and len(brushed.panels.strokes) == 1
    brushed.history.back.click()
    assert not brushed.panels.strokes and not brushed.brush.strokes
    brushed.history.back.click()
    assert brushed.setting == first and brushed.history.back.disabled and not brushed.history.forth.disabled
    for _ in range(3):
        press(brushed, "ctrl-shift-z")
    assert brushed.params.delta0 == .2 and len(brushed.brush.strokes) == 1 and brushed.history.forth.disabled


def test_a_drag_is_one_step_to_undo(brushed):
    first = brushed.setting
    for delta1 in (.5, .55, .6):
        brushed.controls.deltas.value = (.1, delta1)
    brushed.history.back.click()
    assert brushed.setting == first and brushed.history.back.disabled


def test_undo_of_a_stroke_on_another_picture(brushed):
    draw(brushed, [[.02, .02], [.3, .02]])
    brushed.go(2)
    brushed.history.back.click()
    assert brushed.index == 2 and not brushed.panels.strokes
    brushed.go(0)
    assert not brushed.panels.strokes


def test_a_pinned_setting_stands_beside_the_present_one(brushed):
    brushed.params = GrabCutParams(.1, .6, .4)
    press(brushed, "p")
    brushed.params = GrabCutParams(.1, .9)
    titles = [column["title"] for column in brushed.panels.columns]
    assert len(titles) == 2 and "δ1 0.9" in titles[0] and titles[1].startswith("pinned: lowlevel, δ0 0.1, δ1 0.6")
    difference = views(brushed)["difference"]
    assert difference["title"] == "Difference to the pinned" and "pinned" in difference["words"]
    brushed.go(1)
    assert len(brushed.panels.columns) == 2
    brushed.pin.value = False
    assert len(brushed.panels.columns) == 1 and views(brushed)["difference"]["title"] == "Difference"


def test_keys_move_thresholds_and_pictures(brushed):
    brushed.params = GrabCutParams(.1, .6, .4)
    for key in "]]}[":
        press(brushed, key)
    assert (brushed.params.delta0, brushed.params.delta1) == (.105, .605)
    press(brushed, "ArrowRight")
    assert brushed.index == 1
    press(brushed, "ArrowLeft")
    press(brushed, "ArrowLeft")
    assert brushed.index == 0
    brushed.brush.kind.value = "foreground"
    assert brushed.panels.brush == "foreground"
    press(brushed, "Escape")
    assert brushed.panels.brush == ""
    brushed.params = GrabCutParams(.6, .6)
    press(brushed, "]")
    assert brushed.params.delta0 == .6


def test_reset_takes_the_thresholds_of_the_source(brushed):
    brushed.params = GrabCutParams(.3, .9)
    brushed.reset.click()
    assert brushed.params == preset("lowlevel").params and brushed.setting.source == "lowlevel"


def test_a_damaged_correction_is_told_and_the_tuner_lives(brushed, tmp_path):
    draw(brushed, [[.02, .02], [.3, .02]])
    file = next((tmp_path/"corrections").rglob("*.json"))
    file.write_text("{")
    brushed.settle()
    assert file.name in brushed.status.value and warns(brushed.status)
    brushed.go(1)
    assert says_nothing(brushed.status) and seen(brushed)


# several methods, paths

def test_methods_stand_side_by_side(tmp_path):
    browser = PredictionBrowser([Guess(), "whole"], SCENES)
    row = browser.gallery.rows[0]
    assert row.names == ("guess", "whole picture") and "; whole picture: " in row.words
    alone = PredictionBrowser(Guess(), SCENES).gallery.rows[0]
    assert [tile["name"] for tile in row.tiles] == ["guess", "whole picture"] and len(alone.tiles) == 1
    browser.order.value = "disagreement of the methods, largest first"
    apart = [one.disagreement for one in browser.gallery.rows]
    assert apart == sorted(apart, reverse=True) and 0 < apart[0] <= 1
    browser.order.value = "IoU, highest first"
    ious = [one.predictions[0].iou for one in browser.gallery.rows]
    assert ious == sorted(ious, reverse=True)


def test_browsers_take_paths(store, tmp_path):
    assert len(browsing_page([str(store.folder)], "scenes", "test").gallery.rows) == 4
    predictions = browsing_page(["centred"], "scenes")
    assert len(predictions.rows) == len(load_dataset("scenes", split="test")) == predictions.count
    (tmp_path/"loose").mkdir()
    cv2.imwrite(str(tmp_path/"loose"/"a.png"), SCENES[0].picture)
    assert len(PredictionBrowser("centred", tmp_path/"loose").rows) == 1 # it has no split test


def test_a_thumbnail_opens_the_tuner_below():
    browser = PredictionBrowser("centred", SCENES)
    browser.gallery.cells[2].picture._handle_custom_msg({"pressed": True}, [])
    assert browser.tuner.index == 2 and browser.tuner in browser.below.children
    assert browser.gallery.rows[2].id in browser.status.value


@pytest.mark.parametrize("name, kept, begins", [
    ("a.pdf", "a.pdf", b"%PDF"), ("a.svg", "a.svg", b"<?xml"), ("params.json", "params.png", b"\x89PNG")])
def test_the_panels_as_a_figure(brushed, tmp_path, name, kept, begins):
    press(brushed, "p")
    brushed.save_figure(tmp_path/name)
    assert (tmp_path/kept).read_bytes().startswith(begins)
    with pytest.raises(ValueError, match="there already"):
        brushed.save_figure(tmp_path/name)


def test_a_sweep_as_csv(tuner):
    panel = SweepPanel(tuner)
    panel.count.value, panel.delta0.value, panel.delta1.value = 2, ".05 .2", ".4 .6"
    panel.runner.run()
    head, *lines = panel.table.to_csv().splitlines()
    assert head.startswith("delta0,delta1,") and len(lines) == 4 and lines[0].startswith("0.05,0.4,")
    assert all(line.count(",") == head.count(",") for line in lines)


def test_what_a_key_failed_with_is_told_until_the_next_picture(brushed, monkeypatch):
    monkeypatch.setattr(brushed.picker, "go", lambda i: 1/0)
    press(brushed, "ArrowRight")
    assert brushed.panels.is_error and "ZeroDivisionError" in brushed.panels.said
    monkeypatch.undo()
    press(brushed, "ArrowRight")
    assert brushed.index == 1 and not brushed.panels.is_error and not brushed.panels.said
