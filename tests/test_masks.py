"Pure functions of masks: GrabCut against OpenCV itself, trimaps pixel by pixel, thresholds and their presets"
import cv2
import numpy as np
import pytest

from locloc.attention import Source, load_attention, register_source
from locloc.data import load_dataset
from locloc.grabcut import PreparedPicture, grabcut
from locloc.masks import (
    GrabCutParams,
    Preset,
    grabcut_mask,
    ppd_mask,
    preset,
    preset_names,
    source_preset,
    trimap,
)


@pytest.fixture(scope="module")
def scene():
    sample = load_dataset("scenes", split="train", count=8, size=96)[0]
    return sample.picture, load_attention("lowlevel")(sample.picture[None])[0]


@pytest.fixture(scope="module")
def marks(scene):
    picture, attention = scene
    return trimap(attention, .12, .6, picture.shape[:2], .3)


@pytest.fixture
def noise():
    return np.random.default_rng(0).integers(0, 256, (8, 9, 3), dtype=np.uint8)


def test_grabcut_is_opencv_seeded(scene, marks):
    expected, models = marks.copy(), np.zeros((2, 1, 65))
    bgr = np.ascontiguousarray(scene[0][..., ::-1]) # RGB or BGR is the same to it
    cv2.setRNGSeed(0)
    cv2.grabCut(bgr, expected, None, *models, 2, cv2.GC_INIT_WITH_MASK)
    cv2.setRNGSeed(7)
    found = grabcut(scene[0], marks, iterations=2, kernel="cv2")
    assert np.array_equal(found, np.isin(expected, (1, 3)))


def test_grabcut_leaves_the_marks_as_they_are(scene, marks):
    before = marks.copy()
    grabcut(scene[0], marks, iterations=2, kernel="cv2")
    assert np.array_equal(marks, before)


def test_grabcut_takes_views(scene, marks):
    picture, turned = scene[0][::-1, ::-1], marks[::-1, ::-1]
    assert np.array_equal(grabcut(picture, turned), grabcut(picture.copy(), turned.copy()))


@pytest.mark.parametrize("code, expected", [(0, False), (2, False), (1, True), (3, True)])
def test_grabcut_one_side_only(noise, code, expected):
    assert (grabcut(noise, np.full((8, 9), code, np.uint8)) == expected).all()


def test_grabcut_nothing_uncertain(noise):
    certain = (noise[..., 0] > 99).astype(np.uint8)
    assert np.array_equal(grabcut(noise, certain), certain == 1)


@pytest.mark.parametrize("image, marks, told", [
    (np.zeros((4, 4, 3)), np.zeros((4, 4), np.uint8), "float64"),
    (np.zeros((4, 4), np.uint8), np.zeros((4, 4), np.uint8), r"\(4, 4\) uint8"),
    (np.zeros((4, 4, 3), np.uint8), np.zeros((4, 5), np.uint8), r"\(4, 5\)"),
    (np.zeros((4, 4, 3), np.uint8), np.full((4, 4), 4, np.uint8), "got 4"),
])
def test_grabcut_refuses(image, marks, told):
    with pytest.raises(ValueError, match=told):
        grabcut(image, marks)


def expected_mark(a, split):
    "By hand, for δ0 = .2 and δ1 = .7"
    if a < .2:
        return 0
    if a >= .7:
        return 1
    return 3 if split is not None and a > split else 2


@pytest.mark.parametrize("split", [None, .4])
def test_trimap_pixel_by_pixel(split):
    attention = np.random.default_rng(3).random((5, 7)).astype(np.float32)
    up = cv2.resize(attention, (31, 20), interpolation=cv2.INTER_LINEAR)
    expected = [[expected_mark(a, split) for a in row] for row in up]
    assert np.array_equal(trimap(attention, .2, .7, (20, 31), split), expected)


@pytest.fixture
def half():
    return np.full((4, 4), .5, np.float32)


def test_what_reaches_delta1_is_foreground(half):
    assert (trimap(half, .5, .5, (8, 8)) == 1).all()


def test_what_is_below_delta0_is_background(half):
    assert (trimap(half, .51, .6, (8, 8)) == 0).all()


