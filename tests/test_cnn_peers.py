"Heads on a CNN's features: each loss against its equation in NumPy, and each method through the loop and the door."
import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from locloc import load_localizer
from locloc.attention import ClassActivation, grad_cam
from locloc.backbone import load_classifier, load_cnn
from locloc.box_peers import BASHead, C2AMHead, PSOLHead, apart, box_shares, common_part, ddt_masks, together
from locloc.cnn_peers import ACoLHead, ADLHead, AttentionDropout, CutMixHead, HaSConfig, HaSHead, SPGHead, guided
from locloc.data import load_dataset
from locloc.peers import PEERS, Head, Peer, PeerConfig, PeerStage
from locloc.stores import MaskStore
from locloc.train import main, train

METHODS = "has", "cutmix", "acol", "adl", "spg", "bas", "c2am", "psol"
HEADS = Head, HaSHead, CutMixHead, ACoLHead, ADLHead, SPGHead, BASHead, C2AMHead, PSOLHead


@pytest.fixture
def features():
    return torch.rand(3, 6, 5, 4, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def cnn():
    return seeded_cnn()


def seeded_cnn():
    torch.manual_seed(0)
    return load_cnn("test_resnet", weights=False)


@pytest.fixture(scope="module")
def masks(tmp_path_factory):
    store = MaskStore(tmp_path_factory.mktemp("masks")/"store", {"size": [20, 20]})
    for id in load_dataset("scenes", "train").subset(6).ids():
        store.write(id, make_batch()["mask"][0].numpy())
    return store


def make_head(kind, channels=6, num_classes=3):
    torch.manual_seed(0)
    small = {"hidden": 8} if kind in (ACoLHead, ADLHead, SPGHead, BASHead) else {}
    return kind(channels, num_classes, **small)


def make_batch(count=3, side=20):
    mask = torch.zeros(count, side, side, dtype=torch.bool)
    mask[:, 3:11, 5:17] = True
    return {"label": torch.arange(count) % 3, "mask": mask}


def stretched(one):
    return (one - one.min())/(one.max() - one.min())


def log_softmax(scores):
    return scores - np.log(np.exp(scores).sum(1, keepdims=True))


def cross_entropy(scores, label):
    return -log_softmax(scores)[np.arange(len(label)), label].mean()


def binary_cross_entropy(logits, target):
    shares = 1/(1 + np.exp(-logits))
    return -np.where(target, np.log(shares), np.log(1 - shares)).mean()


@pytest.mark.parametrize("kind", HEADS)
def test_loss_teaches_every_weight_that_the_map_or_the_class_depends_on(kind, features):
    head, batch = make_head(kind), make_batch()
    loss, figures = head.train().loss(features, batch)
    loss.backward()
    assert loss.isfinite() and all(np.isfinite(value.item()) for value in figures.values())
    assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in head.parameters())


@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize("size", [(5, 4), (1, 1), (3, 9)])
def test_maps_have_the_size_of_the_features(kind, size):
    head, features = make_head(kind).eval(), torch.rand(2, 6, *size)
    with torch.no_grad():
        if hasattr(head, "boxes"):
            x0, y0, x1, y1 = head.boxes(features).T
            assert (0 <= x0).all() and (x0 < x1).all() and (x1 <= 1).all() and (y0 < y1).all()
        else:
            assert head.maps(features, torch.tensor([0, 2])).shape == (2, *size)


@pytest.mark.parametrize("kind", HEADS)
def test_map_depends_on_the_class_asked_for_exactly_where_the_head_says_so(kind, features):
    head = make_head(kind).eval()
    if hasattr(head, "boxes"):
        assert not head.class_specific
        return
    with torch.no_grad():
        one, other = (head.maps(features, torch.full((3,), number)) for number in (0, 1))
    assert torch.equal(one, other) != head.class_specific


def test_has_hides_whole_cells_and_nothing_when_asked_not_to(features):
    head = HaSHead(6, 3, sides=(8,), drop=.5)
    torch.manual_seed(0)
    images, batch = head.augment(torch.ones(4, 3, 20, 36), {"label": 0}) # cells of 8 divide neither side
    cells = images[:, :, :16, :32].unflatten(2, (2, 8)).unflatten(4, (4, 8))
    assert batch == {"label": 0} and set(images.unique().tolist()) == {0, 1}
    assert torch.equal(cells.amin((3, 5)), cells.amax((3, 5)))
    assert HaSHead(6, 3, sides=(0,)).augment(images, batch)[0].equal(images)


