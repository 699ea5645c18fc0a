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
from locloc.model import LocLoc

NAMES = "crow", "tern", "gull"


@pytest.fixture(scope="module")
def vit(): return load_backbone("test_vit", weights=False)


@pytest.fixture
def model(vit):
    torch.manual_seed(0)
    return LocLoc(vit, GEG(vit.embed_dim, 8, 8), LFDM.from_backbone(vit, 3), NAMES, threshold=.4, config={"note": "é"})


@pytest.fixture(scope="module")
def pictures(): return np.random.default_rng(0).integers(0, 255, (2, 90, 160, 3), dtype=np.uint8)


def same(a, b):
    return (a.label, a.score, a.top) == (b.label, b.score, b.top) and np.array_equal(a.box, b.box) and np.array_equal(a.score_map, b.score_map)


@pytest.fixture(scope="module")
def generator(): return reference_head("geg")


def test_reference_checkpoints(generator):
    (geg, patches, geg_map, _), (lfdm, embedding, logits, _) = generator, reference_head("lfdm")
    model = LocLoc.from_reference(generator=geg, classifier=lfdm)
    with torch.no_grad():
        torch.testing.assert_close(model.geg(patches), geg_map, rtol=1e-4, atol=0)
        torch.testing.assert_close(model.lfdm(embedding), logits, rtol=1e-4, atol=1e-6)
    assert len(model.classes) == 200
    with pytest.raises(ValueError, match="no backbone"):
        model.predict(np.zeros((9, 9, 3), np.uint8))


@pytest.mark.parametrize("name", ["plain.pth", "wrapped.pth", "plain.safetensors"])
def test_reference_checkpoint_files(tmp_path, generator, name):
    state = generator[0]
    save_file(state, tmp_path/name) if name.endswith("safetensors") else torch.save({"model": state, "args": Namespace(lr=1.)} if name == "wrapped.pth" else state, tmp_path/name)
    model = LocLoc.from_reference(generator=tmp_path/name)
    assert torch.equal(model.geg.conv[0].weight, state["att_conv2.weight"]) and model.lfdm is None


def test_reference_checkpoint_that_is_none(tmp_path):
    (tmp_path/"text.pth").write_text("no weights")
    with pytest.raises(ValueError, match="text.pth is damaged"):
        LocLoc.from_reference(tmp_path/"text.pth")
    with pytest.raises(FileNotFoundError, match="gone.pth"):
        LocLoc.from_reference(tmp_path/"gone.pth")
    with pytest.raises(ValueError, match="authors' generator"):
        LocLoc.from_reference({"a": torch.zeros(1)})


@pytest.mark.parametrize("geg, lfdm", [
    (lambda v: GEG(v.embed_dim, 8, 8), lambda v: LFDM.from_backbone(v, 3, "released_code")),
    (lambda v: GEG(v.embed_dim, 4, 12, layout="released_code"), lambda v: LFDM(v.embed_dim, 3, 2, 4, v.num_prefix_tokens, mlp_ratio=2.)),
    (lambda v: None, lambda v: LinearHead.from_backbone(v, 3)), (lambda v: GEG(v.embed_dim, 8, 8), lambda v: None)])
def test_saved_and_loaded_it_is_the_same(tmp_path, vit, pictures, geg, lfdm):
    model = LocLoc(vit, geg(vit), lfdm(vit), NAMES, .3, "locloc", {"seed": 1})
    model.save(tmp_path/"a/b")
    again = LocLoc.load(tmp_path/"a/b")
    inputs = pictures[:, :80]
    for x, y in zip(model.heads(inputs), again.heads(inputs), strict=True):
        assert (x is None and y is None) or torch.equal(x, y)
    assert (again.classes, again.threshold, again.protocol, again.config) == (NAMES, .3, "locloc", {"seed": 1})
    assert again.backbone.weights_hash == vit.weights_hash
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["a", "b", "config.json", "model.safetensors"]


def test_backbone_options_are_kept(tmp_path):
    vit = load_backbone("test_vit", weights=False, embed_dim=32, depth=1, num_heads=2)
    LocLoc(vit, GEG(32, 4, 4), LFDM.from_backbone(vit, 2), "ab").save(tmp_path/"model")
    assert LocLoc.load(tmp_path/"model").backbone.embed_dim == 32


def test_failed_save_leaves_the_old_model(tmp_path, model, monkeypatch):
    model.save(tmp_path/"model")
    before = {p.name: p.read_bytes() for p in (tmp_path/"model").iterdir()}
    model.config = {"not JSON": object()}
    with pytest.raises(TypeError):
        model.save(tmp_path/"model")
    with pytest.raises(TypeError):
        model.save(tmp_path/"new")
    assert {p.name: p.read_bytes() for p in (tmp_path/"model").iterdir()} == before and [p.name for p in tmp_path.iterdir()] == ["model"]
    model.config, model.threshold = {}, .7
    model.save(tmp_path/"model")
    assert LocLoc.load(tmp_path/"model").threshold == .7


