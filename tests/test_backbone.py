"Backbone: agreement with DINO's own ViT and with unfused attention, weights files, faults"
import os
import pickle
import re
import zipfile
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch
from published import transformers_vit, transformers_vit_inside
from reference_attention import FullAttention
from safetensors.torch import save_file

from locloc.backbone import encode, encode_with_attention, load_backbone

golden = np.load(Path(__file__).parent / "golden" / "dino_vit_a.npz")
TINY_DINO = dict(embed_dim=48, depth=4, num_heads=3, img_size=96)
state = {k.removeprefix("weight/"): torch.from_numpy(golden[k]) for k in golden if k.startswith("weight/")}
head = {"head.mlp.0.weight": torch.zeros(3, 3), "head.last_layer.weight_g": torch.zeros(3, 1)}


def prefixed(prefix, **more):
    return {prefix + k: v for k, v in state.items()} | more


FORMS = {
    "raw": state,
    "teacher": {"student": prefixed("module.backbone."), "teacher": prefixed("backbone.") | head, "epoch": 3},
    "teacher prefix": prefixed("teacher.backbone."),
    "backbone prefix": prefixed("backbone."),
    "module prefix": prefixed("module."),
    "deit": {"model": state | {"head.weight": torch.zeros(10, 48), "head.bias": torch.zeros(10)}},
    "state_dict": {"state_dict": state},
    "lightning": {"state_dict": prefixed("model."), "epoch": 3, "hyper_parameters": {"lr": .1}},
    "compiled": {"model_state_dict": prefixed("_orig_mod.module.")},
    "compiled inside": {"net": {k.replace("blocks.0.", "blocks.0._orig_mod."): v for k, v in state.items()}},
    "encoder prefix": {"state_dict": prefixed("encoder.") | {"decoder.weight": torch.zeros(3)}},
    "student alone": {"student": prefixed("module.backbone.")},
    "deep": {"checkpoint": {"module": prefixed("teacher.vit.model.backbone.")}},
    "averaged": {"model": prefixed("", cls_token=state["cls_token"] + 1), "model_ema": state, "ema": None},
    "mae": {"model": prefixed("", mask_token=torch.zeros(1, 1, 48), decoder_pos_embed=torch.zeros(1, 37, 32))},
    "options": {"model": state, "args": Namespace(arch="vit_small"), "best": np.float64(.7), "n": np.int32(3)},
    "transformers": transformers_vit_inside(state),
    "transformers, bare": transformers_vit(state) | {"pooler.dense.weight": torch.zeros(48, 48)},
}


@pytest.mark.parametrize("form", FORMS)
def test_dino_golden(form, tmp_path):
    torch.save(FORMS[form], tmp_path / "dino.pth")
    vit = load_backbone("dino_vits16", weights=tmp_path / "dino.pth", **TINY_DINO)
    images = torch.from_numpy(golden["image"])
    out = vit(images, norm=True)
    normed_here = vit.model.norm(vit(images).patches.flatten(2).mT)
    np.testing.assert_allclose(out.cls_attention, golden["cls_attention"].swapaxes(0, 1), atol=1e-5)
    np.testing.assert_allclose(out.patches.flatten(2).mT, golden["patch_tokens_normed_last"], atol=1e-5)
    np.testing.assert_allclose(normed_here, golden["patch_tokens_normed_last"], atol=1e-5)


def test_safetensors_and_hash(tmp_path):
    save_file(state, tmp_path / "dino.safetensors")
    a, b = (load_backbone("dino_vits16", weights=str(tmp_path / "dino.safetensors"), **TINY_DINO) for _ in range(2))
    c = load_backbone("dino_vits16", weights=False, **TINY_DINO)
    assert a.weights_hash == b.weights_hash != c.weights_hash and len(a.weights_hash) == 16


def save_old(content, path):
    torch.save(content, path, _use_new_zipfile_serialization=False)


