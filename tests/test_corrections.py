"Strokes by a person: what they do to a trimap, how they are kept, and that no mask they touched passes for untouched"
import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from locloc.attention import load_attention
from locloc.data import load_dataset
from locloc.masks import GrabCutParams, PPDParams, apply_strokes, grabcut_mask, trimap
from locloc.stores import Corrections, MaskStore, make_masks
from locloc.workbench import Setting, as_dataset, make_cut, make_view

SCENES = load_dataset("scenes", split="test", count=6)
MIDDLE = dict(kind="background", size=.2, points=[[.5, .3], [.5, .7]])
OPEN = np.full((100, 100), cv2.GC_PR_BGD, np.uint8)


def stroke(kind="foreground", size=.1, points=((.5, .5),)):
    return dict(kind=kind, size=size, points=[list(point) for point in points])


def test_strokes_are_certain_and_the_last_one_wins():
    marks = apply_strokes(OPEN, [stroke(), stroke("background", .1, [(.5, .5), (.9, .5)])])
    assert marks[50, 50] == cv2.GC_BGD and marks[50, 85] == cv2.GC_BGD and marks[10, 10] == cv2.GC_PR_BGD
    assert (OPEN == cv2.GC_PR_BGD).all()


def test_the_eraser_gives_back_what_attention_said():
    marks = trimap(np.linspace(0, 1, 16, dtype=np.float32).reshape(4, 4), .2, .8, (100, 100), .5)
    drawn = [stroke(size=.6), stroke("background", .3)]
    assert (apply_strokes(marks, drawn) != marks).any()
    assert (apply_strokes(marks, [*drawn, stroke("erase", 1, [(.3, .3), (.7, .7)])]) == marks).all()


@pytest.mark.parametrize("shape", [(100, 100), (100, 300), (300, 100)])
def test_a_dot_is_a_disc_on_the_picture_however_it_is_squashed(shape):
    under = apply_strokes(np.full((300, 300), 2, np.uint8), [stroke(size=.2)], shape) == cv2.GC_FGD
    ys, xs = np.nonzero(under)
    longer = max(shape)
    assert np.ptp(xs) + 1 == pytest.approx(.2 * 300 * longer / shape[1], abs=5)
    assert np.ptp(ys) + 1 == pytest.approx(.2 * 300 * longer / shape[0], abs=5)
    assert (xs.mean(), ys.mean()) == pytest.approx((149.5, 149.5), abs=1.5)


def test_a_stroke_is_at_the_same_place_at_every_size():
    drawn = [stroke(size=.1, points=[(.2, .3), (.8, .6)])]
    small, large = (apply_strokes(np.full((side, side), 2, np.uint8), drawn) == 1 for side in (224, 448))
    again = cv2.resize(large.astype(np.uint8), (224, 224), interpolation=cv2.INTER_AREA) > 0
    assert (small & again).sum() / (small | again).sum() > .9


def test_a_stroke_may_leave_the_picture():
    assert (apply_strokes(OPEN, [stroke(points=[(-1, .5), (2, .5)])])[50] == cv2.GC_FGD).all()
    assert (apply_strokes(OPEN, [stroke(points=[(-1, -1)])]) == OPEN).all()


WRONG = [
    {}, [1], [{}], [stroke("paint")], [stroke(size=0)], [stroke(size=2)], [stroke(size=float("nan"))],
    [stroke(points=[])], [stroke(points=[(1, 2, 3)])], [stroke(points=[(float("inf"), 0)])],
    [dict(stroke(), points="here")], [dict(stroke(), points=[["0", "1"]])], [dict(stroke(), kind=["foreground"])],
]


@pytest.mark.parametrize("strokes", WRONG)
def test_what_is_no_stroke_is_neither_drawn_nor_kept(strokes, tmp_path):
    with pytest.raises(ValueError, match="stroke"):
        apply_strokes(OPEN, strokes)
    with pytest.raises(ValueError, match="stroke"):
        Corrections(tmp_path).write("a.jpg", strokes)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("id", ["a.jpg", "sub/a.jpg", "sub/a", "猫 $5.png", "caf\udce9.png", "two\nlines.png", "a.b"])
