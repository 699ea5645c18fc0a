"Heads on a ViT's tokens, each against its equations written out plainly"
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from locloc.attention import load_attention
from locloc.backbone import FrozenTokens, load_backbone, load_tokens
from locloc.cli import main
from locloc.data import Geometry, load_dataset
from locloc.localization import sharing
from locloc.localizers import load_localizer
from locloc.masks import PPDParams, ppd_mask
from locloc.peers import PEERS
from locloc.stores import MaskStore
from locloc.vit_peers import LCTR, SCM, TSCAM

NAMES = ["tscam", "scm", "lctr"]
D, C, SIZE = 8, 3, (4, 5)


@pytest.fixture
def features():
    torch.manual_seed(0)
    tokens, attention = torch.randn(2, D, *SIZE), torch.rand(2, 2, *SIZE)
    return torch.cat([tokens, attention / attention.sum((2, 3), keepdim=True)], 1)


class WholeAttention:
    "Attention of every block from timm's own unfused path: the matrix enters `attn_drop`"
    def __init__(self, vit):
        self.matrices = []
        for block in vit.model.blocks:
            block.attn.fused_attn = False
            block.attn.attn_drop.register_forward_pre_hook(lambda m, args: self.matrices.append(args[0].mean(1)))


@pytest.mark.parametrize("name, options", [
    ("vit_small_patch16_224", {}),
    ("vit_small_patch16_224", dict(qk_norm=True)),
    ("dinov2_vits14_reg", {}),
    ("dinov3_vits16", {}),
    ("vit_base_patch16_rope_mixed_224", {}),
])
def test_both_maps_are_those_of_the_whole_attention_matrix(name, options):
    torch.manual_seed(0)
    tokens = load_tokens(name, weights=False, embed_dim=48, depth=2, num_heads=3, **options)
    for p in tokens.parameters():
        p.data += torch.randn_like(p) * .2 # far from a flat softmax
    P, prefix = tokens.patch_size, tokens.num_prefix_tokens
    images = torch.randn(2, 3, 3 * P, 5 * P)
    found = tokens(images)
    assert found.shape == (2, tokens.channels, 3, 5) == (2, 50, 3, 5)
    whole = WholeAttention(tokens)
    patches = tokens.model.forward_features(images)[:, prefix:]
    cls = torch.stack([a[:, 0, prefix:] for a in whole.matrices]).mean(0)
    relation = torch.stack([torch.einsum("bi,bij->bj", a[:, 0], a)[:, prefix:] for a in whole.matrices]).mean(0)
    torch.testing.assert_close(found[:, :-2].flatten(2).mT, patches, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found[:, -2].flatten(1), cls, atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(found[:, -1].flatten(1), relation, atol=1e-6, rtol=1e-4)


def test_tokens_and_features_of_one_vit_are_not_mixed_up_when_shared():
    tokens, picture = load_tokens("test_vit", weights=False), np.zeros((1, 64, 64, 3), np.uint8)
    vit = load_backbone("test_vit", weights=False)
    vit.load_state_dict(tokens.state_dict())
    with sharing():
        assert tokens.look(picture) is tokens.look(picture)
        assert torch.is_tensor(tokens.look(picture)) and vit.look(picture).cls_attention is not None


def test_parameters_of_tscam_are_as_many_as_published():
    "25.1 M on DeiT-S with the 1000 classes of ILSVRC"
    tokens = load_tokens("deit_small", weights=False)
    head = TSCAM(tokens.channels, 1000)
    assert round(sum(p.numel() for module in (tokens, head) for p in module.parameters()) / 1e6, 1) == 25.1


def convolved(x, weight, bias):
    "3×3 convolution in which every step is seen: (B, D, h, w) -> (B, C, h, w)"
    h, w = x.shape[2:]
    padded, out = F.pad(x, (1, 1, 1, 1)), bias[:, None, None].expand(len(x), -1, h, w)
    for i in range(3):
        for j in range(3):
            out = out + torch.einsum("cd,bdhw->bchw", weight[:, :, i, j], padded[:, :, i:i + h, j:j + w])
    return out


def test_tscam_is_its_equations(features):
    head, labels = TSCAM(D + 2, C), torch.tensor([2, 0])
    S = convolved(features[:, :D], head.conv.weight, head.conv.bias)
    torch.testing.assert_close(head(features), S.mean((2, 3)))
    loss, _ = head.loss(features, {"label": labels})
    torch.testing.assert_close(loss, -S.mean((2, 3)).log_softmax(1)[[0, 1], labels].mean())
    torch.testing.assert_close(head.maps(features, labels), features[:, D] * S[[0, 1], labels])


def calibrated(S, f, lam, beta, steps):
    "A layer of SCM on one picture, with loops: (C, h, w), (h, w) -> both"
    h, w = f.shape
    N = h * w
    places = [(i, j) for i in range(h) for j in range(w)]
    L = np.zeros((N, N))
    for a, (i, j) in enumerate(places):
        for b, (k, m) in enumerate(places):
            if abs(i - k) + abs(j - m) == 1:
                L[a, b], L[a, a] = -1, L[a, a] + 1
    s = S.reshape(len(S), N).T
    E = s @ s.T / np.linalg.norm(s, axis=1) / np.linalg.norm(s, axis=1)[:, None]
    X = L * (lam * E - 1)
    V = .002 * X.T
    for _ in range(steps):
        V = V @ (2 * np.eye(N) - X @ V)
    flown = (V.T @ f.reshape(N)) / (beta * f.max())
    flown = flown - np.tanh(flown)
    change = ((flown - flown.min()) / (flown.max() - flown.min())).reshape(h, w)
    return S + S * change, f + change


def test_scm_is_its_equations_while_it_trains_and_tscam_afterwards(features):
    head, labels = SCM(D + 2, C, layers=2, steps=5), torch.tensor([2, 0])
    for layer, (lam, beta) in zip(head.layers, [(.8, .4), (1.1, .6)], strict=True):
        layer.similarity.data.fill_(lam)
        layer.threshold.data.fill_(beta)
    scores = []
    for S, a in zip(head.class_maps(features), features[:, D], strict=True):
        S, f = S.detach().double().numpy(), a.double().numpy()
        f = (f - f.min()) / (f.max() - f.min())
        for lam, beta in (.8, .4), (1.1, .6):
            S, f = calibrated(S, f, lam, beta, 5)
        scores.append(torch.from_numpy(S.mean((1, 2))))
    torch.testing.assert_close(head(features).double(), torch.stack(scores), atol=1e-4, rtol=1e-3)
    head.loss(features, {"label": labels})[0].backward()
    for parameter in head.parameters():
        assert parameter.grad.isfinite().all() and parameter.grad.abs().sum() > 0
    tscam = TSCAM(D + 2, C)
    tscam.conv.load_state_dict(head.conv.state_dict())
    assert torch.equal(head.eval()(features), tscam(features))
    assert torch.equal(head.maps(features, labels), tscam.maps(features, labels))


def test_lctr_is_its_equations(features):
    head, labels = LCTR(D + 2, C), torch.tensor([2, 0])
    head.bias.data.normal_()
    x, a, r = features[:, :D], features[:, D], features[:, D + 1]
    dimmed = convolved(x * (1 - a[:, None]), head.dig.weight, head.dig.bias)
    kernels = head.conv.weight.view(4, C, D, 3, 3)
    for i, label in enumerate(labels):
        mean, most = dimmed[i].mean((1, 2)), dimmed[i].amax((1, 2))
        g = torch.sigmoid(head.of_mean.weight @ mean + head.of_mean.bias + head.of_max.weight @ most + head.of_max.bias)
        S = convolved(x[i:i + 1], (g[:, None, None, None, None] * kernels).sum(0), head.bias)[0]
        padded = F.pad(S, (1, 1, 1, 1))
        scores = padded.unfold(1, 3, 1).unfold(2, 3, 1).mean((3, 4)).mean((1, 2))
        torch.testing.assert_close(head(features)[i], scores)
        torch.testing.assert_close(head.maps(features, labels)[i], r[i] * S[label].clamp_min(0))
    wanted = -head(features).log_softmax(1)[[0, 1], labels].mean()
    torch.testing.assert_close(head.loss(features, {"label": labels})[0], wanted)


@pytest.mark.parametrize("name", NAMES)
def test_only_the_head_learns_at_any_size_of_picture(name):
    config = replace(PEERS[name].of("tiny"), backbone="test_vit")
    stage = config.stage(config.make_backbone("test_vit", weights=False), C)
    assert isinstance(stage.backbone, FrozenTokens)
    for H, W in (64, 64), (48, 80):
        picture = torch.randint(0, 256, (2, H, W, 3), dtype=torch.uint8)
        loss, figures = stage({"picture": picture, "label": torch.tensor([0, 2])})
        loss.backward()
        assert loss.isfinite() and figures["cross_entropy"] == loss.detach()
    assert all(p.grad is None for p in stage.backbone.parameters())
    assert all(p.grad is not None for p in stage.head.parameters())


@pytest.mark.parametrize("option", ["layers", "steps"])
def test_a_setting_of_scm_below_one_is_named(option):
    with pytest.raises(ValueError, match=option):
        replace(PEERS["scm"].of("tiny"), **{option: 0}).validate()


@pytest.mark.parametrize("name", NAMES)
def test_a_trained_head_is_loaded_as_it_was_and_asked_for_a_class(name, tmp_path):
    short = ["--preset", "tiny", "--data", "scenes", "--count", "6", "--epochs", "1", "--batch", "3"]
    main(["train", name, *short, "--cached-views", "1", "--out", str(tmp_path/name)])
    peer, test = load_localizer(str(tmp_path/name)), load_dataset("scenes", "test").subset(2)
    assert peer.fingerprint["method"] == name and peer.fingerprint["frozen"] == "backbone"
    pictures = [sample.picture[:50 + 30 * i, :90] for i, sample in enumerate(test)]
    own = peer(pictures)
    assert [one.score_map.shape for one in own] == [(14, 14)] * 2
    asked = peer(pictures, [next(label for label in peer.classes if label != one.class_id) for one in own])
    for one, other in zip(own, asked, strict=True):
        assert one.class_id == other.class_id and not np.array_equal(one.score_map, other.score_map)
    peer.save(tmp_path/"copy")
    again = load_localizer(str(tmp_path/"copy"))
    assert again.fingerprint == peer.fingerprint
    np.testing.assert_array_equal(again(pictures)[1].score_map, own[1].score_map)


def test_masks_of_ppd_are_a_hard_threshold_and_geg_learns_from_them(tmp_path, capsys):
    few, store = ["--data", "scenes", "--count", "4"], tmp_path/"ppd"
    main(["masks", *few, "--out", str(store), "--method", "ppd", "--ppd", ".4", "--size", "64", "--workers", "0"])
    masks, dataset = MaskStore(store), load_dataset("scenes").subset(4)
    assert masks.manifest["params"] == {"ppd": .4}
    seen = Geometry(64, squash=True).inputs([sample.picture for sample in dataset])
    for id, attention in zip(dataset.ids(), load_attention("lowlevel")(seen), strict=True):
        np.testing.assert_array_equal(masks.read(id), ppd_mask(attention, .4, (64, 64)))
    with pytest.raises(SystemExit):
        main(["masks", *few, "--out", str(store), "--size", "64", "--workers", "0"])
    assert "params.ppd is 0.4 there" in capsys.readouterr().err
    main(["train", "geg", "--preset", "tiny", *few, "--masks", str(store), "--epochs", "1", "--batch", "2",
          "--out", str(tmp_path/"geg")])
    assert load_localizer(str(tmp_path/"geg"))([dataset[0].picture])[0].score_map is not None


def test_a_threshold_of_ppd_outside_0_to_1_is_refused():
    with pytest.raises(ValueError, match="1.5"):
        PPDParams(1.5).validate()
