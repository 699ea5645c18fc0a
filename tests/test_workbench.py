"The tuner without its widgets: pictures from anywhere, settings, sources, what a prediction got wrong"
from dataclasses import replace

import cv2
import pytest

from locloc.data import load_dataset
from locloc.masks import preset
from locloc.stores import make_masks
from locloc.workbench import Workbench, as_dataset, first_setting

SCENES = load_dataset("scenes", split="test", count=6)


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