@pytest.mark.parametrize("count", [4, 5, 1])
def test_cutmix_mixes_targets_by_the_area_that_is_left(count):
    np.random.seed(0)
    images = torch.arange(count).float()[:, None, None, None].expand(-1, 3, 32, 32).clone()
    label = torch.arange(count) % 3
    mixed, batch = CutMixHead(6, 3).augment(images, {"label": label})
    assert torch.equal(images[:, 0, 0, 0], torch.arange(count).float()), "the pictures given are not changed"
    assert torch.allclose(batch["target"].sum(1), torch.ones(count))
    for number, (one, target) in enumerate(zip(mixed, batch["target"], strict=True)):
        wanted = torch.zeros(3)
        for value, times in zip(*one[0].unique(return_counts=True), strict=True):
            wanted[label[int(value)]] += times/one[0].numel()
        assert torch.allclose(target, wanted, atol=1e-6), number


def test_soft_targets_reach_the_loss(features):
    head = make_head(CutMixHead)
    target = torch.tensor([[.2, .8, 0], [1, 0, 0], [.5, 0, .5]])
    loss, _ = head.loss(features, {**make_batch(), "target": target})
    scores = head(features).detach().numpy()
    assert np.isclose(loss.item(), -(target.numpy()*log_softmax(scores)).sum(1).mean(), atol=1e-6)


def test_acol_second_head_sees_what_the_first_is_not_sure_of(features):
    head, label = make_head(ACoLHead), make_batch()["label"]
    loss, _ = head.loss(features, make_batch())
    with torch.no_grad():
        first = head.conv(features).numpy()
        sure = np.stack([stretched(one[y]) >= .7 for one, y in zip(first, label, strict=True)])
        assert 0 < sure.mean() < 1
        second = head.other(features*torch.from_numpy(~sure)[:, None]).numpy()
        maps = head.maps(features, label).numpy()
    wanted = cross_entropy(first.mean((2, 3)), label.numpy()) + cross_entropy(second.mean((2, 3)), label.numpy())
    assert np.isclose(loss.item(), wanted, atol=1e-5)
    for i, y in enumerate(label):
        assert np.allclose(maps[i], np.maximum(stretched(first[i, y]), stretched(second[i, y])), atol=1e-5)


def test_adl_drops_or_weights_while_training_and_neither_when_asked(features):
    attention = features.numpy().mean(1, keepdims=True)
    dropped = features.numpy()*(attention < .8*attention.max((2, 3), keepdims=True))
    assert np.allclose(AttentionDropout(1, .8)(features), dropped)
    assert np.allclose(AttentionDropout(0, .8)(features), features.numpy()/(1 + np.exp(-attention)))
    assert torch.equal(AttentionDropout(1, .8).eval()(features), features)
    torch.manual_seed(0)
    layer = AttentionDropout(.75, .9)
    chosen = [bool((layer(features) == 0).any()) for _ in range(400)]
    assert .65 < np.mean(chosen) < .85


@pytest.mark.parametrize("most", [1., .3])
def test_spg_guide_counts_where_it_is_sure(most):
    generator = np.random.default_rng(0)
    logits, guide = generator.normal(size=(2, 5, 4)), generator.uniform(0, most, (2, 5, 4))
    high = np.where(guide.max((1, 2), keepdims=True) > .7, .7, .7*guide.max((1, 2), keepdims=True))
    on, off = guide > high, guide < .1
    wanted = binary_cross_entropy(logits[on | off], on[on | off])
    assert np.isclose(guided(torch.from_numpy(logits), torch.from_numpy(guide), .7, .1).item(), wanted)


