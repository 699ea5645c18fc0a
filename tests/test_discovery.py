"Discovery: LOST, TokenCut and Object-DINO against plain restatements; what is degenerate; the door"
import json
import pickle

import numpy as np
import pytest
import torch

from locloc.attention import load_attention
from locloc.backbone import load_backbone
from locloc.discovery import cluster_heads, lost, object_heads, patch_projections, token_cut
from locloc.localization import sharing
from locloc.localizers import load_localizer, localizer_names

METHODS = "lost", "tokencut", "heads"


def random_keys(seed, grid=(6, 9), dim=12):
    "A block of like patches among others, with noise"
    rng = np.random.default_rng(seed)
    keys = rng.normal(size=(*grid, dim)) + rng.normal(size=dim) / 2
    keys[1:4, 2:6] += 2 * rng.normal(size=dim)
    return keys


def flood(above, seed):
    "(h, w) bool: the patches that are reached from the seed by steps to the 4 neighbours"
    h, w = above.shape
    reached, waiting = np.zeros((h, w), bool), [divmod(int(seed), w)]
    while waiting:
        y, x = waiting.pop()
        if 0 <= y < h and 0 <= x < w and above[y, x] and not reached[y, x]:
            reached[y, x] = True
            waiting += [(y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)]
    return reached


def plain_lost(keys, k):
    "Patch by patch, as the equations are written"
    flat, n = keys.reshape(-1, keys.shape[2]), keys.shape[0] * keys.shape[1]
    degrees = [sum(flat[p] @ flat[q] > 0 for q in range(n) if q != p) for p in range(n)]
    order = sorted(range(n), key=lambda p: degrees[p])
    grown = [p for p in order[:k] if flat[p] @ flat[order[0]] > 0]
    likeness = np.array([sum(flat[p] @ flat[q] for p in grown) for q in range(n)]).reshape(keys.shape[:2])
    return likeness, flood(likeness > 0, order[0])


@pytest.mark.parametrize("seed, k", [(0, 100), (1, 20), (2, 5), (3, 1)])
def test_lost_is_its_equations(seed, k):
    keys = random_keys(seed)
    likeness, mask = plain_lost(keys, k)
    found = lost(keys, k)
    np.testing.assert_array_equal(found.mask, mask)
    np.testing.assert_allclose(found.score_map, (likeness - likeness.min()) / np.ptp(likeness), atol=1e-6)
    assert found.mask.any() and not found.mask.all()


def plain_cut(similarity, grid, tau=.2):
    "The symmetric form of the same problem: eigenvectors of D^-½ (D − W) D^-½, divided by the roots of D"
    n = len(similarity)
    weights = np.array([[1. if similarity[p, q] > tau else 1e-5 for q in range(n)] for p in range(n)])
    roots = np.array([sum(row) for row in weights])**.5
    laplacian = np.array([[(roots[p]**2 * (p == q) - weights[p, q]) / roots[p] / roots[q] for q in range(n)]
                          for p in range(n)])
    values, vectors = np.linalg.eigh(laplacian)
    vector = vectors[:, np.argsort(values)[1]] / roots
    seed = max(range(n), key=lambda p: abs(vector[p]))
    if vector[seed] < 0:
        vector = -vector
    return vector.reshape(grid), flood((vector > vector.mean()).reshape(grid), seed)


def cosines(keys):
    flat = keys.reshape(-1, keys.shape[2])
    unit = flat / np.linalg.norm(flat, axis=1, keepdims=True)
    return unit @ unit.T


@pytest.mark.parametrize("seed, tau", [(0, .2), (1, .2), (2, .3), (3, .4)])
def test_token_cut_is_its_equations(seed, tau):
    keys = random_keys(seed)
    vector, mask = plain_cut(cosines(keys), keys.shape[:2], tau)
    found = token_cut(cosines(keys), keys.shape[:2], tau)
    np.testing.assert_array_equal(found.mask, mask)
    np.testing.assert_allclose(found.score_map, (vector - vector.min()) / np.ptp(vector), atol=1e-5)
    assert found.mask.any() and not found.mask.all()


