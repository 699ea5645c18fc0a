"Checkpoints as others publish them: every layout of notebook 10's table, the authors' model end to end, refusals"
import json
from pathlib import Path

import numpy as np
import published
import pytest
import reference_model
import timm
import torch
from reference_attention import FullAttention
from safetensors.torch import save_file

from locloc.backbone import ALIASES, load_backbone
from locloc.model import LocLoc

VIT = "vit_small_patch16_224"
SMALL = dict(embed_dim=48, depth=2, num_heads=3)

LAYOUTS = { # row of the table in notebook 10 -> network, and what makes a file's content of timm's state dict
    "DeiT": ("deit_small", published.deit),
    "DeiT, distilled": ("deit_small_distilled", published.deit_distilled),
    "DeiT III": ("deit3_small_patch16_224", published.deit3),
    "DINO": ("dino_vits16", published.bare),
    "DINO, main_dino.py": ("dino_vits16", published.dino_training),
    "iBOT": (VIT, published.in_state_dict),
    "iBOT, training": (VIT, published.ibot_training),
    "iBOT, student alone": (VIT, published.ibot_student),
    "MAE": ("vit_base_patch16_224.mae", published.mae),
    "MoCo v3": (VIT, published.moco3),
    "DINOv2": ("dinov2_vits14", published.dinov2),
    "DINOv2, registers": ("dinov2_vits14_reg", published.dinov2),
    "DINOv2, training": ("dinov2_vits14_reg", published.dinov2_training),
    "DINOv3": ("dinov3_vits16", published.dinov3),
    "DINOv3, biases": ("vit_small_patch16_dinov3_qkvb", published.dinov3),
    "DINOv3, training": ("dinov3_vits16", published.dinov3_training),
    "OpenCLIP": ("vit_base_patch16_clip_quickgelu_224", published.open_clip),
    "timm, hub: ViT": (VIT, published.with_head),
    "timm, hub: DINOv2": ("dinov2_vits14_reg", published.bare),
    "timm, hub: DINOv3": ("dinov3_vits16", published.bare),
    "timm, training": (VIT, published.timm_training),
    "transformers: ViT, DINO": ("dino_vits16", published.transformers_vit),
    "transformers: DeiT, distilled": ("deit_small_distilled", published.transformers_vit_inside),
    "transformers: DINOv2": ("dinov2_vits14_reg", published.transformers_dinov2),
    "transformers: DINOv3": ("dinov3_vits16", published.transformers_dinov3),
    "Lightning": (VIT, published.lightning),
    "DDP": (VIT, published.distributed),
    "torch.compile": (VIT, published.compiled),
}


def random_vit(name, **options):
    "timm's own model, far from a flat softmax"
    torch.manual_seed(0)
    model = timm.create_model(ALIASES.get(name, name), num_classes=0, dynamic_img_size=True, **SMALL | options).eval()
    for parameter in model.parameters():
        parameter.data += torch.randn_like(parameter) * .2
    return model.requires_grad_(False)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_published_layout_is_read_as_timm_reads_its_own(layout, tmp_path, capsys):
    name, publish = LAYOUTS[layout]
    theirs = random_vit(name)
    content = publish({key: value.clone() for key, value in theirs.state_dict().items()})
    if layout.startswith(("timm, hub", "transformers")):
        save_file(content, tmp_path/"weights")
    else:
        torch.save(content, tmp_path/"weights")
    vit = load_backbone(name, weights=tmp_path/"weights", **SMALL)
    images = torch.randn(2, 3, 3 * vit.patch_size, 5 * vit.patch_size)
    full = FullAttention(theirs)
    patches = theirs.forward_features(images)[:, vit.num_prefix_tokens:]
    rows = torch.stack(full.rows, 1)[..., vit.num_prefix_tokens:].unflatten(-1, (3, 5))
    found = vit(images, norm=True)
    torch.testing.assert_close(found.patches.flatten(2).mT, patches, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found.cls_attention, rows, atol=1e-5, rtol=1e-5)
    assert capsys.readouterr().out == ""


def test_the_table_of_layouts_has_a_row_for_each_test():
    notebook = json.loads((Path(__file__).parents[1]/"nbs/10_backbone.ipynb").read_text(encoding="utf-8"))
    cells = ("".join(cell["source"]) for cell in notebook["cells"])
    table = next(cell for cell in cells if cell.startswith("### Layouts"))
    rows = [line.split("|")[1].strip() for line in table.splitlines() if line.startswith("|")]
    assert rows[2:] == list(LAYOUTS)


def refusal(call):
    with pytest.raises(ValueError) as refused:
        call()
    assert "\n" not in str(refused.value)
    return str(refused.value)


def save_shapes(name, path, **options):
    "A file of a network at its full size, all of it one zero"
    with torch.device("meta"):
        model = timm.create_model(ALIASES.get(name, name), num_classes=0, **options)
    torch.save({key: torch.zeros(()).expand(value.shape) for key, value in model.state_dict().items()}, path)
    return path


