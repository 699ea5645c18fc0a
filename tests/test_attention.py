"Attention maps and sources: edge cases, and how well `lowlevel` points at things"
import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from locloc.attention import attention_map, centre_prior, load_attention
from locloc.boxes import box_iou, boxes_from_map
from locloc.scenes import make_scene


def test_attention_map_is_the_mean_of_chosen_rows():
    rows = torch.rand(3, 4, 2, 5, 7)
    stretch = lambda a: (a - a.amin((1, 2), True)) / (a.amax((1, 2), True) - a.amin((1, 2), True))
    torch.testing.assert_close(attention_map(rows), stretch(rows.mean(2).mean(1)))
    torch.testing.assert_close(attention_map(rows, layers=(1, -1), heads=0), stretch((rows[:, 1, 0] + rows[:, 3, 0]) / 2))
    assert attention_map(rows.half()).dtype == torch.float32
    assert attention_map(torch.full((1, 1, 1, 3, 3), .2)).eq(0).all()


@pytest.mark.parametrize("wrong", [dict(layers=4), dict(layers=-5), dict(heads=()), dict(heads=(0, 2)), dict(layers=.5)])
def test_attention_map_refuses(wrong):
    with pytest.raises(ValueError, match="must be numbers from"):
        attention_map(torch.rand(1, 4, 2, 3, 3), **wrong)


def test_attention_map_wants_five_dimensions():
    with pytest.raises(ValueError, match=r"\(4, 2, 3, 3\)"):
        attention_map(torch.rand(4, 2, 3, 3))


@pytest.mark.parametrize("shape", [(0, 8, 8, 3), (1, 1, 1, 3), (2, 3, 500, 3), (1, 224, 224, 3)])
def test_lowlevel_takes_any_size(shape):
    maps = load_attention("lowlevel")(np.random.default_rng(0).integers(0, 256, shape, np.uint8))
    assert maps.shape == (shape[0], 112, 112) and maps.dtype == np.float32
    assert not maps.size or (maps.min() == 0 and maps.max() == 1)


def test_lowlevel_depends_on_each_picture_alone():
    source, pictures = load_attention("lowlevel"), np.stack([make_scene(i)[0] for i in range(3)])
    np.testing.assert_array_equal(source(pictures)[1:2], source(pictures[1:2]))


def test_lowlevel_sees_more_than_the_centre():
    scenes = [make_scene(i, "test") for i in range(24)]
    maps = load_attention("lowlevel")(np.stack([s[0] for s in scenes]))
    cells = np.stack([s[1].reshape(112, 2, 112, 2).mean((1, 3)) for s in scenes])
    inside = lambda a: (a * cells).sum((1, 2)) / a.sum((1, 2)) # share of a map that lies on the figure
    assert inside(maps).mean() > inside(centre_prior(112, 112)[None]).mean() + .1


@pytest.mark.parametrize("pictures", [np.zeros((8, 8, 3), np.uint8), np.zeros((1, 8, 8, 3)), np.zeros((1, 8, 8, 4), np.uint8), np.zeros((1, 0, 8, 3), np.uint8)])
def test_sources_refuse_what_is_no_picture(pictures):
    with pytest.raises(ValueError, match="wanted pictures"):
        load_attention("lowlevel")(pictures)


def test_lowlevel_has_no_options():
    with pytest.raises(ValueError, match="no weights"):
        load_attention("lowlevel", layers=1)


def test_backbone_source():
    torch.manual_seed(0)
    source = load_attention("deit_tiny", weights=False, depth=2, layers=0)
    pictures = np.random.default_rng(0).integers(0, 256, (2, 40, 95, 3), np.uint8)
    maps = source(pictures)
    assert maps.shape == (2, 2, 6) and maps.dtype == np.float32 and source.name == "deit_tiny" # nearest multiples of 16
    again = pickle.loads(pickle.dumps(source))
    np.testing.assert_array_equal(again(pictures), maps)
    assert json.dumps(again.fingerprint) == json.dumps(source.fingerprint)
    assert source.fingerprint != load_attention("deit_tiny", weights=False, depth=2, layers=0).fingerprint # other random weights


@pytest.mark.skipif(not os.environ.get("LOCLOC_REAL"), reason="LOCLOC_REAL names no folder of photographs")
def test_lowlevel_on_photographs():
    from locloc.data import get_protocol, load_dataset
    birds, protocol, source = load_dataset(Path(os.environ["LOCLOC_REAL"])/"cub20", "test"), get_protocol("wsoleval"), load_attention("lowlevel")
    hits = []
    for sample in birds:
        a = source(protocol.picture(sample.picture)[None])[0]
        box = boxes_from_map(np.kron(a, np.ones((2, 2))), [.35], inclusive=True)[0]
        hits.append(box_iou(box, protocol.boxes(sample.boxes, sample.size), inclusive=True).max() >= .5)
    assert np.mean(hits) > .69
