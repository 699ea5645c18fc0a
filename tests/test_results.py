"Results of a comparison: what is saved of each picture, and what a browser shows of it without asking a method."
import base64
import csv
import shutil
from dataclasses import replace

import cv2
import numpy as np
import pytest

from locloc.boxes import box_iou
from locloc.browsers import PredictionBrowser, ResultsBrowser
from locloc.cli import main
from locloc.data import PROTOCOLS, Protocol, get_protocol, load_dataset
from locloc.evaluate import evaluate
from locloc.localization import Localization
from locloc.localizers import load_localizer
from locloc.metrics import error_type
from locloc.report import PictureScore, Report, read_results, with_seed
from locloc.widgets import browsing_page

SCENES = load_dataset("scenes", split="test", count=6)
SAMPLES = tuple(SCENES)
METHODS = "CAM", "TS-CAM", "PPD", "grabcut:lowlevel", "LocLoc"
SETTINGS = dict(protocols=[dict(name="wsoleval", iou=.5, strict=False), dict(name="bas", iou=.5, strict=True)],
                data="scenes", split="test")


def score(protocol, k, i):
    "The true box with its right side moved, ever further from picture to picture, method to method, seed to seed"
    sample, name, seed = SAMPLES[i], METHODS[k % 10], k // 10
    (true,) = sample.boxes
    box = true - [0, 0, (true[2] - true[0])*(.12*i + .03*(k % 10) + .01*seed + .1*(protocol == "bas")), 0]
    iou = float(box_iou(box, true)[0, 0])
    rank = None if name in ("PPD", "grabcut:lowlevel") else i % 2
    said = {None: None, 0: SCENES.classes[sample.label], 1: "whale"}[rank]
    return PictureScore(
        protocol, with_seed(name, seed), "held_out", sample.id, SCENES.classes[sample.label], rank, iou, iou, said=said,
        error=error_type(box, sample.boxes, rank in (None, 0)), **dict(zip(("x0", "y0", "x1", "y1"), box, strict=True)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    each = [score(p["name"], k, i) for p in SETTINGS["protocols"] for k in (*range(5), 10, 11) for i in range(6)]
    classifier = [PictureScore("wsoleval", "names", "", sample.id, "fish", 0, said="fish") for sample in SAMPLES]
    header = dict(title="birds", command="`locloc compare --data scenes --count 6`")
    folder = tmp_path_factory.mktemp("results")/"mine"
    Report(header, SETTINGS, (), each=(*each, *classifier)).save(folder)
    (folder/"cam-0"/"model").mkdir(parents=True) # runs beside the results are not what is meant
    (folder.parent/"empty").mkdir()
    return folder


def chosen(browser, k):
    return [row.predictions[k] for row in browser.gallery.rows]


# what is saved

@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_saved_box_is_in_pixels_of_the_picture(protocol):
    photographs, p = load_dataset("data", split="test"), get_protocol(protocol)
    middle_half = load_localizer("centred", share=.5)
    report = evaluate(photographs, [middle_half], protocol, progress=False, pictures=0, workers=2)
    for one, sample in zip(report.each, photographs, strict=True):
        assert one.picture == sample.id and one.said is None
        sides = np.array(sample.size[::-1]) # of the picture, w h
        seen = (sides if p.squash else min(sides))*p.size/p.resize # what is left of them after the crop
        wanted = np.concatenate([sides/2 - seen/4, sides/2 + seen/4])
        assert np.abs(one.box - wanted).max() < 3, "one pixel of the input"


class Two:
    "Two boxes, the second one right; in every second picture none"
    name, fingerprint, class_specific, asked = "two", {}, False, 0

    def __call__(self, pictures, class_ids=None):
        return [self.look(picture) for picture in pictures]

    def look(self, picture):
        self.asked += 1
        boxes = [[0, 0, 9, 9], [60, 60, 200, 200]] if self.asked % 2 else np.zeros((0, 4))
        return Localization(boxes, label="whale", class_id="whale", score=1.)


def test_of_several_boxes_the_judged_one_is_saved_and_none_where_nothing_was_found():
    sample = replace(SAMPLES[0], boxes=np.array([[60., 60, 200, 210]]))
    report = evaluate(replace(SCENES, samples=[sample, sample], labels=np.zeros(2, int)), [Two()],
                      Protocol("squash", resize=224, squash=True), progress=False, pictures=0)
    first, second = report.each
    assert first.box.tolist() == [60, 60, 200, 200] and first.iou > .9 and first.error is None
    assert second.box is None and second.iou == 0 and {first.said, second.said} == {"whale"}


def test_saved_errors_add_up_to_the_table(tmp_path):
    report = evaluate(SCENES, ["grabcut:lowlevel", "whole"], progress=False, pictures=0)
    for row in (row for row in report.rows if row["table"] == "errors"):
        errors = [one.error for one in report.each if one.method == row["method"]]
        assert all(np.isclose(row[error], 100*errors.count(error)/6) for error in set(errors))
    report.save(tmp_path)
    saved = read_results(tmp_path)
    assert (saved.data, saved.split, saved.least_iou) == ("scenes", "test", {"wsoleval": .5})
    assert [*saved.scores["wsoleval"]["whole picture"].values()] == list(report.each[6:])


def damage(file, how):
    rows = list(csv.reader(file.open(encoding="utf-8", newline="")))
    if how == "older":
        rows = [row[:11] for row in rows]
    elif how == "cut":
        rows[-1] = rows[-1][:7]
    elif how == "words":
        rows[3][13] = "left"
    with file.open("w", encoding="utf-8", newline="") as out:
        csv.writer(out).writerows(rows)
    if how == "gone":
        file.unlink()


@pytest.mark.parametrize("how, said", [
    ("older", "a version that kept no boxes"), ("cut", "line 91 is cut short"), ("words", "'left'"),
    ("gone", "No such file")])
def test_results_without_boxes_say_what_to_run_again(folder, tmp_path, capsys, how, said):
    shutil.copytree(folder, tmp_path/"mine")
    damage(tmp_path/"mine"/"pictures.csv", how)
    with pytest.raises(SystemExit):
        main(["browse", str(tmp_path/"mine"), "--data", "scenes"])
    told = capsys.readouterr().err.strip()
    assert said in told and "run again what made it, `locloc compare --data scenes --count 6`" in told
    assert "pictures.csv" in told and "\n" not in told


def test_results_of_no_method_are_refused(tmp_path):
    evaluate(SCENES, (), progress=False, pictures=0).save(tmp_path)
    with pytest.raises(ValueError, match="holds no method"):
        read_results(tmp_path)


# the browser

def test_the_first_methods_stand_side_by_side_and_locloc_among_them(folder):
    browser = ResultsBrowser(folder, SCENES)
    assert browser.methods.options == (*METHODS, "names")
    assert [label for label, _ in browser.of.options] == ["CAM", "TS-CAM", "PPD", "LocLoc"]
    tiles = browser.gallery.cells[1].picture.tiles
    assert [tile["name"] for tile in tiles] == ["CAM", "TS-CAM", "PPD", "LocLoc"]
    assert tiles[0]["words"] == f"whale, but it is {SCENES.classes[1]}, box IoU 0.87, wrong class"
    assert tiles[2]["words"] == "box IoU 0.82, right" and tiles[0]["image"] != tiles[3]["image"]
    assert browser.gallery.cells[1].button.description == f"00001, {SCENES.classes[1]}"


def test_a_classifier_alone_found_no_box_and_disagrees_with_nobody(folder):
    browser = ResultsBrowser(folder, SCENES)
    browser.methods.value = ("CAM", "names")
    assert {row.disagreement for row in browser.rows} == {0} and chosen(browser, 1)[0].words == "fish"


@pytest.mark.parametrize("chooser, value, keep", [
    ("kind", "right", lambda one: one.class_right), ("kind", "wrong", lambda one: one.class_right is False),
    ("box", "right", lambda one: one.iou >= .5), ("box", "wrong", lambda one: one.iou < .5),
    ("error", "part", lambda one: one.error == "part"),
])
@pytest.mark.parametrize("k", [1, 3])
def test_rows_are_filtered_by_the_chosen_method(folder, chooser, value, keep, k):
    browser = ResultsBrowser(folder, SCENES)
    browser.of.value = k
    getattr(browser, chooser).value = value
    assert browser.gallery.rows == [row for row in browser.rows if keep(row.predictions[k])]
    assert 0 < len(browser.gallery.rows) < 6 and f"of {len(browser.gallery.rows)}" in browser.gallery.where.value


def test_rows_are_sorted_by_the_chosen_method_and_by_the_shown_ones(folder):
    browser = ResultsBrowser(folder, SCENES)
    browser.of.value, browser.order.value = 3, "IoU, lowest first"
    ious = [one.iou for one in chosen(browser, 3)]
    assert ious == sorted(ious) and [row.index for row in browser.gallery.rows] == [5, 4, 3, 2, 1, 0]
    browser.order.value = "kind of error"
    assert [one.error for one in chosen(browser, 3)] == ["right"]*2 + ["wrong class"]*3 + ["part"]
    browser.order.value = "disagreement of the methods, largest first"
    apart = [row.disagreement for row in browser.gallery.rows]
    assert apart == sorted(apart, reverse=True)
    browser.methods.value = ("LocLoc", "CAM")
    assert browser.of.label == "LocLoc", "it stays chosen"
    browser.methods.value = ("TS-CAM", "CAM")
    assert browser.of.value == 0 and max(row.disagreement for row in browser.gallery.rows) < apart[0]
    browser.methods.value = ()
    assert browser.gallery.rows[0].names == ("CAM",)


def test_seed_and_protocol_are_chosen(folder):
    browser = ResultsBrowser(folder, SCENES)
    first = [one.iou for row in browser.rows for one in row.predictions]
    browser.seed.value = 1
    other = [one.iou for row in browser.rows for one in row.predictions]
    assert [one == two for one, two in zip(first, other, strict=True)] == [False, False, True, True]*6
    browser.protocol.value = "bas"
    assert [one.iou for row in browser.rows for one in row.predictions] != other
    assert browser.rows[0].predictions[0].least_iou > .5


def test_pressing_a_thumbnail_opens_the_tuner_on_its_picture(folder):
    browser = ResultsBrowser(folder, SCENES)
    browser.order.value = "IoU, lowest first"
    browser.gallery.cells[1].picture._handle_custom_msg({"pressed": True}, [])
    assert browser.tuner.index == 4 and browser.tuner in browser.below.children
    assert "2 of 6, test/00004: CAM: " in browser.status.value


def test_the_predicted_box_is_drawn_where_it_was_saved(folder):
    browser = ResultsBrowser(folder, SCENES)
    (without, tile) = (cv2.imdecode(np.frombuffer(image, np.uint8), 1).astype(int)
                       for image in (browser.paint(0, ()), browser.paint(0, (20, 40, 200, 180))))
    rows, columns = np.nonzero(np.abs(tile - without).max(-1) > 60)
    found = np.array([columns.min(), rows.min(), columns.max(), rows.max()])*224/200
    assert np.abs(found - [20, 40, 200, 180]).max() < 5


def test_pictures_that_are_not_there_are_left_out_and_told(folder):
    browser = ResultsBrowser(folder, SCENES.subset([0, 2]))
    assert [row.index for row in browser.gallery.rows] == [0, 1] and browser.gallery.rows[1].id == "test/00002"
    assert "4 left out: test/00001 is not in scenes, split test" in browser.status.value


def test_a_picture_that_can_no_longer_be_opened_is_told_on_its_tile(tmp_path):
    (tmp_path/"birds"/"test"/"tern").mkdir(parents=True)
    for name in "ab":
        cv2.imwrite(str(tmp_path/"birds"/"test"/"tern"/f"{name}.png"), SCENES[0].picture)
    evaluate(load_dataset(tmp_path/"birds", "test"), ["whole"], progress=False, pictures=0).save(tmp_path/"mine")
    (tmp_path/"birds"/"test"/"tern"/"b.png").write_text("no picture")
    browser = ResultsBrowser(tmp_path/"mine")
    (tile,) = browser.gallery.cells[1].picture.tiles
    assert "b.png" in tile["words"] and not tile["image"] and browser.gallery.cells[0].picture.tiles[0]["image"]


def test_the_command_takes_pictures_and_split_from_the_results(folder, monkeypatch):
    pages = []
    monkeypatch.setattr("locloc.cli._serve", lambda code, options: pages.append(code))
    main(["browse", str(folder)])
    assert f"browsing_page({[str(folder)]!r}, 'scenes', 'test')" in pages[0]
    assert len(browsing_page([str(folder)], "scenes").rows) == 6


@pytest.mark.parametrize("things, said", [
    (("empty",), "no mask store (manifest.json), no results (report.json) and no run (config.json)"),
    (("mine", "mine"), "one folder with results at a time"),
    (("centred", "mine"), "one folder with results at a time")])
def test_the_command_refuses_a_folder_that_holds_nothing_and_two_at_once(folder, monkeypatch, capsys, things, said):
    monkeypatch.chdir(folder.parent)
    with pytest.raises(SystemExit):
        main(["browse", *things, "--data", "scenes"])
    assert said in capsys.readouterr().err


def test_predictions_are_sorted_by_another_method_than_the_first():
    browser = PredictionBrowser(["whole", "centred"], SCENES)
    browser.of.value, browser.order.value = 1, "IoU, highest first"
    ious = [one.iou for one in chosen(browser, 1)]
    assert ious == sorted(ious, reverse=True) and browser.status.value.count("centred") == 1


SHOW = """async ([source, tiles]) => {
    const front = (await import(URL.createObjectURL(new Blob([source], { type: "text/javascript" })))).default
    const bytes = text => new DataView(Uint8Array.from(atob(text), c => c.charCodeAt(0)).buffer)
    const state = { title: "open a.jpg", tiles: tiles.map(tile => ({ ...tile, image: bytes(tile.image) })) }
    window.sent = []
    const model = { get: name => state[name], on: () => {}, send: content => window.sent.push(content) }
    document.body.innerHTML = "<main style='width: 660px'></main>"
    front.render({ model, el: document.querySelector("main") })
}"""


def test_tiles_are_aligned_in_the_browser_and_names_are_not_cut(page, folder):
    thumbnail = ResultsBrowser(folder, SCENES).gallery.cells[0].picture
    tiles = [tile | dict(image=base64.b64encode(tile["image"]).decode()) for tile in thumbnail.tiles]
    tiles[1]["name"] = "grabcut:locloc-tiny,delta0=0.02,delta1=0.8,split=0.3"
    page.evaluate(SHOW, [thumbnail._esm, tiles])
    page.wait_for_function("() => [...document.images].filter(image => image.naturalWidth).length == 4")
    pictures, parts = (page.evaluate("kind => [...document.querySelectorAll(kind)].map(part => {"
        "const box = part.getBoundingClientRect(); return [box.top, box.height, part.scrollWidth, part.clientWidth]})",
        kind) for kind in ("img", "main *"))
    assert len({tuple(box[:2]) for box in pictures}) == 1 and pictures[0][1] == 150
    assert all(wide <= room for _, _, wide, room in parts if room)
    page.locator("img").nth(2).click()
    assert page.evaluate("window.sent") == [{"pressed": True}]