def test_spg_loss_is_the_sum_of_its_four_terms(features):
    head, batch = make_head(SPGHead), make_batch()
    loss, figures = head.loss(features, batch)
    with torch.no_grad():
        shallow = head.shallow(features)
        deep = head.deep(shallow)
        class_maps = head.conv(deep)
        b1, b2, c = head.last(head.b1(shallow))[:, 0], head.last(head.b2(deep))[:, 0], head.c(deep)[:, 0]
    guide = torch.stack([stretched(one[y]) for one, y in zip(class_maps, batch["label"], strict=True)])
    terms = (guided(b2, guide, .7, .01), guided(b1, b2.sigmoid(), .5, .05),
             guided(c, (b1.sigmoid() + b2.sigmoid())/2, .7, .1))
    classes = cross_entropy(class_maps.mean((2, 3)).numpy(), batch["label"].numpy())
    assert np.isclose(loss.item(), classes + sum(terms).item(), atol=1e-5)


def test_bas_loss_against_its_equation(features):
    head, batch = make_head(BASHead), make_batch()
    loss, figures = head.loss(features, batch)
    label = batch["label"].numpy()
    with torch.no_grad():
        mask = torch.stack([one[y] for one, y in zip(head.mask(features).sigmoid(), label, strict=True)])[:, None]
        def scores(given):
            return head.conv(given).mean((2, 3)).numpy()
        whole, inside, outside = scores(features), scores(features*mask), scores(features*(1 - mask))
    rows = np.arange(3)
    share = outside[rows, label]/(whole[rows, label] + 1e-8)
    wanted = cross_entropy(whole, label) + .5*cross_entropy(inside, label) + np.where(share < 1, share, 0).mean()
    assert np.isclose(loss.item(), wanted + 1.2*mask.mean().item(), atol=1e-5)
    assert (whole >= 0).all()


def test_bas_background_teaches_the_mask_and_not_the_classifier(features):
    head, batch = make_head(BASHead), make_batch()
    mask = head.masks(features)[:, :1].detach().requires_grad_()
    with torch.no_grad():
        head.conv[0][-1].bias.fill_(1.) # no score is 0
    head.background_share(features, mask, head(features), batch["label"]).sum().backward()
    assert mask.grad.any() and all(weight.grad is None for weight in head.conv.parameters())


def test_bas_map_is_the_mean_of_the_best_classes_masks(features):
    head = BASHead(6, 3, hidden=8, top=2).eval()
    with torch.no_grad():
        best = head(features).argsort(1, descending=True)[:, :2]
        wanted = torch.stack([masks[some].mean(0) for masks, some in zip(head.masks(features), best, strict=True)])
        assert torch.allclose(head.maps(features, torch.tensor([0, 1, 2])), wanted)


def test_c2am_losses_against_their_equations():
    generator = np.random.default_rng(0)
    f, b = generator.uniform(.1, 1, (2, 5, 7))
    def cosine(one, other):
        unit = [x/np.linalg.norm(x, axis=1, keepdims=True) for x in (one, other)]
        return (unit[0]@unit[1].T).clip(.0005, .9995)
    s = cosine(f, f)
    rank = np.array([[(row > value).sum() for value in row] for row in s]) - 1
    pair = [torch.from_numpy(x) for x in (f, b)]
    assert np.isclose(apart(*pair).item(), -np.log(1 - cosine(f, b)).mean())
    assert np.isclose(together(pair[0], .25).item(), (np.exp(-.25*rank)*-np.log(s)).mean())


def test_c2am_turns_its_map_so_that_the_border_is_background():
    head, features = make_head(C2AMHead), torch.ones(2, 6, 6, 6)
    features[:, :, 2:4, 2:4] = 0
    with torch.no_grad():
        head.conv.weight.zero_()[:, :, 1, 1] = 1 # on at the border, off in the middle
    for _ in range(30):
        head.train().loss(features, {})
    found = head.eval().maps(features, None)
    assert head.border > .5 and found[:, 2:4, 2:4].mean() > found[:, 0].mean()


def test_psol_learns_the_box_of_the_largest_part(features):
    head, batch = make_head(PSOLHead), make_batch()
    batch["mask"][0, 15:17, 0:2] = True # a smaller part
    batch["mask"][1] = False            # nothing: its box is not learned
    shares, found = box_shares(batch["mask"])
    assert found.tolist() == [True, False, True]
    assert np.allclose(shares[::2], [5/20, 3/20, 12/20, 8/20])
    loss, _ = head.loss(features, batch)
    with torch.no_grad():
        predicted, scores = head.regressor(features)[::2].numpy(), head(features).numpy()
    wanted = cross_entropy(scores, batch["label"].numpy()) + 50*((predicted - shares[::2].numpy())**2).mean()
    assert np.isclose(loss.item(), wanted, atol=1e-5)


