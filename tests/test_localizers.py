"The door: what it opens to, what it refuses; answers are in the picture's own pixels."
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from locloc import load_localizer, localize, localizer_names
from locloc.backbone import LiteStem, load_backbone
from locloc.boxes import box_iou
from locloc.data import PictureError, get_protocol, load_dataset
from locloc.geg import GEG
from locloc.localization import Classes, Localizer, class_key, sharing
from locloc.localizers import GrabCut, load_method
from locloc.masks import GrabCutParams, grabcut_mask
from locloc.model import LocLoc
from locloc.setting import SavedSetting, Setting

CAT = Path(__file__).parents[1]/"data"/"images"/"cat"/"chelsea.jpg"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    "A finished run, untrained"
    torch.manual_seed(0)
    vit, folder = load_backbone("test_vit", weights=False), tmp_path_factory.mktemp("runs")/"geg"
    LocLoc(vit, GEG(vit.embed_dim, 8, 8)).save(folder/"model")
    return folder


def test_importing_locloc_is_light():
    code = "import locloc, sys; assert 'torch' not in sys.modules; assert 'localize' in dir(locloc)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", localizer_names())
def test_every_registered_name_answers(name):
    localizer = load_localizer(name)
    (found,) = localizer([np.array(Image.open(CAT))])
    assert isinstance(localizer, Localizer) and json.dumps(localizer.fingerprint)
    x0, y0, x1, y1 = found.box
    assert 0 <= x0 < x1 <= 451 and 0 <= y0 < y1 <= 300


@pytest.fixture(scope="module")
def tiny():
    return load_localizer("locloc-tiny")


@pytest.fixture(scope="module")
def cat(tiny):
    "What the shipped model says of the cat"
    return tiny([np.array(Image.open(CAT))])[0]


def test_the_shipped_model_names_imagenets_classes(tiny):
    names = tiny.backbone.classes.names
    assert len(tiny.classes) == len(names) == 1000
    assert all(class_key(class_id) == class_id and class_id[0] == "n" for class_id in tiny.classes)
    assert all(name and name[0].isalpha() and "_" not in name and "," not in name for name in names)


def test_the_cat_is_some_cat(cat):
    cats = {"n02124075": "Egyptian cat", "n02123045": "tabby", "n02123159": "tiger cat"}
    assert cats.get(cat.class_id) == cat.label
    assert cat.words.startswith(f"{cat.label} {100 * cat.score:.0f} %, box ")


def test_the_five_most_probable_classes_are_in_order(cat):
    assert len(cat.top) == len(set(cat.top_ids)) == 5
    assert cat.top[0] == (cat.label, cat.score) and cat.top_ids[0] == cat.class_id
    shares = [share for _, share in cat.top]
    assert shares == sorted(shares, reverse=True) and 0 < sum(shares) <= 1 + 1e-6


def test_the_box_covers_the_cat(cat):
    (known,) = (sample for sample in load_dataset(CAT.parents[2], "test") if "chelsea" in sample.id)
    assert box_iou(cat.box, known.boxes).max() >= .3


def test_where_is_what_grabcut_alone_says(cat):
    alone = localize(CAT, "grabcut:locloc-tiny")
    assert np.array_equal(cat.mask, alone.mask) and np.array_equal(cat.boxes, alone.boxes) and alone.label is None


def test_one_pass_serves_where_and_what(tiny, monkeypatch):
    passes, maps = [], LiteStem.maps

    def counting(self, images):
        passes.append(len(images))
        return maps(self, images)

    monkeypatch.setattr(LiteStem, "maps", counting)
    picture = np.array(Image.open(CAT))
    tiny([picture, picture[:, ::-1]])
    assert passes == [2]


def test_the_shipped_model_takes_grabcuts_options(tiny):
    other = load_localizer("locloc-tiny", delta0=.31)
    assert other.localizer.params.delta0 == .31 and "δ0 0.31" in other.setting
    assert other.fingerprint != tiny.fingerprint and other.fingerprint["classes"] == tiny.fingerprint["classes"]
    with pytest.raises(ValueError, match="takes no attention source"):
        load_localizer("locloc-tiny:lowlevel")


def test_the_file_that_the_tuner_saved_is_a_method(tmp_path):
    file = tmp_path/"params.json"
    setting = Setting(GrabCutParams(.08, .65, split=.3), .4, "lowlevel")
    SavedSetting(setting, 160).save(file)
    cut, hard = load_method(f"tuned=grabcut:{file}"), load_localizer(f"ppd:{file}")
    assert (cut.name, cut.params, cut.size, cut.source.name) == ("tuned", setting.params, 160, "lowlevel")
    assert (hard.ppd, hard.size) == (.4, 160)
    assert load_method(f"grabcut:{file},delta0=.1").params == replace(setting.params, delta0=.1)
    by_hand = load_method("grabcut:lowlevel,delta0=.08,delta1=.65,split=.3,size=160")
    assert np.array_equal(localize(CAT, cut).mask, localize(CAT, by_hand).mask)
    with pytest.raises(ValueError, match="says where attention comes from: leave out layers"):
        load_localizer(f"grabcut:{file}", layers=(0, 1))