@pytest.mark.parametrize("name, save", [
    ("a.pth", save_file), ("a.bin", save_file), ("a.safetensors", torch.save), ("a.safetensors", save_old),
    ("a.ckpt", save_old), ("a", torch.save)])
def test_the_content_says_what_a_file_is(tmp_path, name, save):
    save(state, tmp_path / name)
    assert load_backbone("dino_vits16", weights=tmp_path / name, **TINY_DINO).depth == 4


@pytest.mark.parametrize("name", ["dinov2_vits14", "dinov2_vits14_reg"])
def test_chunks_of_blocks(tmp_path, name):
    "DINOv2's training numbers blocks.CHUNK.BLOCK, its registers have another name and its positions one for CLS"
    options = dict(embed_dim=48, depth=4, num_heads=3, img_size=28)
    vit = load_backbone(name, weights=False, **options)
    theirs = {re.sub(r"^blocks\.(\d+)", lambda m: f"blocks.{int(m[1]) // 2}.{m[1]}", k): v.clone()
              for k, v in vit.model.state_dict().items()}
    if "reg_token" in theirs:
        theirs["register_tokens"] = theirs.pop("reg_token")
        theirs["pos_embed"] = torch.cat([torch.zeros(1, 1, 48), theirs["pos_embed"]], 1)
    wrapped = {f"backbone.{k}": v for k, v in theirs.items()} | {"backbone.mask_token": torch.zeros(1, 48)}
    torch.save({"teacher": wrapped | {"dino_head.mlp.0.weight": torch.zeros(2)}}, tmp_path / "a.pth")
    again = load_backbone(name, weights=tmp_path / "a.pth", **options)
    assert again.weights_hash == vit.weights_hash


def test_hash_is_computed_once(monkeypatch):
    vit = load_backbone("test_vit", weights=False)
    first = vit.weights_hash
    monkeypatch.setattr("locloc.backbone.hashlib", None) # another computation would fail
    assert vit.weights_hash == first == pickle.loads(pickle.dumps(vit)).weights_hash


@pytest.mark.parametrize("name, options", [
    ("vit_small_patch16_224", {}),
    ("vit_small_patch16_224", dict(qk_norm=True)),
    ("dinov2_vits14_reg", {}),
    ("dinov3_vits16", {}),
    ("vit_small_patch16_dinov3_qkvb", {}),
    ("eva02_tiny_patch14_224", {}),
    ("vit_base_patch16_rope_mixed_224", {}),
    ("deit_small_distilled_patch16_224", {}),
])
def test_attention_is_that_of_the_unfused_path(name, options):
    torch.manual_seed(0)
    vit = load_backbone(name, weights=False, embed_dim=48, depth=2, num_heads=3, **options)
    for p in vit.parameters():
        p.data += torch.randn_like(p) * .2 # far from a flat softmax
    P = vit.patch_size
    images = torch.randn(2, 3, 3 * P, 5 * P)
    fused = vit(images)
    assert fused.patches.shape == (2, 48, 3, 5) and fused.embedding.shape == (2, vit.num_prefix_tokens + 15, 48)
    full = FullAttention(vit.model)
    tokens = vit.model.forward_features(images)
    rows = torch.stack(full.rows, 1)[..., vit.num_prefix_tokens:].unflatten(-1, (3, 5))
    torch.testing.assert_close(fused.cls_attention, rows, atol=1e-5, rtol=1e-4)
    normed = vit.model.norm(fused.patches.flatten(2).mT)
    torch.testing.assert_close(normed, tokens[:, vit.num_prefix_tokens:], atol=1e-4, rtol=1e-4)


def test_attention_off_leaves_all_else_alone():
    vit, images = load_backbone("test_vit", weights=False), torch.randn(1, 3, 64, 32)
    a, b = vit(images), vit(images, attention=False)
    assert b.cls_attention is None and torch.equal(a.patches, b.patches) and torch.equal(a.embedding, b.embedding)