def test_common_part_is_what_pictures_of_a_class_share():
    features = torch.rand(4, 6, 8, 8, generator=torch.Generator().manual_seed(0))*.1
    object_, places = torch.tensor([1., 0, 2, 0, 1, 0]), [(1, 1), (2, 3), (4, 2), (3, 4)]
    for one, (y, x) in zip(features, places, strict=True):
        one[:, y:y + 3, x:x + 3] += object_[:, None, None]
    found = common_part(features) > 0
    for one, (y, x) in zip(found, places, strict=True):
        assert one[y:y + 3, x:x + 3].all() and one.sum() == 9


def test_ddt_masks_are_a_store_that_can_be_trained_on(tmp_path, cnn):
    scenes = load_dataset("scenes", "train").subset(4)
    store = ddt_masks(scenes, tmp_path/"masks", cnn, size=64, batch=1)
    assert len(store) == 4 and store.read(scenes[0].id).shape == (64, 64)
    assert store.manifest["counts"]["masks"] == 4 and store.manifest["attention"]["name"] == "ddt"


@pytest.mark.parametrize("method", METHODS)
def test_gradient_reaches_the_head_and_not_the_backbone(method, cnn):
    config = PEERS[method].of("tiny")
    torch.manual_seed(0)
    stage = config.stage(cnn, 3)
    loss, _ = stage.train()({"picture": torch.randint(256, (2, 64, 64, 3), dtype=torch.uint8), **make_batch(2, 64)})
    loss.backward()
    assert all(weight.grad is None for weight in cnn.parameters())
    assert any(weight.grad is not None and weight.grad.any() for weight in stage.head.parameters())


@pytest.mark.parametrize("method", METHODS)
def test_a_saved_head_answers_as_before(method, cnn, tmp_path):
    config = PEERS[method].of("tiny")
    torch.manual_seed(0)
    peer = PeerStage(cnn, config, 3).finished(("a", "b", "c"))
    peer.size = 64
    peer.save(tmp_path/"peer")
    again = Peer.load(tmp_path/"peer")
    picture = np.random.default_rng(0).integers(256, size=(50, 70, 3), dtype=np.uint8)
    one, other = peer([picture])[0], again([picture])[0]
    assert again.fingerprint == peer.fingerprint and again.fingerprint["frozen"] == "backbone"
    assert np.array_equal(one.boxes, other.boxes) and one.top == other.top
    assert (one.label is None) == (method == "c2am") and (one.score_map is None) == (method == "psol")


@pytest.mark.parametrize("method", METHODS)
def test_presets_are_those_of_its_sources(method):
    paper, tiny = PEERS[method].of("paper"), PEERS[method].of("tiny")
    assert paper.optimizer == "sgd" and paper.cached_views == 0 and tiny.optimizer == "adamw"
    assert tiny.backbone == "efficientnet_lite0"


def test_a_method_that_changes_pictures_refuses_cached_views():
    with pytest.raises(ValueError, match="--cached-views must be 0, got 2"):
        HaSConfig(cached_views=2)


@pytest.mark.parametrize("wrong", [dict(sides=()), dict(sides=(-1,)), dict(drop=1.5)])
def test_impossible_options_of_has_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        HaSConfig(**wrong)


class _Drawing(Head):
    "Learns nothing but noise, and breaks down once"
    steps_left = np.inf

    def loss(self, features, batch):
        _Drawing.steps_left -= 1
        if _Drawing.steps_left == 0:
            raise RuntimeError("broken down")
        return (self(features)*torch.rand(())*np.random.uniform()).sum(), {}


class _DrawingConfig(PeerConfig):
    head, presets = _Drawing, {}
    make_backbone = staticmethod(lambda name, weights: seeded_cnn())