@pytest.mark.parametrize("file_of, asked, says", [
    ("dino_vits8", "dino_vits16", ["patches of 8 px", "patches of 16 px", "the file fits dino_vits8"]),
    ("dino_vitb16", "dino_vits16", ["width 768", "the file fits dino_vitb16, deit_base"]),
    ("dino_vits16", "deit_tiny", ["width 384", "the file fits dino_vits16, deit_small"]),
    ("deit_small_distilled", "deit_small", ["a distillation token", "the file fits deit_small_distilled"]),
    ("dinov2_vits14_reg", "dinov2_vits14", ["4 registers", "the file fits dinov2_vits14_reg"]),
    ("dinov2_vits14", "dino_vits16", ["layer scale", "the file fits dinov2_vits14"]),
    ("dinov3_vits16", "dino_vits16", ["4 registers, layer scale", "the file fits dinov3_vits16"]),
    ("vit_medium_patch16_gap_240", "dino_vits16", ["width 512", "pass other options (embed_dim="]),
])
def test_the_file_of_another_network_says_which_one_it_fits(file_of, asked, says, tmp_path):
    file = save_shapes(file_of, tmp_path/"weights.pth")
    with torch.device("meta"): # a refusal needs no numbers
        said = refusal(lambda: load_backbone(asked, weights=file))
    assert said.startswith(f"{file} for {asked}: ") and all(one in said for one in says), said


def test_biases_that_would_be_left_out_are_named(tmp_path):
    torch.save(published.dinov3(random_vit("vit_small_patch16_dinov3_qkvb").state_dict()), tmp_path/"a.pth")
    said = refusal(lambda: load_backbone("dinov3_vits16", weights=tmp_path/"a.pth", **SMALL))
    assert "a.pth for dinov3_vits16: blocks.0.attn.qkv.bias is not zero" in said and "_qkvb" in said


@pytest.mark.parametrize("tensor, value", [
    ("pos_embed", torch.ones(())), ("pos_embed", torch.ones(0)), ("patch_embed.proj.weight", torch.ones(())),
    ("patch_embed.proj.weight", torch.ones(3)), ("blocks.0.norm1.weight", torch.ones(())),
    ("reg_token", torch.ones(3))])
def test_tensors_of_impossible_shapes_are_refused_in_one_line(tensor, value, tmp_path):
    torch.save(random_vit("test_vit").state_dict() | {tensor: value}, tmp_path/"a.pth")
    said = refusal(lambda: load_backbone("test_vit", weights=tmp_path/"a.pth", **SMALL))
    assert said.startswith(f"{tmp_path/'a.pth'} for test_vit: ")


OTHERS = {
    "resnet": ({"state_dict": {"module.conv1.weight": 0, "module.layer1.0.conv1.weight": 0}}, "a ResNet"),
    "vgg": ({"features.0.weight": 0, "classifier.0.weight": 0}, "a VGG or an AlexNet"),
    "swin": ({"model": {"patch_embed.proj.weight": 0, "layers.0.blocks.0.attn.qkv.weight": 0}}, "a Swin transformer"),
    "generator": ({"state_dict": {"att_conv2.weight": 0, "bn_att2.weight": 0}}, "the generator of LocLoc's authors"),
    "classifier": ({"state_dict": {"module.norm_mini.weight": 0}}, "the classifier of LocLoc's authors"),
    "deconv": ({"state_dict": {"conv0.weight": 0, "deconv_layers.0.weight": 0}}, "the DeconvNet that"),
    "unknown": ({"net": {"stem.weight": 0, "body.0.weight": 0}}, "tensors such as stem.weight, body.0.weight"),
    "vit": ({"model": {"blocks.0.norm1.weight": 0, "patch_embed.proj.weight": 0}}, "a ViT of width 4, 1 blocks"),
}


def save_other(kind, path):
    content, says = OTHERS[kind]
    def filled(inside):
        return {key: filled(value) if isinstance(value, dict) else torch.ones(4, 3, 16, 16)
                for key, value in inside.items()}
    torch.save(filled(content), path)
    return path, says


@pytest.mark.parametrize("kind", [kind for kind in OTHERS if kind != "vit"])
def test_a_file_without_a_vit_says_what_is_in_it(kind, tmp_path):
    file, says = save_other(kind, tmp_path/"weights.pth")
    said = refusal(lambda: load_backbone("dino_vits16", weights=file, **SMALL))
    assert f"{file} for dino_vits16: no ViT in it (cls_token, blocks.0.attn.qkv.weight, …), but {says}" in said


