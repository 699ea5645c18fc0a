"Attention maps and sources: edge cases, the registry, and how well `lowlevel` points at things"
import json
import os
import pickle
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from scipy.sparse import csr_array
from scipy.sparse.csgraph import dijkstra

from locloc import attention
from locloc.attention import (
    Agreement,
    ClassActivation,
    CLSAttention,
    Source,
    attention_map,
    border_distance,
    centre_prior,
    colour_vote,
    load_attention,
    register_source,
)
from locloc.backbone import load_backbone, load_classifier
from locloc.boxes import box_iou, boxes_from_map
from locloc.data import get_protocol, load_dataset
from locloc.scenes import make_scene


@pytest.fixture
def rows():
    return torch.rand(3, 4, 2, 5, 7)


def stretched(maps):
    low, high = maps.amin((1, 2), True), maps.amax((1, 2), True)
    return (maps - low) / (high - low)


def test_attention_map_is_the_mean_of_all_rows(rows):
    torch.testing.assert_close(attention_map(rows), stretched(rows.mean(2).mean(1)))


def test_attention_map_is_the_mean_of_chosen_rows(rows):
    expected = stretched((rows[:, 1, 0] + rows[:, 3, 0]) / 2)
    torch.testing.assert_close(attention_map(rows, layers=(1, -1), heads=0), expected)


def test_attention_map_of_half_precision_is_float32(rows):
    assert attention_map(rows.half()).dtype == torch.float32


def test_attention_map_of_constant_rows_is_zero():
    assert attention_map(torch.full((1, 1, 1, 3, 3), .2)).eq(0).all()


@pytest.mark.parametrize("wrong", [
    dict(layers=4), dict(layers=-5), dict(layers=.5), dict(heads=()), dict(heads=(0, 2))])
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
    maps = load_attention("lowlevel")(np.stack([scene[0] for scene in scenes]))
    masks = np.stack([scene[1] for scene in scenes])
    figures = masks.reshape(24, 112, 2, 112, 2).mean((2, 4)) # (B, 224, 224) -> (B, 112, 112)
    def mean_share_on_the_figure(maps):
        return ((maps * figures).sum((1, 2)) / maps.sum((1, 2))).mean()
    assert mean_share_on_the_figure(maps) > mean_share_on_the_figure(centre_prior(112, 112)[None]) + .1


@pytest.mark.parametrize("pictures", [
    np.zeros((8, 8, 3), np.uint8), np.zeros((1, 8, 8, 3)), np.zeros((1, 8, 8, 4), np.uint8),
    np.zeros((1, 0, 8, 3), np.uint8)])
def test_sources_refuse_what_is_no_picture(pictures):
    with pytest.raises(ValueError, match="wanted pictures"):
        load_attention("lowlevel")(pictures)


def test_lowlevel_has_no_options():
    with pytest.raises(ValueError, match="no weights"):
        load_attention("lowlevel", layers=1)


def load_small_vit():
    return load_attention("deit_tiny", weights=False, depth=2, layers=0)


@pytest.fixture(scope="module")
def vit_source():
    torch.manual_seed(0)
    return load_small_vit()


@pytest.fixture
def wide_pictures():
    return np.random.default_rng(0).integers(0, 256, (2, 40, 95, 3), np.uint8)


def test_backbone_source_takes_the_nearest_multiples_of_16(vit_source, wide_pictures):
    maps = vit_source(wide_pictures)
    assert maps.shape == (2, 2, 6) and maps.dtype == np.float32


def test_backbone_source_has_the_name_of_its_backbone(vit_source):
    assert vit_source.name == "deit_tiny"


def test_backbone_source_can_be_pickled(vit_source, wide_pictures):
    again = pickle.loads(pickle.dumps(vit_source))
    np.testing.assert_array_equal(again(wide_pictures), vit_source(wide_pictures))
    assert json.dumps(again.fingerprint) == json.dumps(vit_source.fingerprint)


def test_other_weights_have_another_fingerprint(vit_source):
    assert load_small_vit().fingerprint != vit_source.fingerprint # weights are drawn anew


class Bright:
    "Attention source: the brighter, the more attention"
    name, fingerprint = "bright", dict(name="bright", version=1)

    def __call__(self, pictures):
        return (pictures[:, ::8, ::8].mean(-1) / 255).astype(np.float32)


class Dark(Bright):
    "And its opposite, on a finer grid"
    name, fingerprint = "dark", dict(name="dark", version=1)

    def __call__(self, pictures):
        return (1 - pictures[:, ::4, ::4].mean(-1) / 255).astype(np.float32)