def test_a_run_that_draws_at_random_goes_on_as_if_it_had_never_stopped(tmp_path, monkeypatch):
    monkeypatch.setitem(PEERS, "drawing", _DrawingConfig)
    monkeypatch.setattr(_DrawingConfig, "method", "drawing", raising=False)
    scenes = load_dataset("scenes", "train").subset(4)
    config = _DrawingConfig(resize=64, crop=64, batch=2, epochs=2, lr=.1, optimizer="sgd", cached_views=1)
    whole = train(replace(config, out=tmp_path/"whole"), scenes, progress=False)
    monkeypatch.setattr(_Drawing, "steps_left", 4) # two steps an epoch: in the second epoch
    with pytest.raises(RuntimeError, match="broken down"):
        train(replace(config, out=tmp_path/"part"), scenes, progress=False)
    part = train(replace(config, out=tmp_path/"part"), scenes, progress=False)
    assert all(torch.equal(a, b) for a, b in zip(whole.head.parameters(), part.head.parameters(), strict=True))


def test_an_epoch_from_the_command_line_makes_a_localizer(tmp_path, masks):
    out = tmp_path/"psol"
    main(["psol", "--preset", "tiny", "--data", "scenes", "--count", "6", "--epochs", "1", "--batch", "3", "--resize",
          "64", "--crop", "64", "--cached-views", "1", "--masks", str(masks.folder), "--out", str(out)])
    lines = [json.loads(line) for line in (out/"metrics.jsonl").read_text().splitlines()]
    assert len(lines) == 2 and all(np.isfinite(line["cross_entropy"]) for line in lines)
    found = load_localizer(str(out))([np.zeros((40, 60, 3), np.uint8)])[0]
    assert found.label is not None and found.boxes.shape[1] == 4


@pytest.mark.parametrize("name", ["cam", "gradcam"])
def test_map_of_a_trained_classifier_is_that_of_the_class_asked_for(name):
    torch.manual_seed(0)
    localizer = load_localizer(f"{name}:test_resnet", weights=False, size=64)
    pictures = [np.random.default_rng(0).integers(256, size=(50, 70, 3), dtype=np.uint8)]*2
    cat, own = localizer(pictures, ["n02124075_Egyptian_cat", None])
    assert localizer.class_specific and own.class_id == cat.class_id
    assert not np.array_equal(cat.score_map, own.score_map)
    asked = localizer(pictures[:1], [own.class_id])[0]
    assert np.allclose(asked.score_map, own.score_map, atol=1e-3) # of a batch of another size
    with pytest.raises(ValueError, match="knows no class 'albatross'"):
        localizer(pictures[:1], ["albatross"])


@pytest.mark.parametrize("network, options", [
    ("test_resnet", {}), ("test_vit", {"img_size": 224}), # a ViT's head may read CLS alone
    ("swin_tiny_patch4_window7_224", dict(embed_dim=12, depths=(1, 1, 1, 1), num_heads=(1, 1, 1, 1)))]) # NHWC
def test_grad_cam_asks_any_network_about_a_class(network, options):
    torch.manual_seed(0)
    source = ClassActivation(load_classifier(network, weights=False, **options), network)
    images, asked = torch.randn(2, 3, 224, 224), torch.tensor([1, 7])
    scores, maps = grad_cam(source, images, lambda scores: asked)
    assert scores.shape == (2, 1000) and maps.ndim == 3 and (maps >= 0).all() and maps.any()
    assert not any(weight.requires_grad for weight in source.model.parameters())
    with torch.no_grad():
        assert torch.allclose(scores, source.model(images), atol=1e-4)


def test_grad_cam_of_a_mean_and_a_matrix_is_cam():
    torch.manual_seed(0)
    source = ClassActivation(load_classifier("test_resnet", weights=False), "test_resnet")
    images, asked = torch.randn(2, 3, 64, 96), torch.tensor([1, 7])
    features, weight = source.model.forward_features(images), source.model.fc.weight[asked]
    wanted = torch.einsum("bchw,bc->bhw", features, weight).clamp_min(0)/features[0, 0].numel()
    assert torch.allclose(grad_cam(source, images, lambda scores: asked)[1], wanted, atol=1e-6)


def test_a_classifier_without_known_classes_names_them_by_number():
    localizer = load_localizer("cam:test_resnet", weights=False, num_classes=4, size=64)
    found = localizer([np.zeros((30, 40, 3), np.uint8)], ["3"])[0]
    assert localizer.classes == ("0", "1", "2", "3") and found.class_id in localizer.classes