def test_corrections_are_kept_by_name(tmp_path, id):
    corrections = Corrections(tmp_path/"kept")
    assert corrections.read(id) == [] and corrections.ids() == []
    corrections.write(id, [MIDDLE, dict(stroke(), by="me", done=True)])
    assert corrections.read(id) == [MIDDLE, stroke()] and corrections.ids() == [id] and id in corrections
    corrections.write(id, [])
    assert corrections.ids() == [] and id not in corrections


def test_pictures_that_differ_in_their_suffix_have_corrections_each(tmp_path):
    corrections = Corrections(tmp_path)
    corrections.write("a.jpg", [MIDDLE])
    assert corrections.read("a.png") == []


@pytest.mark.parametrize("id", ["../a", "/a", "", "a/../../b"])
def test_a_name_that_leads_out_of_the_folder_is_refused(tmp_path, id):
    with pytest.raises(ValueError, match="inside a folder"):
        Corrections(tmp_path/"kept").write(id, [MIDDLE])


def test_a_link_out_of_the_folder_is_refused(tmp_path):
    (tmp_path/"kept").mkdir()
    (tmp_path/"kept"/"sub").symlink_to(tmp_path)
    with pytest.raises(ValueError, match="link out of the store"):
        Corrections(tmp_path/"kept").write("sub/a.jpg", [MIDDLE])
    assert not (tmp_path/"a.jpg.json").exists()


@pytest.mark.parametrize("content", [
    "", "{", "[]", '{"format": 2, "strokes": []}', '{"format": 1}', '{"format": 1, "strokes": [{}]}', "[" * 100_000])
def test_a_damaged_file_is_one_line_that_names_it(tmp_path, content):
    (tmp_path/"a.jpg.json").write_text(content)
    with pytest.raises(ValueError, match="a.jpg.json is damaged") as told:
        Corrections(tmp_path).read("a.jpg")
    assert "\n" not in str(told.value) and "delete it" in str(told.value)


def test_a_write_that_fails_leaves_the_old_strokes(tmp_path, monkeypatch):
    corrections = Corrections(tmp_path)
    corrections.write("a.jpg", [MIDDLE])
    def write_half(self, text, **options):
        self.write_bytes(text[:20].encode())
        raise OSError(28, "No space left on device")
    monkeypatch.setattr(Path, "write_text", write_half)
    with pytest.raises(OSError, match="make room"):
        corrections.write("a.jpg", [stroke()])
    monkeypatch.undo()
    assert corrections.read("a.jpg") == [MIDDLE] and [file.name for file in tmp_path.iterdir()] == ["a.jpg.json"]


@pytest.fixture
def corrections(tmp_path):
    made = Corrections(tmp_path/"corrections")
    made.write(SCENES[1].id, [MIDDLE])
    return made


def files(store):
    return {name: (store.folder/f"{name}.png").stat().st_mtime_ns for name in store.ids()}


def make(folder, **options):
    return make_masks(SCENES, folder, progress=False, **options)


@pytest.mark.parametrize("workers", [0, 2])
def test_masks_follow_the_strokes_and_the_manifest_counts_them(tmp_path, corrections, workers):
    plain = make(tmp_path/"plain")
    store = make(tmp_path/"store", corrections=corrections, workers=workers, batch_size=2)
    changed = [id for id in SCENES.ids() if (plain.read(id) != store.read(id)).any()]
    assert changed == [SCENES[1].id] == list(store.corrected)
    written = json.loads((store.folder/"manifest.json").read_text())
    assert written["corrected"]["count"] == 1 and written["counts"] == {"pictures": 6, "masks": 6}
    assert "corrected" not in plain.manifest


def test_only_what_was_drawn_since_is_made_anew(tmp_path, corrections):
    store = make(tmp_path/"store")
    before = files(store)
    make(tmp_path/"store", corrections=corrections)
    after = files(store)
    assert [id for id in after if after[id] != before[id]] == [SCENES[1].id]
    corrections.write(SCENES[1].id, [])
    corrections.write(SCENES[4].id, [MIDDLE])
    store = make(tmp_path/"store", corrections=corrections)
    last = files(store)
    assert [id for id in last if last[id] != after[id]] == [SCENES[1].id, SCENES[4].id]
    assert list(store.corrected) == [SCENES[4].id]
    assert (store.read(SCENES[1].id) == make(tmp_path/"plain").read(SCENES[1].id)).all()