def test_a_failure_leaves_nothing_behind():
    vit, images = load_backbone("test_vit", weights=False), torch.randn(1, 3, 64, 32)
    before = vit(images).cls_attention
    handle = vit.model.blocks[1].register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        vit(images)
    handle.remove()
    assert not any(module._forward_hooks for module in vit.modules())
    assert torch.equal(vit(images).cls_attention, before)


def test_normalize():
    vit = load_backbone("test_vit", weights=False) # mean and std .5
    x = vit.normalize(np.array([0, 127.5, 255], np.uint8).reshape(1, 1, 1, 3))
    torch.testing.assert_close(x, torch.tensor([-1, 127 / 127.5 - 1, 1]).reshape(1, 3, 1, 1), atol=1e-6, rtol=0)
    for wrong in (np.zeros((4, 4, 3), np.uint8), np.zeros((1, 4, 4, 3)), np.zeros((1, 3, 4, 4), np.uint8)):
        with pytest.raises(ValueError, match="uint8"):
            vit.normalize(wrong)


def test_other_picture_size_resamples_positions(tmp_path):
    torch.save(state, tmp_path / "dino.pth")
    vit = load_backbone("dino_vits16", weights=tmp_path / "dino.pth", **TINY_DINO | dict(img_size=128))
    assert vit.image_size == (128, 128) and vit(torch.zeros(1, 3, 128, 96)).cls_attention.shape == (1, 4, 3, 8, 6)


def broken(tmp_path, content):
    path = tmp_path / "weights.pth"
    path.write_bytes(content)
    return path


def refusal(path):
    with pytest.raises((ValueError, FileNotFoundError)) as refused:
        load_backbone("dino_vits16", weights=path, **TINY_DINO)
    said = str(refused.value)
    assert str(path) in said and "\n" not in said and "\033" not in said and "weights_only" not in said
    return said


@pytest.mark.parametrize("content, says", [
    (b"", "it is empty"),
    (b"<html>404</html>", "a web page"),
    (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "git lfs pull"),
    (b'{"weight_map": {}}', "it is JSON"),
    (b"\x1f\x8b\x08 and so on", "gzip"),
    (b"wget: not found", "it is text"),
    (bytes(100), "cut off"),
    (pickle.dumps({"a": 1}), "not a readable weights file"),
])
def test_what_is_no_weights_file_is_named(content, says, tmp_path):
    assert says in refusal(broken(tmp_path, content))


@pytest.mark.parametrize("save", [torch.save, save_old, save_file])
@pytest.mark.parametrize("share", [.01, .5, .99])
def test_a_file_that_is_cut_off(save, share, tmp_path):
    save(state, tmp_path / "whole")
    whole = (tmp_path / "whole").read_bytes()
    assert "not a readable weights file" in refusal(broken(tmp_path, whole[:int(share * len(whole))]))


def test_a_zip_archive_is_named(tmp_path):
    with zipfile.ZipFile(tmp_path / "weights.pth", "w") as archive:
        archive.writestr("dino/dino.pth", b"weights")
    assert "a zip archive with dino/dino.pth in it: unpack it" in refusal(tmp_path / "weights.pth")


@pytest.mark.parametrize("name", ["absent.pth", "."])
def test_no_file(name, tmp_path):
    assert "no weights file at" in refusal(tmp_path / name)


@pytest.mark.parametrize("content, says", [
    ({"teacher": torch.zeros(3), "student": state}, "no weights in its teacher, but a Tensor"),
    ({"teacher": None}, "no weights in its teacher, but a NoneType"),
    ({"epoch": 3, "args": Namespace()}, "no tensors in it, but epoch (int), args (Namespace)"),
    ([1, 2], "no tensors in it, but a list"),
    ({}, "no tensors in it, but nothing"),
])
def test_a_file_without_weights_says_what_it_holds(content, says, tmp_path):
    torch.save(content, tmp_path / "a.pth")
    assert says in refusal(tmp_path / "a.pth")