def test_token_cut_finds_the_block_that_is_like_itself():
    labels = np.zeros((5, 8), int)
    labels[1:3, 2:6] = 1
    similarity = np.where(labels.ravel()[:, None] == labels.ravel(), 1., -1.)
    found = token_cut(similarity, labels.shape)
    np.testing.assert_array_equal(found.mask, labels == 1)
    np.testing.assert_allclose(found.score_map, labels, atol=1e-6)


@pytest.fixture(scope="module")
def projections():
    "Two layers of three heads on a grid of 5 × 7; heads 1 and 4 (layer 0: 1, layer 1: 1) and the rest go together"
    generator = torch.Generator().manual_seed(0)
    made = torch.randn(2, 3, 3, 5, 7, 4, generator=generator) / 4
    made[..., 0] += 1
    made[:, :, 1, 1:3, 2:5, 0] -= 2 # an object, off the border
    made[:, :, [0, 2], :, :4, 0] -= 2 # and what the other heads see, at the border
    return made


def test_heads_are_the_cut_of_the_cluster_off_the_border(projections):
    similarities = []
    for layer in projections.numpy():
        for head in range(3):
            similarities.append(np.mean([cosines(layer[x, head]) for x in range(3)], 0))
    assert cluster_heads(torch.tensor(np.array(similarities))).tolist() in ([1, 2, 1, 1, 2, 1], [2, 1, 2, 2, 1, 2])
    mean = np.mean([similarities[1], similarities[4]], 0)
    vector, mask = plain_cut(mean, (5, 7), mean.mean())
    found = object_heads(projections)
    np.testing.assert_array_equal(found.mask, mask)
    np.testing.assert_allclose(found.score_map, (vector - vector.min()) / np.ptp(vector), atol=1e-4)
    assert found.mask[1:3, 2:5].all() and found.mask.sum() == 6


@pytest.mark.parametrize("clusters", [1, 2, 100])
def test_no_head_is_left_out(projections, clusters):
    similarities = torch.rand(6, 9, 9, generator=torch.Generator().manual_seed(1))
    numbers = cluster_heads(similarities, clusters)
    assert len(numbers) == 6 and len(set(numbers.tolist())) <= clusters


def test_one_patch():
    assert lost(np.ones((1, 1, 3))).mask.tolist() == [[True]]
    for found in (token_cut(np.ones((1, 1)), (1, 1)), object_heads(torch.ones(2, 3, 2, 1, 1, 4))):
        assert found.mask.tolist() == [[False]] and found.score_map.tolist() == [[0]]


@pytest.mark.parametrize("value", [0., 1.])
def test_patches_that_are_all_the_same(value):
    keys = np.full((3, 4, 5), value)
    found = [lost(keys), token_cut(keys.reshape(12, 5) @ keys.reshape(12, 5).T, (3, 4)),
             object_heads(torch.full((2, 3, 2, 3, 4, 5), value))]
    assert all(not one.score_map.any() and one.mask.dtype == bool for one in found)
    assert not any(one.mask.any() for one in found[1:]), "no cut"


VITS = { # name -> options: a plain one, one with q and k norms, rotary ones as timm builds them
    "test_vit": {}, "vit_tiny_patch16_224": dict(depth=2, qk_norm=True), "dinov3_vits16": dict(depth=2),
    "vit_small_patch16_rope_224": dict(depth=2), "eva02_tiny_patch14_224": dict(depth=2)}


@pytest.mark.parametrize("name", VITS)
def test_values_are_what_attention_averages(name):
    torch.manual_seed(0)
    vit = load_backbone(name, weights=False, **VITS[name])
    attn, kept = vit.model.blocks[-1].attn, []
    fused = torch.nn.functional.scaled_dot_product_attention

    def watched(q, k, v, **options):
        kept.append(v)
        return fused(q, k, v, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.nn.functional, "scaled_dot_product_attention", watched)
        norms = []
        handle = attn.k_norm.register_forward_hook(lambda norm, args, out: norms.append(args[0]))
        side = 4 * vit.patch_size
        found = patch_projections(vit, np.random.default_rng(0).integers(0, 256, (2, side, side, 3), np.uint8))
        handle.remove()
    for number, wanted in ((1, norms[-1]), (2, kept[-1])):
        patches = wanted[:, :, vit.num_prefix_tokens:].unflatten(2, (4, 4))
        torch.testing.assert_close(found[:, 0, number], patches, atol=1e-5, rtol=1e-4)


