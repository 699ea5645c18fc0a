"The door: what it opens to, what it refuses; answers are in the picture's own pixels."
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from locloc import load_localizer, localize, localizer_names
from locloc.backbone import load_backbone
from locloc.boxes import box_iou
from locloc.data import PictureError, get_protocol
from locloc.geg import GEG
from locloc.localization import Localizer, sharing
from locloc.localizers import GrabCut
from locloc.masks import GrabCutParams, grabcut_mask
from locloc.model import LocLoc

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
    ("ppd:nothing_vit", {}, "no backbone called"), ("runs/nowhere", {}, "no run folder")])
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