@pytest.mark.parametrize("save", [torch.save, save_old])
@pytest.mark.parametrize("code, name", [
    (pytest.raises, "raises"), (print, "print"), (os.system, "posix.system"), (Path("a"), "pathlib"),
    (torch.nn.Linear(1, 1), "torch.nn.modules.linear.Linear")])
def test_code_in_a_file_is_refused(save, code, name, tmp_path):
    save({"model": state, "code": code}, tmp_path / "evil.pth")
    said = refusal(tmp_path / "evil.pth")
    assert name in said and "beside its tensors, which could run code: save its state dict alone" in said


@pytest.mark.parametrize("change, says", [
    (dict(depth=5), "4 blocks, .* has width 48, 5 blocks"),
    (dict(mlp_ratio=2), r"another shape .*fc1.weight \(192, 48\) instead of \(96, 48\)"),
    (dict(embed_dim=96), "a ViT of width 48, .* has width 96"),
])
def test_another_architecture_is_refused(change, says, tmp_path):
    torch.save(state, tmp_path / "dino.pth")
    with pytest.raises(ValueError, match=says):
        load_backbone("dino_vits16", weights=tmp_path / "dino.pth", **TINY_DINO | change)


def test_hub_without_network(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *a: None)
    url = "timm/vit_small_patch16_224.dino/resolve/main/model.safetensors"
    with pytest.raises(FileNotFoundError, match=f"{url}.*--weights"):
        load_backbone("dino_vits16")


def test_hub_cache_comes_first(monkeypatch, tmp_path):
    save_file(state, tmp_path / "model.safetensors")
    paths = {"model.safetensors": str(tmp_path / "model.safetensors")}
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda repo, file: paths.get(file))
    monkeypatch.setattr("locloc.backbone.urlopen", None) # any use of the network would fail
    assert load_backbone("dino_vits16", **TINY_DINO).depth == 4


def test_an_unknown_name_gets_the_nearest_ones():
    with pytest.raises(ValueError, match="nearest: .*dino_vits16"):
        load_backbone("dino_vit_s16", weights=False)


@pytest.mark.parametrize("name", [
    "resnet18", "vit_small_patch16_18x2_224x", "swin_tiny_patch4_window7_224", "vit_relpos_small_patch16_224"])
def test_other_networks_are_refused(name):
    with pytest.raises(ValueError):
        load_backbone(name, weights=False)


def test_attention_that_cannot_be_watched_is_refused():
    with pytest.raises(ValueError, match="DiffAttention"):
        load_backbone("vit_small_patch16_224", weights=False, depth=1, attn_layer="diff")


def test_a_vit_without_cls_is_refused():
    with pytest.raises(ValueError, match="CLS token"):
        load_backbone("vit_base_patch16_siglip_224", weights=False, depth=1, embed_dim=48, num_heads=3)


def test_pickles():
    vit, images = load_backbone("test_vit", weights=False), torch.randn(1, 3, 64, 32)
    again = pickle.loads(pickle.dumps(vit))
    assert torch.equal(again(images).cls_attention, vit(images).cls_attention)


def test_autocast():
    vit, images = load_backbone("test_vit", weights=False), torch.randn(1, 3, 64, 32)
    exact = vit(images).cls_attention
    with torch.autocast("cpu", torch.bfloat16):
        rough = vit(images).cls_attention
    assert rough.dtype == torch.float32 and (rough - exact).abs().max() < 3e-3


def test_attention_has_a_gradient():
    vit = load_backbone("test_vit", weights=False).model.requires_grad_(True)
    embedding = torch.randn(2, 1 + 6, vit.embed_dim, requires_grad=True)
    tokens, attention = encode_with_attention(vit, embedding, (2, 3))
    torch.testing.assert_close(tokens, encode(vit, embedding, (2, 3)))
    attention[:, -1, 0, 0, 0].sum().backward()
    assert embedding.grad.abs().sum() > 0 and vit.blocks[0].attn.qkv.weight.grad.abs().sum() > 0
