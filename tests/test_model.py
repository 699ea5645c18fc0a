"LocLoc: the authors' checkpoints, two files that survive what happens to files, honest errors."
import json
from argparse import Namespace

import numpy as np
import pytest
import torch
from reference_heads import reference_head
from safetensors.torch import save_file

from locloc.backbone import load_backbone
from locloc.geg import GEG
from locloc.lfdm import LFDM, LinearHead
from locloc.localization import Localizer
from locloc.model import GEGMap, LocLoc, load_locloc_tiny

NAMES = "crow", "tern", "gull"


@pytest.fixture(scope="module")
def vit():
    return load_backbone("test_vit", weights=False)


def small_geg(vit):
    return GEG(vit.embed_dim, 8, 8)


def small_lfdm(vit):
    return LFDM.from_backbone(vit, 3)


def linear_head(vit):
    return LinearHead.from_backbone(vit, 3)


def no_head(vit):
    return None


@pytest.fixture
def model(vit):
    torch.manual_seed(0)
    return LocLoc(vit, small_geg(vit), small_lfdm(vit), NAMES, threshold=.4, config={"note": "é"})


@pytest.fixture(scope="module")
def pictures():
    return np.random.default_rng(0).integers(0, 255, (2, 90, 160, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def generator():
    return reference_head("geg")


@pytest.fixture(scope="module")
def classifier():
    return reference_head("lfdm")


@pytest.fixture(scope="module")
def authors_model(generator, classifier):
    return LocLoc.from_reference(generator=generator[0], classifier=classifier[0])


def test_the_authors_generator_answers_as_theirs(authors_model, generator):
    _, patches, expected, _ = generator
    with torch.no_grad():
        torch.testing.assert_close(authors_model.geg(patches), expected, rtol=1e-4, atol=0)


def test_the_authors_classifier_answers_as_theirs(authors_model, classifier):
    _, embedding, expected, _ = classifier
    with torch.no_grad():
        torch.testing.assert_close(authors_model.lfdm(embedding), expected, rtol=1e-4, atol=1e-6)


def test_the_authors_model_has_200_classes(authors_model):
    assert len(authors_model.classes) == 200


def test_without_a_backbone_no_picture_is_answered(authors_model):
    with pytest.raises(ValueError, match="no backbone"):
        authors_model.predict(np.zeros((9, 9, 3), np.uint8))


def save_wrapped(state, path):
    torch.save({"model": state, "args": Namespace(lr=1.)}, path)


def save_prefixed(state, path):
    torch.save({"state_dict": {f"model._orig_mod.{name}": value for name, value in state.items()}}, path)


@pytest.mark.parametrize("name, save", [
    ("plain.pth", torch.save), ("wrapped.pth", save_wrapped), ("plain.safetensors", save_file),
    ("safetensors.pth", save_file), ("pickle.safetensors", torch.save), ("prefixed.ckpt", save_prefixed)])
def test_reference_checkpoint_files(tmp_path, generator, name, save):
    state = generator[0]
    save(state, tmp_path/name)
    model = LocLoc.from_reference(generator=tmp_path/name)
    assert torch.equal(model.geg.conv[0].weight, state["att_conv2.weight"]) and model.lfdm is None


def test_a_reference_checkpoint_that_is_damaged_is_named(tmp_path):
    (tmp_path/"text.pth").write_text("no weights")
    with pytest.raises(ValueError, match="text.pth is not a readable weights file: it is text"):
        LocLoc.from_reference(tmp_path/"text.pth")


def test_a_reference_checkpoint_that_is_missing_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="gone.pth"):
        LocLoc.from_reference(tmp_path/"gone.pth")


def test_a_state_dict_of_something_else_is_refused():
    with pytest.raises(ValueError, match="authors' generator"):
        LocLoc.from_reference({"a": torch.zeros(1)})


def released_geg(vit):
    return GEG(vit.embed_dim, 4, 12, layout="released_code")


def released_lfdm(vit):
    return LFDM.from_backbone(vit, 3, "released_code")


def shallow_lfdm(vit):
    return LFDM(vit.embed_dim, 3, 2, 4, vit.num_prefix_tokens, mlp_ratio=2.)


@pytest.fixture(params=[
    (small_geg, released_lfdm), (released_geg, shallow_lfdm), (no_head, linear_head), (small_geg, no_head)])
def saved(request, vit, tmp_path):
    "A model with other heads each time, and the same from its folder"
    make_geg, make_lfdm = request.param
    model = LocLoc(vit, make_geg(vit), make_lfdm(vit), NAMES, .3, "locloc", {"seed": 1})
    model.save(tmp_path/"a/b")
    return model, LocLoc.load(tmp_path/"a/b")


def test_saved_and_loaded_it_answers_the_same(saved, pictures):
    model, again = saved
    for one, other in zip(model.heads(pictures[:, :80]), again.heads(pictures[:, :80]), strict=True):
        assert (one is None and other is None) or torch.equal(one, other)


def test_saved_and_loaded_its_settings_are_the_same(saved, vit):
    _, again = saved
    assert (again.classes, again.threshold, again.protocol, again.config) == (NAMES, .3, "locloc", {"seed": 1})
    assert again.backbone.weights_hash == vit.weights_hash


def test_a_model_is_two_files(tmp_path, saved):
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a", "b", "config.json", "model.safetensors"]


def test_backbone_options_are_kept(tmp_path):
    vit = load_backbone("test_vit", weights=False, embed_dim=32, depth=1, num_heads=2)
    LocLoc(vit, GEG(32, 4, 4), LFDM.from_backbone(vit, 2), "ab").save(tmp_path/"model")
    assert LocLoc.load(tmp_path/"model").backbone.embed_dim == 32


def test_failed_save_leaves_the_old_model(tmp_path, model):
    model.save(tmp_path/"model")
    before = {path.name: path.read_bytes() for path in (tmp_path/"model").iterdir()}
    model.config = {"not JSON": object()}
    with pytest.raises(TypeError):
        model.save(tmp_path/"model")
    assert {path.name: path.read_bytes() for path in (tmp_path/"model").iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_failed_save_leaves_nothing_beside(tmp_path, model):
    model.config = {"not JSON": object()}
    with pytest.raises(TypeError):
        model.save(tmp_path/"new")
    assert [*tmp_path.iterdir()] == []


def test_a_model_can_be_saved_again(tmp_path, model):
    model.save(tmp_path/"model")
    model.config, model.threshold = {}, .7
    model.save(tmp_path/"model")
    assert LocLoc.load(tmp_path/"model").threshold == .7 and [path.name for path in tmp_path.iterdir()] == ["model"]


def load_error(folder):
    "What is said of a damaged model, in one line"
    with pytest.raises((ValueError, OSError)) as error:
        LocLoc.load(folder)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_missing_file_is_named(tmp_path, model, name):
    model.save(tmp_path/"model")
    (tmp_path/"model"/name).unlink()
    assert f"{name} is missing" in load_error(tmp_path/"model")


def damaged(folder, model, name, change):
    "The folder of a model of which one file is changed"
    model.save(folder/"model")
    file = folder/"model"/name
    content = file.read_bytes()
    assert change(content) != content
    file.unlink()
    file.write_bytes(change(content))
    return folder/"model"


@pytest.mark.parametrize("change", [lambda content: b"", lambda content: content[:len(content) // 2]])
def test_damaged_weights_are_named(tmp_path, model, change):
    folder = damaged(tmp_path, model, "model.safetensors", change)
    assert "model.safetensors is damaged" in load_error(folder)


@pytest.mark.parametrize("change", [lambda content: content[:50], lambda content: b"\xff\xfe"])
def test_a_damaged_config_is_named(tmp_path, model, change):
    folder = damaged(tmp_path, model, "config.json", change)
    assert "config.json is damaged" in load_error(folder)


@pytest.mark.parametrize("change, told", [
    (lambda content: b"[]", "config.json is damaged (it holds no JSON object)"),
    (lambda content: content.replace(b'"geg"', b'"gig"'), "config.json does not describe"),
    (lambda content: content.replace(b'"gull"', b'"gull", "auk"'), "4 class names"),
    (lambda content: content.replace(b'"width": 8', b'"width": 9'), "model.safetensors: "),
])
def test_a_config_that_does_not_fit_is_named(tmp_path, model, change, told):
    folder = damaged(tmp_path, model, "config.json", change)
    assert told in load_error(folder)


def test_config_can_be_read_by_others(tmp_path, model):
    model.save(tmp_path/"model")
    config = json.loads((tmp_path/"model/config.json").read_text(encoding="utf-8"))
    assert config["classes"] == list(NAMES) and config["config"] == {"note": "é"}
    assert config["backbone"]["weights_hash"] == model.backbone.weights_hash


def test_batch_and_order_do_not_matter(model, pictures):
    turned = pictures[0][::-1].copy()
    together = model.predict_batch([*pictures, turned])
    assert len(together) == 3
    for picture, found in zip([*pictures, turned], together, strict=True):
        alone = model.predict(picture)
        assert alone.label == found.label
        assert np.abs(alone.score_map - found.score_map).max() < 1e-3 and np.abs(alone.box - found.box).max() < 3


def test_top_classes_are_all_where_more_are_asked_for(model, pictures):
    found = model.predict(pictures[0], topk=9)
    assert sorted(name for name, _ in found.top) == sorted(NAMES)


def test_top_classes_are_probabilities_best_first(model, pictures):
    found = model.predict(pictures[0], topk=9)
    scores = [score for _, score in found.top]
    assert scores == sorted(scores, reverse=True) and sum(scores) == pytest.approx(1, abs=1e-5)
    assert (found.label, found.score) == found.top[0]


@pytest.mark.parametrize("protocol", ["wsoleval", "locloc", "bas"])
@pytest.mark.parametrize("shape", [(40, 300), (300, 40), (224, 224)])
def test_box_stays_inside(model, protocol, shape):
    model.protocol = protocol
    picture = np.random.default_rng(1).integers(0, 255, (*shape, 3), dtype=np.uint8)
    x0, y0, x1, y1 = model.predict(picture).box
    assert 0 <= x0 < x1 <= shape[1] + 1e-9 and 0 <= y0 < y1 <= shape[0] + 1e-9


def test_missing_localizer_is_named(vit, pictures):
    with pytest.raises(ValueError, match="GEG"):
        LocLoc(vit, None, linear_head(vit), NAMES).predict(pictures[0])


def test_missing_class_names_are_counted(vit):
    with pytest.raises(ValueError, match="2 class names for a classifier of 3"):
        LocLoc(vit, None, linear_head(vit), NAMES[:2])


@pytest.fixture(scope="module")
def heads(vit):
    return small_geg(vit), small_lfdm(vit)


@pytest.fixture(scope="module")
def answer_of_both(vit, heads, pictures):
    return LocLoc(vit, *heads, NAMES)([*pictures])[0]


def test_geg_alone_says_where(vit, heads, pictures, answer_of_both):
    where = LocLoc(vit, heads[0], None, NAMES)([*pictures])[0]
    assert where.label is None and np.array_equal(where.boxes, answer_of_both.boxes)


def test_lfdm_alone_says_what(vit, heads, pictures, answer_of_both):
    model = LocLoc(vit, None, heads[1], NAMES)
    what = model([*pictures])[0]
    assert what.label == answer_of_both.label and what.boxes.shape == (0, 4) and what.score_map is None
    assert not model.localizes


def test_it_is_a_localizer(model):
    assert isinstance(model, Localizer)


def test_its_fingerprint_is_json(model):
    assert json.loads(json.dumps(model.fingerprint)) == model.fingerprint


def test_other_weights_have_another_fingerprint(model, vit):
    other = LocLoc(vit, small_geg(vit), model.lfdm, NAMES, threshold=.4)
    assert other.fingerprint != model.fingerprint


def test_a_map_without_contrast_finds_nothing(model, pictures):
    with torch.no_grad():
        for parameter in model.geg.conv.parameters():
            parameter.zero_()
    found = model.predict(pictures[0])
    assert found.boxes.shape == (0, 4) and found.box is None and "nothing found" in found.words


def test_it_is_in_eval_mode(vit):
    model = LocLoc(vit, small_geg(vit).train(), small_lfdm(vit).train(), NAMES)
    assert not any(module.training for module in model.modules())


def test_a_geg_is_an_attention_source():
    model = load_locloc_tiny()
    pictures = np.random.default_rng(0).integers(0, 256, (2, 64, 96, 3), dtype=np.uint8)
    maps, activation = GEGMap(model)(pictures), model.heads(pictures)[0][:, 0].numpy()
    assert maps.shape == (2, 32, 48) and maps.min() == 0 and maps.max() == 1
    for one, raw in zip(maps, activation, strict=True): # the same places are higher
        assert np.corrcoef(one.ravel(), raw.ravel())[0, 1] > .9999
    assert GEGMap(model).fingerprint == GEGMap(load_locloc_tiny()).fingerprint