def test_hooks_do_not_stay(monkeypatch):
    vit = load_backbone("test_vit", weights=False)
    with pytest.raises(ValueError, match="multiples of its patch size"):
        patch_projections(vit, np.zeros((1, 30, 30, 3), np.uint8), slice(None))
    assert not any(block.attn._forward_pre_hooks for block in vit.model.blocks)


@pytest.fixture(scope="module", params=METHODS)
def source(request):
    torch.manual_seed(0)
    return load_attention(f"{request.param}:test_vit", weights=False)


@pytest.fixture(scope="module")
def noise():
    return np.random.default_rng(0).integers(0, 256, (3, 70, 100, 3), np.uint8)


@pytest.mark.parametrize("shape, grid", [((2, 16, 16, 3), (1, 1)), ((1, 50, 100, 3), (3, 6)), ((1, 9, 64, 3), (1, 4))])
def test_pictures_of_one_colour_and_any_size(source, shape, grid):
    maps = source(np.full(shape, 128, np.uint8))
    assert maps.shape == (shape[0], *grid) and maps.dtype == np.float32
    assert maps.min() >= 0 and maps.max() <= 1, "not even nan"


def test_maps_do_not_depend_on_the_batch(source, noise):
    np.testing.assert_allclose(source(noise)[1:2], source(noise[1:2]), atol=1e-3)


def test_a_source_can_be_pickled_and_named(source, noise):
    again = pickle.loads(pickle.dumps(source))
    np.testing.assert_array_equal(again(noise), source(noise))
    assert json.loads(json.dumps(source.fingerprint)) == again.fingerprint and source.name.endswith(":test_vit")


def test_one_search_serves_map_and_mask(source, noise, monkeypatch):
    calls, compare = [], source.compare
    monkeypatch.setattr(source, "compare", lambda one: calls.append(1) or compare(one))
    with sharing():
        source(noise)
        assert len(source.find(noise)) == 3
    assert len(calls) == 3


@pytest.mark.parametrize("method, option, wrong", [
    ("lost", "k", 0), ("tokencut", "tau", 2), ("heads", "clusters", 1.5), ("tokencut", "tau", float("nan"))])
def test_options_change_the_fingerprint_or_are_refused(method, option, wrong):
    torch.manual_seed(0)
    usual = load_attention(f"{method}:test_vit", weights=False)
    torch.manual_seed(0)
    other = load_attention(f"{method}:test_vit", weights=False, **{option: 1})
    assert other.fingerprint == usual.fingerprint | {option: 1}
    with pytest.raises(ValueError, match=f"{option} must be"):
        load_attention(f"{method}:test_vit", weights=False, **{option: wrong})


@pytest.mark.parametrize("method", METHODS)
def test_the_door_gives_the_methods_own_box(method, noise):
    localizer = load_localizer(f"{method}:test_vit", weights=False)
    found, low = localizer([noise[0], noise[1, :40]])
    assert localizer.name == f"{method}:test_vit" and f"{method}:locloc-tiny" in localizer_names()
    assert found.mask.shape == (70, 100) and low.mask.shape == (40, 100)
    assert found.stages["attention"].shape == (14, 14)


def test_the_box_is_that_of_the_mask_on_the_patches(monkeypatch):
    localizer, picture = load_localizer("tokencut:test_vit", weights=False), np.zeros((28, 56, 3), np.uint8)
    found = token_cut(np.ones((196, 196)), (14, 14))
    found.mask[2:5, 3:10] = True
    monkeypatch.setattr(localizer.source, "find", lambda pictures: [found])
    (answer,) = localizer([picture])
    assert answer.boxes.tolist() == [[12, 4, 40, 10]] and answer.mask[4:10, 12:40].all()


@pytest.mark.parametrize("name, words", [
    ("tokencut", "tokencut needs a network, such as tokencut:locloc-tiny"),
    ("tokencut:nothing_vit", "no network called 'nothing_vit'"),
    ("lost:locloc-tiny+lowlevel", "grabcut:lost:locloc-tiny")])
def test_what_cannot_be_had_is_said(name, words):
    with pytest.raises(ValueError, match=words):
        load_localizer(name)


def test_a_kind_has_no_layers_to_choose():
    with pytest.raises(ValueError, match="heads:locloc-tiny has no layers and no heads"):
        load_attention("heads:locloc-tiny", layers=0)