@pytest.fixture
def registered(own_sources):
    for source in (Source("bright", Bright), Source("dark", Dark)):
        register_source(source)


def test_a_registered_source_is_loaded_by_its_name(registered):
    assert type(load_attention("bright")) is Bright


def test_a_registered_source_without_options_says_so(registered):
    with pytest.raises(ValueError, match="bright has no weights"):
        load_attention("bright", layers=0)


def test_registering_a_name_again_replaces_it(registered):
    register_source(Source("bright", Dark))
    assert type(load_attention("bright")) is Dark


def test_registered_sources_join(registered):
    both = load_attention("bright+dark")
    assert isinstance(both, Agreement) and both.name == "bright+dark"
    assert both.fingerprint["sources"] == dict(bright=Bright.fingerprint, dark=Dark.fingerprint)


def test_joined_sources_agree_on_the_finest_grid(registered):
    pictures = np.random.default_rng(0).integers(0, 256, (2, 32, 48, 3), np.uint8)
    maps = load_attention("bright+dark")(pictures)
    assert maps.shape == (2, 8, 12) and maps.dtype == np.float32
    assert maps.min() == 0 and maps.max() == 1


def test_a_registered_source_joins_a_backbone_which_alone_gets_the_options(registered):
    _, vit = load_attention("bright+deit_tiny", weights=False, depth=2, layers=0).sources
    assert isinstance(vit, CLSAttention) and vit.layers == 0


def test_a_joined_name_can_have_a_maker_of_its_own(registered):
    register_source(Source("bright+dark", Dark))
    assert type(load_attention("bright+dark")) is Dark


def test_a_joined_name_that_only_has_thresholds_is_still_joined(registered):
    register_source(Source("bright+dark", params=dict(delta0=.2)))
    assert isinstance(load_attention("bright+dark"), Agreement)


def load_first_layer(weights=None, layers=(0,), heads=None, **timm_kwargs):
    return CLSAttention(load_backbone("deit_tiny", weights, **timm_kwargs), layers, heads)


def test_a_maker_that_takes_options_gets_those_that_are_given(own_sources):
    register_source(Source("first-layer", partial(load_first_layer, depth=2)))
    assert load_attention("first-layer", weights=False).layers == (0,)
    assert load_attention("first-layer", weights=False, layers=1).layers == 1


def test_registered_sources_do_not_outlive_their_test():
    with pytest.raises((ValueError, FileNotFoundError)):
        load_attention("bright")


CLASSIFIERS = { # name -> options
    "efficientnet_lite0": {}, "resnet18": dict(weights=False), "convnext_atto": dict(weights=False),
    "deit_tiny": dict(weights=False, depth=2, dynamic_img_size=True)}


@pytest.fixture(scope="module", params=CLASSIFIERS)
def cam(request):
    torch.manual_seed(0)
    return load_attention(f"cam:{request.param}", **CLASSIFIERS[request.param])


@pytest.fixture(scope="module")
def noise():
    return np.random.default_rng(0).integers(0, 256, (2, 96, 160, 3), np.uint8)


def test_cam_is_a_map_in_0_1(cam, noise):
    maps = cam(noise)
    grid = (6, 10) if cam.name == "cam:deit_tiny" else (3, 5)
    assert maps.shape == (2, *grid) and maps.dtype == np.float32
    assert maps.min() == 0 and maps.max() == 1


def test_cam_of_a_mirrored_picture_is_mirrored(cam, noise):
    mirrored = np.ascontiguousarray(noise[:, :, ::-1])
    np.testing.assert_allclose(cam(mirrored), cam(noise)[:, :, ::-1], atol=1e-3)


def test_cam_has_a_name_and_a_fingerprint(cam):
    assert cam.name in {f"cam:{name}" for name in CLASSIFIERS}
    assert json.loads(json.dumps(cam.fingerprint)) == cam.fingerprint and cam.fingerprint["name"] == cam.name


def test_cam_refuses_what_is_no_picture(cam):
    with pytest.raises(ValueError, match="wanted pictures"):
        cam(np.zeros((1, 8, 8, 3)))


@pytest.fixture(scope="module")
def resnet18():
    torch.manual_seed(1)
    return load_classifier("resnet18", weights=False, num_classes=7)