def test_a_corrected_store_is_not_continued_without_its_corrections(tmp_path, corrections):
    store = make(tmp_path/"store", corrections=corrections)
    with pytest.raises(ValueError, match="1 masks that were corrected by hand.*--corrections"):
        make(store.folder)
    assert list(MaskStore(store.folder).corrected) == [SCENES[1].id] and len(store) == 6


def test_stopped_before_the_mask_is_made_it_is_made_the_next_time(tmp_path, corrections, monkeypatch):
    store = make(tmp_path/"store")
    def stop(*args, **options):
        raise KeyboardInterrupt
    monkeypatch.setattr("locloc.stores.grabcut_mask", stop)
    with pytest.raises(KeyboardInterrupt, match="5 of 6 masks are there"):
        make(store.folder, corrections=corrections)
    stopped = MaskStore(store.folder)
    assert list(stopped.corrected) == [SCENES[1].id] and "counts" not in stopped.manifest
    monkeypatch.undo()
    made = make(store.folder, corrections=corrections)
    assert made.read(SCENES[1].id)[100:120, 112].sum() == 0 and "counts" in made.manifest


def test_shards_count_each_others_corrections(tmp_path, corrections):
    corrections.write(SCENES[2].id, [MIDDLE])
    first = make(tmp_path/"store", corrections=corrections, shard=(1, 2), batch_size=2)
    assert "counts" not in first.manifest
    second = make(tmp_path/"store", corrections=corrections, shard=(2, 2), batch_size=2)
    assert set(second.corrected) == {SCENES[1].id, SCENES[2].id} and "counts" in second.manifest


def test_a_shard_is_not_complete_while_another_has_strokes_to_take(tmp_path, corrections):
    make(tmp_path/"store")
    corrections.write(SCENES[2].id, [MIDDLE])
    store = make(tmp_path/"store", corrections=corrections, shard=(1, 2), batch_size=2)
    assert "counts" not in store.manifest


def test_masks_of_ppd_take_no_strokes(tmp_path, corrections):
    with pytest.raises(ValueError, match="PPD"):
        make(tmp_path/"store", corrections=corrections, params=PPDParams(.3))
    assert not (tmp_path/"store").exists()


def test_corrections_of_other_pictures_are_said(tmp_path, corrections, capsys):
    corrections.write("elsewhere.jpg", [MIDDLE])
    make(tmp_path/"store", corrections=corrections)
    said = capsys.readouterr().err
    assert "1 of 2 corrections are of other pictures, the first is elsewhere.jpg" in said


def test_a_folder_of_corrections_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ValueError, match="gone: no such folder"):
        make(tmp_path/"store", corrections=Corrections(tmp_path/"gone"))


def test_the_stored_mask_is_the_one_that_was_drawn_on_the_screen(tmp_path):
    rng = np.random.default_rng(0)
    wide = cv2.resize(SCENES[0].picture, (400, 180)) // 2 + rng.integers(0, 40, (180, 400, 3), dtype=np.uint8)
    (tmp_path/"pictures").mkdir()
    cv2.imwrite(str(tmp_path/"pictures"/"wide.png"), wide)
    dataset, corrections = as_dataset(tmp_path/"pictures"), Corrections(tmp_path/"corrections")
    drawn = [stroke(size=.2, points=[(.4, .5), (.6, .6)]), stroke("background", .1, [(0, 0), (1, .1)])]
    corrections.write("wide.png", drawn)
    setting, source = Setting(GrabCutParams(.1, .6, .3)), load_attention("lowlevel")
    view = make_view(dataset, 0)
    on_screen = make_cut(view, source(view.picture[None])[0], setting, strokes=drawn)
    store = make_masks(dataset, tmp_path/"store", source, setting.params, progress=False, corrections=corrections)
    assert (store.read("wide.png") == on_screen.grabcut).all()
    without = make_cut(view, source(view.picture[None])[0], setting)
    assert (on_screen.grabcut != without.grabcut).any() and (on_screen.ppd == without.ppd).all()


def test_strokes_reach_a_cut_of_a_prepared_picture_and_of_the_other_kernel():
    picture, attention = SCENES[1].picture, load_attention("lowlevel")(SCENES[1].picture[None])[0]
    for kernel in ("grid", "cv2"):
        mask = grabcut_mask(picture, attention, GrabCutParams(.1, .6, .3, kernel=kernel), [MIDDLE])
        assert not mask[80:140, 112].any()