def test_a_folder_of_masks_is_no_method(tmp_path):
    (tmp_path/"manifest.json").touch()
    with pytest.raises(ValueError, match="holds masks, not a model: locloc browse"):
        load_localizer(tmp_path)


def test_among_equal_classes_the_earlier_is_first():
    classes = Classes(tuple("abcdef"), ("ant", "bee", "cat", "dog", "elk", "fox"))
    named = classes.most_probable(np.array([.1, .3, .1, .3, .1, .1]), count=4)
    assert named["top_ids"] == ("b", "d", "a", "c") and named["label"] == "bee" and named["class_id"] == "b"
    assert named["top"] == (("bee", .3), ("dog", .3), ("ant", .1), ("cat", .1)) and named["score"] == .3


def test_fewer_classes_than_asked_for():
    named = Classes(("a", "b"), ("ant", "bee")).most_probable([.2, .8])
    assert named["top"] == (("bee", .8), ("ant", .2))


def test_grabcut_is_the_mask_of_the_squashed_picture():
    picture, localizer = np.array(Image.open(CAT)), load_localizer("grabcut:lowlevel", delta0=.2)
    small = get_protocol("wsoleval").picture(picture)
    params = GrabCutParams.preset("lowlevel")
    wanted = grabcut_mask(small, localizer.source(small[None])[0], GrabCutParams(.2, params.delta1, params.split))
    assert np.array_equal(localizer([small])[0].mask, wanted)
    found = localizer([picture])[0]
    assert found.mask.shape == (300, 451) and set(found.stages) == {"attention"}
    inside = np.argwhere(found.mask)
    assert box_iou(found.box, [*inside.min(0)[::-1], *inside.max(0)[::-1] + 1]) > .9


def test_a_list_gives_a_list_whatever_its_length():
    pictures = [CAT, Image.open(CAT), np.array(Image.open(CAT))]
    found = localize(pictures, "ppd:lowlevel", batch_size=2)
    assert len({one.words for one in found}) == 1 and localize([], "ppd:lowlevel") == []


def test_a_run_answers_by_its_folder(run):
    found = localize(CAT, run)
    assert found.label is None and found.score_map.shape == found.score_map.T.shape
    assert load_localizer(run, threshold=.9).threshold == .9 and load_localizer(run).name == str(run)
    assert localize(CAT, str(run)).words == localize(CAT, run/"model").words == found.words


def test_nothing_found_is_said():
    class Blind:
        name, fingerprint = "blind", {"name": "blind"}

        def __call__(self, pictures):
            return np.zeros((len(pictures), 4, 4), np.float32)

    found = localize(CAT, GrabCut(Blind()))
    assert found.boxes.shape == (0, 4) and found.words == "nothing found" and not found.mask.any()


def test_attention_is_computed_once_for_those_who_share_it():
    class Counted:
        name, fingerprint, calls = "counted", {"name": "counted"}, 0

        def __call__(self, pictures):
            Counted.calls += 1
            return np.ones((len(pictures), 4, 4), np.float32)

    pictures = [np.zeros((40, 40, 3), np.uint8)]
    methods = [GrabCut(Counted()), GrabCut(Counted(), size=112), GrabCut(Counted())]
    with sharing():
        for method in methods:
            method(pictures)
    assert Counted.calls == 2  # two sizes of input


@pytest.mark.parametrize("name, options, words", [
    ("grabcutt:lowlevel", {}, "nearest: grabcut:lowlevel"), ("ppd", {}, "needs an attention source"),
    ("whole:lowlevel", {}, "takes no attention source"), ("centred", dict(size=3), "size"),
    ("centred", dict(share=0), "share must be"), ("grabcut:lowlevel", dict(delta0=.9), "delta0"),
    ("ppd:nothing_vit", {}, "no network called"), ("runs/nowhere", {}, "no such folder")])
def test_what_cannot_be_had_is_said(name, options, words):
    with pytest.raises(ValueError, match=words):
        load_localizer(name, **options)


def test_a_folder_that_is_no_run(tmp_path):
    with pytest.raises(FileNotFoundError, match="a model is a folder with"):
        load_localizer(tmp_path)


def test_an_unfinished_run(tmp_path):
    (tmp_path/"checkpoints").mkdir()
    with pytest.raises(ValueError, match="not finished"):
        load_localizer(tmp_path)


def test_a_broken_picture_is_named(tmp_path):
    (tmp_path/"broken.jpg").write_bytes(b"no picture")
    with pytest.raises(PictureError, match=r"broken\.jpg"):
        localize(tmp_path/"broken.jpg", "whole")