def textbook_cam(model, picture):
    "Features times the rows of the last layer, weighted by the probabilities of the classes: (h, w)"
    cfg = model.pretrained_cfg
    image = torch.from_numpy((picture / 255 - cfg["mean"]) / cfg["std"]).float().permute(2, 0, 1)[None]
    features, shares = model.forward_features(image)[0], model(image).softmax(1)[0]
    says = sum(p * (torch.einsum("dhw,d->hw", features, row) + bias)
               for p, row, bias in zip(shares, model.fc.weight, model.fc.bias, strict=True))
    return says.clamp_min(0).numpy()


def test_cam_is_that_of_the_textbook(resnet18, noise):
    straight, mirrored = (textbook_cam(resnet18, picture) for picture in (noise[0], noise[0][:, ::-1]))
    wanted = straight + mirrored[:, ::-1]
    wanted = (wanted - wanted.min()) / np.ptp(wanted)
    assert np.unique(wanted).size > 10
    np.testing.assert_allclose(ClassActivation(resnet18, "resnet18")(noise[:1])[0], wanted, atol=1e-3)


@pytest.mark.parametrize("chosen", [dict(layers=0), dict(heads=(1, 2))])
def test_cam_has_no_layers_and_no_heads(chosen):
    with pytest.raises(ValueError, match="cam:efficientnet_lite0 has no layers and no heads"):
        load_attention("cam:efficientnet_lite0", **chosen)


def test_cam_of_an_unknown_network_names_the_nearest():
    with pytest.raises(ValueError, match="no network called 'resnet1_8'; nearest: .*resnet18"):
        load_attention("cam:resnet1_8", weights=False)


def test_lowlevel_and_cam_join():
    source = load_attention("lowlevel+cam:efficientnet_lite0")
    assert [type(one).__name__ for one in source.sources] == ["LowLevel", "ClassActivation"]
    maps = source(np.stack([make_scene(i)[0] for i in range(2)]))
    assert maps.shape == (2, 112, 112) and maps.min() == 0 and maps.max() == 1


def test_a_classifiers_weights_file_is_loaded(resnet18, noise, tmp_path):
    path = tmp_path/"model.safetensors"
    save_file(resnet18.state_dict(), path)
    again = load_classifier("resnet18", weights=path, num_classes=7)
    assert not again.training and not any(p.requires_grad for p in again.parameters())
    assert all(torch.equal(value, resnet18.state_dict()[key]) for key, value in again.state_dict().items())
    source = load_attention("cam:resnet18", weights=path, num_classes=7)
    np.testing.assert_array_equal(source(noise), ClassActivation(resnet18, "resnet18")(noise))


def test_a_classifiers_weights_file_needs_neither_suffix_nor_plain_names(resnet18, tmp_path):
    wrapped = {f"module.model.{name}": value for name, value in resnet18.state_dict().items()}
    torch.save({"epoch": 3, "state_dict": wrapped}, tmp_path/"model.safetensors")
    again = load_classifier("resnet18", weights=tmp_path/"model.safetensors", num_classes=7)
    assert all(torch.equal(value, resnet18.state_dict()[key]) for key, value in again.state_dict().items())
    assert "state_dict" not in again.pretrained_cfg


def test_a_classifiers_weights_file_of_timms_own_is_loaded(tmp_path):
    torch.manual_seed(0)
    model = timm.create_model("convnext_atto", pretrained=False)
    save_file(model.state_dict(), tmp_path/"model.safetensors")
    again = load_classifier("convnext_atto", weights=str(tmp_path/"model.safetensors"))
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in again.state_dict().items())


@pytest.mark.parametrize("name", ["model.safetensors", "model.pth"])
@pytest.mark.parametrize("content", [b"", b"<html>404</html>", bytes(100)], ids=["empty", "page", "zeros"])
def test_a_classifiers_damaged_weights_file_is_named(tmp_path, name, content):
    path = tmp_path/name
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"{name} for resnet18 can't be loaded"):
        load_classifier("resnet18", weights=path)


def test_a_classifiers_weights_file_cut_short_is_named(resnet18, tmp_path):
    path = tmp_path/"model.safetensors"
    save_file(resnet18.state_dict(), path)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(ValueError, match=r"model\.safetensors"):
        load_classifier("resnet18", weights=path, num_classes=7)


def test_another_networks_weights_file_is_named(resnet18, tmp_path):
    path = tmp_path/"model.safetensors"
    save_file(resnet18.state_dict(), path)
    with pytest.raises(ValueError, match=r"model\.safetensors"):
        load_classifier("convnext_atto", weights=path)


def test_a_classifiers_missing_weights_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no weights file at .*absent\.pth"):
        load_classifier("resnet18", weights=tmp_path/"absent.pth")