@pytest.mark.parametrize("file, change, says", [
    ("config.json", None, "config.json is missing"), ("model.safetensors", None, "model.safetensors is missing"),
    ("config.json", lambda b: b[:50], "config.json is damaged"), ("config.json", lambda b: b"\xff\xfe", "config.json is damaged"),
    ("config.json", lambda b: b"[]", "config.json does not describe"), ("config.json", lambda b: b.replace(b'"geg"', b'"gig"'), "config.json does not describe"),
    ("config.json", lambda b: b.replace(b'"gull"', b'"gull", "auk"'), "4 class names"), ("model.safetensors", lambda b: b"", "model.safetensors is damaged"),
    ("model.safetensors", lambda b: b[:len(b)//2], "model.safetensors is damaged"), ("config.json", lambda b: b.replace(b'"width": 8', b'"width": 9'), "model.safetensors: ")])
def test_damaged_model_is_named_in_one_line(tmp_path, model, file, change, says):
    model.save(tmp_path/"model")
    path = tmp_path/"model"/file
    content = path.read_bytes()
    path.unlink()
    if change:
        assert change(content) != content
        path.write_bytes(change(content))
    with pytest.raises((ValueError, OSError)) as error:
        LocLoc.load(tmp_path/"model")
    assert says in str(error.value) and "\n" not in str(error.value)


def test_config_can_be_read_by_others(tmp_path, model):
    model.save(tmp_path/"model")
    config = json.loads((tmp_path/"model/config.json").read_text(encoding="utf-8"))
    assert config["classes"] == list(NAMES) and config["config"] == {"note": "é"} and config["backbone"]["weights_hash"] == model.backbone.weights_hash


def test_batch_and_order_do_not_matter(model, pictures):
    alone, together = [model.predict(p) for p in pictures], model.predict_batch([*pictures, pictures[0][::-1].copy()])
    assert len(together) == 3
    for a, b in zip(alone, together, strict=False):
        assert a.label == b.label and np.abs(a.score_map - b.score_map).max() < 1e-3 and np.abs(a.box - b.box).max() < 3


def test_top_classes(model, pictures):
    found = model.predict(pictures[0], topk=9)
    assert [n for n, _ in found.top] != [] and {n for n, _ in found.top} == set(NAMES)
    scores = [s for _, s in found.top]
    assert scores == sorted(scores, reverse=True) and sum(scores) == pytest.approx(1, abs=1e-5) and (found.label, found.score) == found.top[0]


@pytest.mark.parametrize("protocol", ["wsoleval", "locloc", "bas"])
@pytest.mark.parametrize("shape", [(40, 300), (300, 40), (224, 224)])
def test_box_stays_inside(model, protocol, shape):
    model.protocol = protocol
    x0, y0, x1, y1 = model.predict(np.random.default_rng(1).integers(0, 255, (*shape, 3), dtype=np.uint8)).box
    assert 0 <= x0 < x1 <= shape[1] + 1e-9 and 0 <= y0 < y1 <= shape[0] + 1e-9


def test_missing_parts_are_named(vit, pictures):
    with pytest.raises(ValueError, match="GEG"):
        LocLoc(vit, None, LinearHead.from_backbone(vit, 3), NAMES).predict(pictures[0])
    with pytest.raises(ValueError, match="2 class names for a classifier of 3"):
        LocLoc(vit, None, LinearHead.from_backbone(vit, 3), NAMES[:2])


def test_each_head_answers_its_own_question(vit, pictures):
    geg, lfdm = GEG(vit.embed_dim, 8, 8), LFDM.from_backbone(vit, 3)
    both, where, what = (LocLoc(vit, *heads, NAMES)([*pictures])[0] for heads in ((geg, lfdm), (geg, None), (None, lfdm)))
    assert where.label is None and np.array_equal(where.boxes, both.boxes)
    assert what.label == both.label and what.boxes.shape == (0, 4) and what.score_map is None
    assert not LocLoc(vit, None, lfdm, NAMES).localizes


def test_it_is_a_localizer(model, vit):
    assert isinstance(model, Localizer) and json.loads(json.dumps(model.fingerprint)) == model.fingerprint
    other = LocLoc(vit, GEG(vit.embed_dim, 8, 8), model.lfdm, NAMES, threshold=.4)
    assert other.fingerprint != model.fingerprint


def test_a_map_without_contrast_finds_nothing(model, pictures):
    with torch.no_grad():
        for parameter in model.geg.conv.parameters():
            parameter.zero_()
    found = model.predict(pictures[0])
    assert found.boxes.shape == (0, 4) and found.box is None and "nothing found" in found.words


def test_it_is_in_eval_mode(vit):
    model = LocLoc(vit, GEG(vit.embed_dim, 8, 8).train(), LFDM.from_backbone(vit, 3).train(), NAMES)
    assert not any(m.training for m in model.modules())