def test_what_reaches_delta0_is_uncertain_and_split_itself_starts_as_background(half):
    assert (trimap(half, .5, .6, (8, 8), split=.5) == 2).all()


def test_what_reaches_the_threshold_is_in_the_mask_of_ppd(half):
    assert ppd_mask(half, .5, (8, 8)).all()


@pytest.mark.parametrize("attention", [
    np.full((2, 2), np.nan), np.full((2, 2), 1.1), np.zeros((1, 2, 2)), np.zeros((0, 2))])
def test_attention_is_checked(attention):
    with pytest.raises(ValueError, match="attention must"):
        ppd_mask(attention, .5, (4, 4))


@pytest.mark.parametrize("wrong", [
    dict(delta0=.8), dict(delta1=1.2), dict(delta0=-.1), dict(delta0=float("nan")), dict(split=2), dict(iterations=0)])
def test_params_are_checked(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        GrabCutParams(**wrong)


@pytest.mark.parametrize("name", ["paper", "lowlevel"])
def test_params_survive_json(name):
    params = GrabCutParams.preset(name)
    assert GrabCutParams.from_json(params.to_json()) == params


def test_the_papers_thresholds_are_the_default():
    assert GrabCutParams.preset("paper") == GrabCutParams()


def test_unknown_preset_is_told_what_there_is():
    with pytest.raises(ValueError, match="lowlevel"):
        GrabCutParams.preset("nothing")


def test_a_source_brings_its_preset(own_sources):
    register_source(Source("bright", params=dict(delta0=.2, delta1=.8, split=.4), ppd=.6))
    assert source_preset("bright") == preset("bright") == Preset(GrabCutParams(.2, .8, split=.4), ppd=.6)


def test_presets_of_sources_are_listed_behind_the_published_ones(own_sources):
    before = preset_names()
    register_source(Source("bright", params={}))
    assert preset_names() == [*before, "bright"] and before[:2] == ["paper", "released_code"]


def test_a_source_without_thresholds_has_no_preset_of_its_own(own_sources):
    register_source(Source("bright"))
    assert source_preset("bright") == preset("paper")
    with pytest.raises(ValueError, match="no preset 'bright'"):
        preset("bright")


def test_a_source_without_a_hard_threshold_has_the_papers(own_sources):
    register_source(Source("bright", params=dict(delta0=.2)))
    assert preset("bright") == Preset(GrabCutParams(delta0=.2), ppd=preset("paper").ppd)


def test_a_hard_threshold_of_zero_is_one(own_sources):
    register_source(Source("bright", params={}, ppd=0))
    assert preset("bright").ppd == 0


def test_thresholds_of_a_source_are_checked(own_sources):
    register_source(Source("bright", params=dict(delta0=.8, delta1=.2)))
    with pytest.raises(ValueError, match="need 0 <= delta0 <= delta1 <= 1"):
        source_preset("bright")


def test_joined_sources_have_the_preset_of_their_joined_name(own_sources):
    register_source(Source("bright", params=dict(delta0=.2)))
    assert source_preset("bright+lowlevel") == preset("paper")
    register_source(Source("bright+lowlevel", params=dict(delta0=.3)))
    assert source_preset("bright+lowlevel").params == GrabCutParams(delta0=.3)


def test_registered_sources_do_not_outlive_their_test():
    assert "bright" not in preset_names()


@pytest.fixture
def ready():
    picture = load_dataset("scenes", count=1)[0].picture
    attention = np.linspace(0, 1, 196, dtype=np.float32).reshape(14, 14)
    return picture, PreparedPicture(picture), attention


@pytest.mark.parametrize("params", [GrabCutParams(.2, .8, split=.5), GrabCutParams(.1, .6)])
def test_a_prepared_picture_has_the_same_masks(ready, params):
    picture, prepared, attention = ready
    assert np.array_equal(grabcut_mask(prepared, attention, params), grabcut_mask(picture, attention, params))


def test_a_prepared_picture_has_one_kernel(ready):
    with pytest.raises(ValueError, match="kernel grid, not cv2"):
        grabcut_mask(ready[1], ready[2], GrabCutParams(kernel="cv2"))