def test_a_classifier_without_network_names_its_file(monkeypatch):
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *a: None)
    with pytest.raises(FileNotFoundError, match="timm/resnet18.*--weights"):
        load_attention("cam:resnet18")


@pytest.mark.skipif(not os.environ.get("LOCLOC_REAL"), reason="LOCLOC_REAL names no folder of photographs")
def test_lowlevel_on_photographs():
    birds = load_dataset(Path(os.environ["LOCLOC_REAL"])/"cub20", "test")
    protocol, source = get_protocol("wsoleval"), load_attention("lowlevel")
    hits = []
    for sample in birds:
        attention = source(protocol.picture(sample.picture)[None])[0]
        box = boxes_from_map(np.kron(attention, np.ones((2, 2))), [.35], inclusive=True)[0]
        true_boxes = protocol.boxes(sample.boxes, sample.size)
        hits.append(box_iou(box, true_boxes, inclusive=True).max() >= .5)
    assert np.mean(hits) > .69


def test_a_classifier_that_takes_one_size_says_so():
    source = load_attention("cam:deit_tiny", weights=False, depth=1)
    with pytest.raises(ValueError, match="cam:deit_tiny.*dynamic_img_size=True"):
        source(np.zeros((1, 100, 100, 3), np.uint8))


def test_a_network_without_classes_is_no_classifier():
    with pytest.raises(ValueError, match="resnet18 has no classes"):
        load_attention("cam:resnet18", weights=False, num_classes=0)


@pytest.mark.parametrize("count", [100, 200, 400])
def test_segments_are_those_of_scikit_image(count):
    skimage = pytest.importorskip("skimage.segmentation")
    noise = np.random.default_rng(0).integers(0, 256, (112, 112, 3), np.uint8)
    flat, ramp = np.full((112, 112, 3), 90, np.uint8), np.tile(np.arange(112, dtype=np.uint8)[:, None], (112, 1, 3))
    step = attention.SIDE / count**.5
    for picture in (noise, flat, ramp, *(make_scene(i, size=112)[0] for i in range(4))):
        lab = attention._lab(picture)
        found = attention._slic(attention._weighted_colours(lab), round(step), int(step // 2), 3)
        compactness = 15 / max(np.ptp(lab), 1e-6)
        wanted = skimage.slic(lab, count, compactness, max_num_iter=3, start_label=0, convert2lab=False)
        assert np.array_equal(found, wanted)


def features_of(seed, shape=(28, 28, 6)):
    "Noise in which ways wind: a third of the cells is far from all others"
    rng = np.random.default_rng(seed)
    features = rng.uniform(0, 20, shape)
    features[rng.random(shape[:2]) < .3] += 500
    return features.astype(np.float32)


@pytest.mark.parametrize("shape", [(28, 28, 6), (14, 14, 6), (9, 31, 1), (1, 5, 2), (3, 3, 6)])
def test_distances_to_the_border_are_dijkstras(shape):
    h, w = shape[:2]
    (a, b), border = attention._grid(h, w)
    for seed in range(5):
        features = features_of(seed, shape)
        cells = features.reshape(h * w, -1)
        graph = csr_array((np.linalg.norm(cells[a] - cells[b], axis=1) + 1, (a, b)), (h * w, h * w))
        wanted = dijkstra(graph, directed=False, indices=border, min_only=True).reshape(h, w)
        assert np.array_equal(border_distance(features), (wanted / max(wanted.max(), 1e-6)).astype(np.float32))


def test_a_vote_is_the_mean_over_all_cells_by_likeness():
    saliency, features = np.random.default_rng(0).random((28, 28)), features_of(1) / 50
    places = np.stack(np.mgrid[:28, :28], -1) / 28
    likeness = np.concatenate([features / 6, places / .2], -1).reshape(28**2, -1)
    weights = np.exp(-np.square(likeness[:, None] - likeness).sum(-1) / 2)
    wanted = ((weights * saliency.ravel()).sum(1) / weights.sum(1)).reshape(28, 28)
    np.testing.assert_allclose(colour_vote(saliency, features, mix=1), wanted / wanted.max(), rtol=1e-4)


def test_means_of_segments_are_bincounts():
    rng = np.random.default_rng(0)
    values, parts = rng.random((112, 112), np.float32), rng.integers(0, 90, (112, 112), np.int32)
    wanted = np.bincount(parts.ravel(), values.ravel()) / np.bincount(parts.ravel())
    assert np.array_equal(attention._mean_of_parts(values, parts), wanted[parts])