@pytest.mark.parametrize("role", ["generator", "classifier"])
@pytest.mark.parametrize("kind", OTHERS)
def test_a_file_that_is_not_the_authors_says_what_is_in_it(kind, role, tmp_path):
    file, says = save_other(kind, tmp_path/"weights.pth")
    said = refusal(lambda: LocLoc.from_reference(**{role: file}))
    if kind == role:
        assert f"{file}: not a state dict of the authors' {role}" in said
    else:
        assert f"{file}: not the authors' {role} (" in said and says in said


@pytest.fixture(scope="module")
def states():
    shapes = dict(backbone=reference_model.deit_shapes(), generator=reference_model.generator_shapes(),
                  classifier=reference_model.classifier_shapes())
    return {role: reference_model.drawn(one, seed) for seed, (role, one) in enumerate(shapes.items(), 4)}


@pytest.fixture(scope="module")
def model(states, tmp_path_factory):
    "From three files as the released code leaves them; the classifier was trained with DDP"
    folder = tmp_path_factory.mktemp("log")
    torch.save({"model": states["backbone"]}, folder/"deit_small_patch16_224.pth")
    torch.save({"state_dict": states["generator"]}, folder/"CUB_loc_best.pth")
    torch.save({"state_dict": published.prefixed("module.", states["classifier"])}, folder/"CUB_cls_best.pth")
    vit = load_backbone("deit_small", folder/"deit_small_patch16_224.pth", embed_dim=reference_model.D,
                        depth=reference_model.DEPTH, num_heads=reference_model.HEADS)
    model = LocLoc.from_reference(folder/"CUB_loc_best.pth", folder/"CUB_cls_best.pth", vit)
    model.protocol = "locloc"
    return model


@pytest.fixture(scope="module")
def picture():
    "256 × 256 px, of which the protocol sees the 224 × 224 in the middle"
    picture = np.full((256, 256, 3), 60, np.uint8)
    picture[90:190, 60:150] = np.random.default_rng(0).integers(0, 255, (100, 90, 3))
    return picture


@pytest.fixture(scope="module")
def expected(states, picture):
    "Map (112, 112), logits and box of the reference"
    middle = torch.from_numpy(picture[16:240, 16:240]).permute(2, 0, 1)[None] / 255
    mean, std = (torch.tensor(values)[:, None, None] for values in (reference_model.MEAN, reference_model.STD))
    embedding, patches = reference_model.frozen_vit(states["backbone"], (middle - mean) / std)
    activation = reference_model.generator(states["generator"], patches)
    return (activation[0, 0].numpy(), reference_model.classifier(states["classifier"], embedding)[0],
            reference_model.box(activation[0, 0].numpy()))


def test_the_authors_three_files_answer_as_their_code(model, picture, expected):
    activation, logits = model.heads(picture[None, 16:240, 16:240])
    assert expected[0].std() > .02 and expected[1].std() > .02 # they say something
    np.testing.assert_allclose(activation[0, 0], expected[0], atol=1e-5)
    torch.testing.assert_close(logits[0], expected[1], atol=1e-5, rtol=1e-5)


def test_the_authors_three_files_localize_as_their_code(model, picture, expected):
    found, box = model.predict(picture, topk=1), expected[2]
    assert 0 < box[0] < box[2] < 224 and 0 < box[1] < box[3] < 224 # one that could be wrong
    np.testing.assert_allclose(found.box, np.add(box, 16)) # the middle begins 16 px inside
    assert found.label == f"class {expected[1].argmax()}"


def test_the_authors_model_is_saved_and_loaded_as_any_other(model, picture, tmp_path):
    model.save(tmp_path/"model")
    found, again = model.predict(picture), LocLoc.load(tmp_path/"model").predict(picture)
    assert np.array_equal(found.box, again.box) and found.top == again.top


def test_the_authors_deit_may_be_a_file(states, tmp_path):
    file = save_shapes("deit_small", tmp_path/"deit_small_patch16_224.pth")
    model = LocLoc.from_reference(backbone=file)
    assert (model.backbone.name, model.backbone.embed_dim, model.classes) == ("deit_small", 384, ())


def test_heads_for_another_backbone_are_refused(states):
    vit = load_backbone("test_vit", weights=False)
    for role, says in (("generator", "GEG"), ("classifier", "LFDM")):
        said = refusal(lambda role=role: LocLoc.from_reference(**{role: states[role]}, backbone=vit))
        assert said == f"{says} is for tokens of width 128, those of test_vit have 64"


def test_a_tensor_that_is_missing_in_the_authors_file_is_named(states, tmp_path):
    state = {key: value for key, value in states["generator"].items() if key != "bn2.bias"}
    torch.save({"state_dict": state}, tmp_path/"CUB_loc_best.pth")
    said = refusal(lambda: LocLoc.from_reference(tmp_path/"CUB_loc_best.pth"))
    assert "CUB_loc_best.pth: the authors' generator: 1 missing (deconvs.4.bias)" in said
