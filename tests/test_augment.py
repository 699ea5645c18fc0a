"Augmentation: Eq. 4 and 5, and views in which picture and mask stay together"
import pickle
import random

import numpy as np
import pytest

from locloc.augment import TrainTransform, background_patch, patch_box


def rng(seed=0): return np.random.default_rng(seed)

@pytest.mark.parametrize("anchor", ["corner", "centre"])
def test_patch_box_is_equation_4(anchor):
    H, W = 120, 200
    for seed in range(50):
        lam = rng(seed).random()
        x, y = rng(seed + 1).uniform(0, [W, H])
        w, h = W * np.sqrt(1 - lam), H * np.sqrt(1 - lam)
        if anchor == "centre":
            x, y = x - w / 2, y - h / 2
        expected = [max(x, 0), max(y, 0), min(x + w, W), min(y + h, H)]
        box = patch_box((H, W), lam, rng(seed + 1), anchor)
        assert np.abs(np.subtract(box, expected)).max() <= 1 and all(isinstance(v, int) for v in box)

@pytest.mark.parametrize("wrong", [dict(lam=1.1), dict(lam=float("nan")), dict(anchor="middle")])
def test_patch_box_refuses(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        patch_box((9, 9), **dict(lam=.5, rng=rng()) | wrong)

def test_background_patch_is_equation_5():
    image = rng().integers(1, 256, (60, 80, 3), dtype=np.uint8)
    mask = rng(1).random((60, 80)) > .8
    before = mask.copy()
    x0, y0, x1, y1 = patch_box(mask.shape, .6, rng(5))
    filled = mask.copy()
    filled[y0:y1, x0:x1] = True
    out = background_patch(image, mask, .6, rng(5))
    assert (out == image * filled[..., None]).all() and out.dtype == np.uint8 and (mask == before).all()

def test_background_patch_refuses_other_masks():
    image, mask = np.zeros((60, 80, 3), np.uint8), np.zeros((60, 80), bool)
    with pytest.raises(ValueError, match="bool"):
        background_patch(image, mask.astype(np.uint8), .6, rng())
    with pytest.raises(ValueError, match=r"\(60, 80\)"):
        background_patch(image, mask[:9], .6, rng())

def test_view_moves_both():
    "Each pixel of the picture tells where it came from; the mask is a function of that place"
    y, x = np.indices((64, 64))
    picture = np.stack([y * 4, x * 4, 0 * x], -1).astype(np.uint8)
    mask = (y // 8 + x // 8) % 2 == 0
    flips, corners = set(), set()
    for seed in range(12):
        p, m = TrainTransform(64, 48)(picture, mask, rng(seed))
        ys, xs = p[..., 0] // 4, p[..., 1] // 4
        assert (m == mask[ys, xs]).all() and p.shape == (48, 48, 3) and m.dtype == bool
        flips.add(bool(xs[0, 0] > xs[0, -1]))
        corners.add((ys.min(), xs.min()))
    assert flips == {False, True} and len(corners) > 8

def test_mask_of_another_size_and_no_mask():
    picture, small = np.zeros((100, 150, 3), np.uint8), np.zeros((56, 56), bool)
    picture[50:, 75:] = 255
    small[28:, 28:] = True
    p, m = TrainTransform(64, 48)(picture, small, rng(3))
    assert ((p[..., 0] > 127) == m).mean() > .97
    q, none = TrainTransform(64, 48)(picture, None, rng(3))
    assert none is None and (p == q).all()

RANDAUGMENT = "rand-m9-mstd0.5-inc1"

def seed_global_generators(seed):
    random.seed(seed)
    np.random.seed(seed)

def next_global_numbers(): return random.random(), np.random.random()

@pytest.mark.parametrize("options", [
    dict(),
    dict(color_jitter=.4),
    dict(randaugment=RANDAUGMENT),
    dict(randaugment=RANDAUGMENT, color_jitter=.4),
])
def test_only_the_generator_decides(options):
    picture = rng().integers(0, 256, (70, 70, 3), dtype=np.uint8)
    transform = pickle.loads(pickle.dumps(TrainTransform(64, 48, **options)))
    def views(): return [transform(picture, None, rng(seed))[0] for seed in range(4)]
    seed_global_generators(1)
    first, after = views(), next_global_numbers()
    seed_global_generators(1)
    assert after == next_global_numbers() # the global generators are as before
    seed_global_generators(2)
    assert np.array_equal(first, views())
    assert any((view != first[0]).any() for view in first[1:])

def test_randaugment_returns_no_mask():
    transform = TrainTransform(64, 48, randaugment=RANDAUGMENT)
    view, mask = transform(np.zeros((64, 64, 3), np.uint8), np.ones((64, 64), bool), rng())
    assert mask is None

def test_a_crop_larger_than_the_picture_is_refused():
    with pytest.raises(ValueError, match="crop"):
        TrainTransform(resize=48, crop=64)
