"LFDM and LinearHead: agreement with the authors' classifier; any backbone and grid; a copy that learns"
import pytest
import torch
from reference_heads import reference_head
from timm.optim import create_optimizer_v2

from locloc.backbone import FrozenViT, load_backbone
from locloc.lfdm import LFDM, LinearHead


@pytest.mark.parametrize("prefix", ["", "module."])
def test_reference(prefix):
    state, embedding, wanted, parameters = reference_head("lfdm")
    frozen_vit = {"blocks.0.norm1.weight": torch.zeros(3)} # beside it in the same file
    lfdm = LFDM.from_reference({prefix + key: value for key, value in state.items()} | frozen_vit)
    assert sum(p.numel() for p in lfdm.parameters()) == parameters == 23_313_424
    with torch.no_grad():
        torch.testing.assert_close(lfdm(embedding), wanted, rtol=1e-4, atol=1e-5)


def test_reference_needs_all_keys():
    state = reference_head("lfdm")[0]
    with pytest.raises(ValueError, match="authors' classifier"):
        LFDM.from_reference({"conv.weight": torch.zeros(1)})
    del state["blocks_mini.3.norm2.bias"]
    with pytest.raises(ValueError, match="1 missing .blocks.3.norm2.bias"):
        LFDM.from_reference(state)


BACKBONES = [
    "vit_small_patch16_224",
    "dinov2_vits14_reg",
    "dinov3_vits16",
    "vit_base_patch16_rope_mixed_224",
    "deit_small_distilled_patch16_224",
]

@pytest.mark.parametrize("head", [LFDM, LinearHead])
@pytest.mark.parametrize("layout", ["paper", "released_code"])
@pytest.mark.parametrize("name", BACKBONES)
def test_starts_as_the_backbone_and_learns(head, layout, name):
    vit = load_backbone(name, weights=False, embed_dim=48, depth=2, num_heads=3)
    images = torch.randn(2, 3, 3 * vit.patch_size, 5 * vit.patch_size)
    embedding, before = vit.embed(images), vit.weights_hash
    model = head.from_backbone(vit, 7, layout=layout)
    tokens, grid = model.eval().encode(embedding, (3, 5))
    patches = tokens[:, vit.num_prefix_tokens:].mT.unflatten(2, grid) # (B, N, D) -> (B, D, h, w)
    torch.testing.assert_close(patches, vit(images, norm=True).patches)
    scores = model.train()(embedding, (3, 5))
    assert scores.shape == (2, 7)
    scores.square().sum().backward()
    assert model.blocks[0].mlp.fc1.weight.grad.abs().sum() > 0
    torch.optim.SGD(model.parameters(), 1).step()
    assert FrozenViT(vit.model, name).weights_hash == before # nothing is shared; a FrozenViT keeps its own hash


def test_gap_is_a_mean_of_class_maps():
    lfdm = LFDM(24, 5, depth=1, num_heads=2, num_prefix_tokens=2)
    x = torch.randn(2, 2 + 15, 24)
    assert lfdm.maps(x, (3, 5)).shape == (2, 5, 3, 5)
    torch.testing.assert_close(lfdm(x, (5, 3)), lfdm.maps(x, (5, 3)).mean((2, 3)))


def test_only_released_scores_are_never_negative():
    x = torch.randn(4, 1 + 16, 24)
    assert LFDM(24, 5, 1, 2, layout="released_code")(x).min() >= 0 > LFDM(24, 5, 1, 2)(x).min()


@pytest.mark.parametrize("head", [LFDM, LinearHead])
def test_bad_input(head):
    with pytest.raises(ValueError, match="layout"):
        head(24, 5, 1, 2, layout="x")
    with pytest.raises(ValueError, match="15 patch tokens do not fill a 3×3 grid"):
        head(24, 5, 1, 2)(torch.zeros(1, 16, 24))
    with pytest.raises(ValueError, match="4×4"):
        head(24, 5, 1, 2)(torch.zeros(1, 16, 24), (4, 4))


@pytest.mark.parametrize("kind", [LFDM, LinearHead])
def test_layer_decay_spares_the_head(kind):
    head = kind(24, 5, 3, 2)
    optimizer = create_optimizer_v2(head, opt="adamw", lr=1., layer_decay=.5)
    name_of = {id(p): name for name, p in head.named_parameters()}
    scale_of = {name_of[id(p)]: group["lr_scale"] for group in optimizer.param_groups for p in group["params"]}
    assert scale_of.keys() == set(name_of.values())
    for name, scale in scale_of.items():
        wanted = .5**(3 - int(name[7])) if name.startswith("blocks.") else .5 if name.startswith("norm") else 1.
        assert scale == wanted, name
