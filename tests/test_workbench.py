"The tuner without its widgets: pictures from anywhere, settings, sources, what a prediction got wrong"
from dataclasses import replace

import cv2
import numpy as np
import pytest

from locloc.attention import SOURCES, LowLevel, Source, load_attention
from locloc.browsers import prediction_row
from locloc.data import load_dataset
from locloc.localization import Localization
from locloc.masks import preset
from locloc.stores import make_masks
from locloc.workbench import (
    SourceChoice,
    Sources,
    View,
    Workbench,
    as_dataset,
    column,
    enlarged,
    first_setting,
    make_cut,
    row_figure,
    source_choice,
)

SCENES = load_dataset("scenes", split="test", count=6)


class Says:
    "A localizer with one answer for all"
    name, fingerprint, class_specific = "says", {"name": "says"}, False
    def __init__(self, **answer): self.answer = Localization(**answer)
    def __call__(self, pictures, class_ids=None): return [self.answer for _ in pictures]


@pytest.fixture
def pictures(tmp_path):
    "A folder with a.png and sub/b.png"
    (tmp_path/"sub").mkdir()
    cv2.imwrite(str(tmp_path/"a.png"), SCENES[0].picture)
    cv2.imwrite(str(tmp_path/"sub"/"b.png"), SCENES[1].picture)
    return tmp_path


def test_a_folder_is_searched_for_pictures(pictures):
    assert list(as_dataset(pictures).ids()) == ["a.png", "sub/b.png"]
    assert as_dataset(pictures/"sub").classes == ("",)


def test_files_keep_their_order(pictures):
    files = [str(pictures/"sub"/"b.png"), pictures/"a.png"]
    assert list(as_dataset(files).ids()) == ["sub/b.png", "a.png"]
    assert list(as_dataset(pictures/"a.png").ids()) == ["a.png"]


def test_a_dataset_stays_what_it_is():
    assert as_dataset(SCENES) is SCENES
    assert len(as_dataset("scenes")) == 800


def test_masks_can_be_made_of_any_of_them(pictures):
    assert make_masks(as_dataset(pictures), pictures/"store", progress=False).ids() == ["a", "sub/b"]


def test_nothing_of_that_name():
    with pytest.raises(ValueError, match="nowhere"):
        as_dataset("nowhere")


def test_first_setting_follows_the_source():
    lowlevel = first_setting(Workbench(SCENES))
    assert lowlevel.params == preset("lowlevel").params
    assert first_setting(Workbench(SCENES, "locloc-tiny")).ppd == preset("locloc-tiny").ppd
    assert replace(lowlevel, ppd=.1).source == "lowlevel"


def test_registered_sources_are_offered(monkeypatch):
    monkeypatch.setitem(SOURCES, "mine", Source("mine", LowLevel))
    shipped = ["cam:efficientnet_lite0", "lowlevel+cam:efficientnet_lite0", "lowlevel+locloc-tiny"]
    shipped += ["lost:locloc-tiny", "tokencut:locloc-tiny", "heads:locloc-tiny"]
    assert Sources("test_vit").names == ["test_vit", "lowlevel", "locloc-tiny", *shipped, "mine"]


def test_a_source_that_cannot_be_had_is_told():
    sources = Sources()
    with pytest.raises(FileNotFoundError, match="weights"):
        sources.require("dino_vits16")
    assert list(sources.loaded) == []


def test_a_vit_has_layers_and_heads_to_choose():
    choice = SourceChoice((0, 1, 2), (0, 1, 2, 3, 4, 5), usual_layers=(2,), usual_heads=(0, 5))
    assert source_choice(load_attention("locloc-tiny", heads=(0, -1))) == choice
    assert source_choice(LowLevel()) is None


def test_a_prediction_is_compared_with_the_truth():
    sample = SCENES[0]
    answer = dict(boxes=sample.boxes, label="a name", class_id=SCENES.classes[0], score=.5)
    row = prediction_row(Says(**answer), SCENES, 0)
    assert row.class_right and row.iou == 1 and row.error == "right"
    assert row.words == "a name 0.50, box IoU 1.00, right"
    wrong = prediction_row(Says(**answer), SCENES, 1)
    assert wrong.class_right is False and wrong.error == "wrong class"
    assert wrong.words.startswith(f"a name 0.50, but it is {SCENES.classes[1]}, box IoU")


def test_nothing_found_is_said():
    row = prediction_row(Says(mask=np.zeros((224, 224), bool)), SCENES, 0)
    assert not row.found and row.iou == 0 and row.class_right is None
    assert row.words == "nothing found"


def test_class_ids_of_the_same_wordnet_id_are_one_class():
    cats = replace(SCENES, classes=("n02124075_Egyptian_cat",) + SCENES.classes[1:])
    assert prediction_row(Says(class_id="n02124075"), cats, 0).class_right
    assert prediction_row(Says(class_id="n02123045"), cats, 0).class_right is False


def test_a_class_that_a_localizer_cannot_know_is_not_wrong():
    localizer = Says(class_id="cat")
    localizer.classes = ("cat", "dog")
    assert prediction_row(localizer, SCENES, 0).class_right is None


def test_a_picture_without_a_class_has_no_wrong_one():
    row = prediction_row(Says(boxes=[[1, 2, 30, 40]], class_id="cat"), as_dataset([SCENES[0].picture]), 0)
    assert row.class_right is None and np.isnan(row.iou) and row.words == "cat"


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 500, 3), (300, 2, 3)])
@pytest.mark.parametrize("what", ["nothing", "score_map", "mask"])
def test_any_answer_is_painted_over_any_picture(shape, what):
    shown = dict(nothing={}, score_map=dict(score_map=np.eye(4)), mask=dict(mask=np.ones(shape[:2], bool)))[what]
    row = prediction_row(Says(boxes=[[0, 0, 1, 1]], **shown), as_dataset([np.full(shape, 120, np.uint8)]), 0, side=80)
    thumbnail = cv2.imdecode(np.frombuffer(row.thumbnail, np.uint8), 1)
    assert max(thumbnail.shape[:2]) == 80 and min(thumbnail.shape[:2]) >= 16


def slanted_cut(side=64):
    "A picture whose lower part is bright: the mask's edge falls by one pixel in five"
    ys, xs = np.mgrid[:side, :side]
    inside = ys > .2*xs + 20
    picture = np.where(inside[..., None], (220, 160, 40), (20, 40, 90)).astype(np.uint8)
    view = View("slanted", "", (side, side), picture, None, None)
    setting = first_setting(Workbench(SCENES))
    return replace(make_cut(view, inside.astype(np.float32), setting), grabcut=inside)


def edge(mask):
    "How far its upper edge is from a straight line, px at most, in the middle part"
    heights = mask.argmax(0)[len(mask)//5:-len(mask)//5].astype(float)
    along = np.arange(len(heights))
    return np.abs(heights - np.polyval(np.polyfit(along, heights, 1), along)).max()


def test_edges_are_enlarged_without_their_steps_and_the_mask_stays():
    cut = slanted_cut()
    large, before = enlarged(cut, (640, 640)), cut.grabcut.copy()
    stepped = cv2.resize(cut.grabcut.astype(np.uint8), (640, 640), interpolation=cv2.INTER_NEAREST) > 0
    assert edge(large.grabcut) < .5*edge(stepped)
    assert np.mean(large.grabcut != stepped) < .01, "the same border"
    assert large.marks.shape == large.ppd.shape == (640, 640) and large.view.picture.shape == (640, 640, 3)
    assert (cut.grabcut == before).all()


def test_no_pixel_of_a_mask_changes_its_side_when_it_is_enlarged():
    cut = slanted_cut()
    for mask in (cut.grabcut, np.eye(64, dtype=bool), np.random.default_rng(0).random((64, 64)) > .5):
        assert (enlarged(replace(cut, grabcut=mask), (192, 192)).grabcut[1::3, 1::3] == mask).all()


def test_strokes_are_seen_at_any_size():
    cut = slanted_cut()
    stroke = dict(kind="foreground", size=.1, points=[[.1, .1]])
    drawn = make_cut(cut.view, cut.attention, cut.setting, strokes=[stroke])
    assert enlarged(drawn, (300, 300)).marks[30, 30] == cv2.GC_FGD != enlarged(cut, (300, 300)).marks[30, 30]


def test_words_are_about_the_mask_and_a_figure_is_painted_as_the_page_is():
    cut = slanted_cut()
    small, large = (column(cut, "", side)["views"] for side in (320, 900))
    assert [view["words"] for view in small] == [view["words"] for view in large]
    shown = row_figure([cut], ["grabcut"]).axes[0].images[0].get_array()
    assert shown.shape[0] > 400
    assert len(np.unique(shown[shown.shape[0]//2, :, 0])) > 4, "its outline has soft edges"
