"""Our kernel against independent references: formulas in NumPy, SciPy's maximum flow, all masks of tiny pictures,
OpenCV; and every degenerate case."""
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from itertools import product
from multiprocessing import get_context

import numpy as np
import pytest
from reference_cut import PAIRS, edges, energy, least_energy, odds_and_links
from scipy.special import logsumexp
from scipy.stats import multivariate_normal

import locloc.grabcut as module
from locloc.data import load_dataset
from locloc.grabcut import COMPONENTS, GAMMA, UNIT, PreparedPicture, grabcut


def blobs(seed, H=18, W=22, noise=25):
    "A picture of a few flat colours with noise, and a trimap with all four codes"
    rng = np.random.default_rng(seed)
    centres, palette = rng.uniform(0, 1, (4, 2)) * (H, W), rng.integers(0, 256, (4, 3))
    places = np.stack(np.mgrid[:H, :W], -1)
    nearest = np.square(places[:, :, None] - centres).sum(-1).argmin(-1)
    picture = np.clip(palette[nearest] + rng.normal(0, noise, (H, W, 3)), 0, 255).astype(np.uint8)
    trimap = np.where(nearest == 0, 3, 2).astype(np.uint8)
    trimap[rng.random((H, W)) < .15] = 0
    trimap[(nearest == 0) & (rng.random((H, W)) < .1)] = 1
    return picture, trimap

def boxed(sample):
    "A trimap of a sample's first box: outside certain background, inside uncertain"
    x0, y0, x1, y1 = sample.boxes[0].astype(int)
    trimap = np.zeros(sample.picture.shape[:2], np.uint8)
    trimap[y0:y1, x0:x1] = 3
    return trimap

def iou(a, b):
    return (a & b).sum() / max((a | b).sum(), 1)


@pytest.mark.parametrize("seed", range(50))
def test_cut_is_exact(seed):
    picture, trimap = blobs(seed)
    odds, links, _ = odds_and_links(picture, trimap)
    mask = grabcut(picture, trimap)
    assert energy(mask, trimap, odds, links) == least_energy(trimap, odds, links)
    assert mask[trimap == 1].all() and not mask[trimap == 0].any()

def test_energies_differ():
    "The check above can fail: one pixel more or less costs something"
    picture, trimap = blobs(0)
    odds, links, _ = odds_and_links(picture, trimap)
    mask = grabcut(picture, trimap)
    best = energy(mask, trimap, odds, links)
    for y, x in np.argwhere(trimap > 1)[::17]:
        other = mask.copy()
        other[y, x] ^= True
        assert energy(other, trimap, odds, links) > best

@pytest.mark.parametrize("seed", range(8))
def test_of_equal_masks_the_largest(seed):
    "All masks of a picture of two grey levels, 3 x 4: the union of the best ones is a best one, and ours"
    rng = np.random.default_rng(seed)
    picture = np.repeat(rng.choice([90, 160], (3, 4, 1)), 3, 2).astype(np.uint8)
    trimap = np.full((3, 4), 2, np.uint8)
    trimap[0, 0], trimap[2, 3], trimap[1, 1] = 1, 0, 3
    odds, links, _ = odds_and_links(picture, trimap)
    masks = []
    for bits in product((False, True), repeat=int((trimap > 1).sum())):
        mask = trimap == 1
        mask[trimap > 1] = bits
        masks.append(mask)
    costs = [energy(mask, trimap, odds, links) for mask in masks]
    best = np.array(masks)[np.array(costs) == min(costs)]
    assert (grabcut(picture, trimap) == best.any(0)).all()

@pytest.mark.parametrize("seed", range(3))
def test_links_are_the_formula(seed):
    picture, trimap = blobs(seed)
    flat = picture.reshape(-1, 3).astype(float)
    squares, links = [], []
    for here, there, link in edges(PreparedPicture(picture)._links):
        squares.append(np.square(flat[here] - flat[there]).sum(1))
        links.append(link)
    beta = 1 / (2 * np.concatenate(squares).mean())
    for pair, square, link in zip(PAIRS, squares, links, strict=True):
        expected = GAMMA / np.hypot(*pair) * np.exp(-beta * square)
        assert np.abs(link / UNIT - expected).max() <= .5 / UNIT + 1e-9

def full(gaussian):
    "(3, 3) inverse covariance of a Gaussian's row"
    half = np.zeros((3, 3))
    half[np.triu_indices(3)] = gaussian[module._RR:module._BB + 1]
    return half + np.triu(half, 1).T

def test_odds_are_those_of_the_mixtures():
    "Every colour kept (8 bits): the mixtures' log densities by SciPy, from each row's own mean and covariance"
    picture, trimap = blobs(1)
    odds, _, gaussians = odds_and_links(picture, trimap, bits=8)
    colours = picture.reshape(-1, 3).astype(float)
    sides = []
    for side in gaussians:
        parts = []
        for gaussian in side[np.isfinite(side[:, module._LOG_SHARE])]:
            log_share = gaussian[module._LOG_SHARE] - gaussian[module._LOG_PEAK]
            density = multivariate_normal(gaussian[module._R:module._B + 1], np.linalg.inv(full(gaussian)))
            parts.append(log_share + density.logpdf(colours))
        sides.append(logsumexp(parts, 0))
    expected = np.clip(sides[1] - sides[0], -9 * GAMMA, 9 * GAMMA).reshape(trimap.shape)
    assert np.abs(odds / UNIT - expected)[trimap > 1].max() < 1 / UNIT

def test_shares_of_a_side_sum_to_one():
    _, _, gaussians = odds_and_links(*blobs(1), bits=8)
    for side in gaussians:
        shares = np.exp(side[:, module._LOG_SHARE] - side[:, module._LOG_PEAK])
        assert np.isclose(shares[np.isfinite(side[:, module._LOG_SHARE])].sum(), 1)

def test_one_gaussian_a_cluster_is_numpys():
    "Moments of quantised colours give the pixels' own mean and covariance"
    picture, _ = blobs(2)
    prepared = PreparedPicture(picture)
    colours, moments = prepared._colours, prepared._moments
    which, weight = module._count_side(colours, len(moments), np.ones(colours.shape, bool), True)
    out = np.empty((COMPONENTS, 11))
    module._fit(moments, which, weight, np.zeros(len(which), np.int64), out)
    pixels = picture.reshape(-1, 3)
    assert np.allclose(out[0, module._R:module._B + 1], pixels.mean(0))
    assert np.allclose(np.linalg.inv(np.cov(pixels.T, bias=True)), full(out[0]), rtol=1e-6)
    assert np.isneginf(out[1:, module._LOG_SHARE]).all()

def test_clusters_are_the_nearest_centres():
    rng = np.random.default_rng(0)
    rgb, centres, labels = rng.uniform(0, 255, (3, 1001)), rng.uniform(0, 255, (COMPONENTS, 3)), np.full(1001, -1)
    wanted = np.square(rgb.T[:, None] - centres).sum(-1).argmin(1)
    assert module._join_centres(rgb, centres, labels) == 1001 and (labels == wanted).all()
    labels[:10] = -1
    assert module._join_centres(rgb, centres, labels) == 10 and (labels == wanted).all()

def test_a_side_joins_its_densest_gaussians():
    picture, trimap = blobs(1)
    _, _, gaussians = odds_and_links(picture, trimap)
    rgb, labels = picture.reshape(-1, 3).T.astype(float), np.zeros(picture[..., 0].size, np.int64)
    for side in gaussians:
        module._join_gaussians(side, rgb, labels)
        away = rgb.T[:, None] - side[:, module._R:module._B + 1]
        squares = np.einsum("nki,kij,nkj->nk", away, np.stack([full(gaussian) for gaussian in side]), away)
        assert (labels == (side[:, module._LOG_PEAK] - squares / 2).argmax(1)).all()

def test_steps_to_a_sink_are_those_of_a_plain_search():
    rng, stride = np.random.default_rng(0), 12
    inside = np.pad(np.ones((8, 10), bool), 1).ravel()
    steps = module._steps(stride)
    room = rng.integers(0, 2, (120, 8)).astype(np.int16) * rng.integers(0, 2, (120, 1), np.int16)
    for d, step in enumerate(steps):
        room[~(inside & np.roll(inside, -step)), d] = 0
    excess = np.where(inside & (rng.random(120) < .05), -1, 0).astype(np.int32)
    far, order = np.empty(120, np.int32), np.empty(120, np.int32)
    reached = module._search(room, excess, stride, far, order)
    wanted = np.where(excess < 0, 1, module._FAR)
    for _ in range(120):
        for d, step in enumerate(steps):
            nearer = np.roll(wanted, -step) + 1
            wanted = np.where((room[:, d] > 0) & (nearer < wanted), nearer, wanted)
    assert (far == wanted).all() and 2 < wanted[wanted < module._FAR].max() and (wanted == module._FAR)[inside].any()
    assert sorted(reached) == np.flatnonzero(wanted < module._FAR).tolist() and (np.diff(far[reached]) >= 0).all()

def test_a_graph_turned_round_twice_is_as_it_was():
    "And nothing is touched that lies beside it"
    rng = np.random.default_rng(0)
    around = rng.integers(1, 99, (300, 8)).astype(np.int16)
    room, excess = around[100:220], rng.integers(-99, 99, 120).astype(np.int32)
    before, beside = room.copy(), np.delete(around, np.s_[100:220], 0)
    module._swap_source_and_sink(room, excess, 12)
    assert not np.array_equal(room, before)
    assert np.array_equal(np.delete(around, np.s_[100:220], 0), beside)
    module._swap_source_and_sink(room, excess, 12)
    assert np.array_equal(room, before)

def test_six_bits_cost_less_than_a_percent():
    "Masks from quantised colours, under the energy with every colour kept"
    for seed in range(50):
        picture, trimap = blobs(seed)
        _, links, gaussians = odds_and_links(picture, trimap, bits=6)
        fine = PreparedPicture(picture, 8)
        exact = module._log_odds(fine._moments, fine._colours, trimap, gaussians)[fine._colours]
        assert energy(grabcut(picture, trimap), trimap, exact, links) <= 1.01 * least_energy(trimap, exact, links)

def test_agrees_with_opencv():
    ours, other = [], []
    for sample in load_dataset("scenes", count=8):
        trimap = boxed(sample)
        reference = grabcut(sample.picture, trimap, kernel="cv2")
        ours.append(iou(reference, grabcut(sample.picture, trimap)))
        other.append(iou(reference, grabcut(sample.picture, trimap, seed=1, kernel="cv2")))
    assert np.mean(ours) >= np.mean(other) - .01 and np.mean(ours) > .95

def test_more_rounds_follow_opencv():
    sample = load_dataset("scenes", count=8)[1]
    trimap = boxed(sample)
    for rounds in (2, 5):
        reference = grabcut(sample.picture, trimap, rounds, kernel="cv2")
        assert iou(grabcut(sample.picture, trimap, rounds), reference) > .97

def test_earlier_cuts_leave_no_trace():
    picture, _ = blobs(3, 60, 50)
    prepared, rng = PreparedPicture(picture), np.random.default_rng(0)
    ramp = np.linspace(0, 1, 50)[None] + rng.normal(0, .05, (60, 50))
    for turn in range(40):
        low, high, seed = rng.uniform(0, .4), rng.uniform(.5, 1), int(rng.integers(3))
        trimap = np.select([ramp < low, ramp >= high, ramp > .5], [0, 1, 3], 2).astype(np.uint8)
        before = trimap.copy()
        assert (prepared.cut(trimap, 1 + turn % 2, seed) == grabcut(picture, trimap, 1 + turn % 2, seed)).all()
        assert (trimap == before).all()

def cut(seed):
    return grabcut(*blobs(seed, 40, 40))

def all_equal(some, others):
    return all(np.array_equal(a, b) for a, b in zip(some, others, strict=True))

def test_threads_give_the_same():
    expected = [cut(seed) for seed in range(6)]
    with ThreadPoolExecutor(4) as pool:
        assert all_equal(expected, pool.map(cut, range(6)))

def test_threads_may_share_a_picture():
    picture, _ = blobs(0, 40, 40)
    trimaps = [blobs(seed, 40, 40)[1] for seed in range(6)] * 4
    alone = [grabcut(picture, trimap) for trimap in trimaps]
    with ThreadPoolExecutor(4) as pool:
        assert all_equal(alone, pool.map(PreparedPicture(picture).cut, trimaps))

def test_processes_give_the_same():
    expected = [cut(seed) for seed in range(6)]
    with ProcessPoolExecutor(2, get_context("spawn")) as pool:
        assert all_equal(expected, pool.map(cut, range(6)))

@pytest.mark.parametrize("kernel", ["grid", "cv2"])
@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (0, 5), (2, 2)])
@pytest.mark.parametrize("code", range(4))
def test_one_side_only(kernel, shape, code):
    noise = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    assert (grabcut(noise, np.full(shape, code, np.uint8), kernel=kernel) == (code in (1, 3))).all()

@pytest.mark.parametrize("turned", [False, True])
def test_one_row(turned):
    "Black and white halves, two pixels known at each end: the step is where the colours change"
    picture = np.full((1, 40, 3), 10, np.uint8)
    picture[:, 20:] = 240
    trimap = np.full((1, 40), 2, np.uint8)
    trimap[0, :2], trimap[0, -2:] = 0, 1
    expected = picture[..., 0] == 240
    if turned:
        picture, trimap, expected = picture.transpose(1, 0, 2), trimap.T, expected.T
    assert (grabcut(picture, trimap) == expected).all()

def test_one_colour():
    """Nothing to tell the sides apart but the length of the edge, all links equal: a closed edge shrinks to what is
    certain, and of equal edges the one with more foreground is taken"""
    flat = np.full((12, 12, 3), 77, np.uint8)
    trimap = np.zeros((12, 12), np.uint8)
    trimap[3:9, 3:9] = 3
    assert not grabcut(flat, trimap).any()
    trimap[:] = 2
    trimap[:, 0], trimap[:, -1] = 1, 0
    assert (grabcut(flat, trimap) == (trimap != 0)).all()

def test_two_colours():
    picture = np.full((20, 20, 3), 40, np.uint8)
    picture[5:15, 5:15] = 200
    trimap = np.full((20, 20), 2, np.uint8)
    trimap[9:11, 9:11], trimap[0] = 1, 0
    assert (grabcut(picture, trimap) == (picture[..., 0] == 200)).all()

def test_room_fits_its_type():
    assert 2 * GAMMA * UNIT < 2**15

def test_without_a_place_for_machine_code():
    "A function without a file cannot be kept on disk"
    space = {}
    exec("def double(x): return 2 * x", space)
    assert module._jit(space["double"])(4) == 8

@pytest.mark.parametrize("seed", [-1, 2**63, 2**80])
def test_any_seed(seed):
    assert grabcut(*blobs(0), seed=seed).shape == (18, 22)

def test_refuses_an_unknown_kernel():
    with pytest.raises(ValueError, match="one of grid, cv2, got 'gpu'"):
        grabcut(*blobs(0), kernel="gpu")

@pytest.mark.parametrize("image, marks, told", [
    (np.zeros((4, 4, 3)), np.zeros((4, 4), np.uint8), "float64"),
    (np.zeros((4, 4, 3), np.uint8), np.zeros((4, 5), np.uint8), r"\(4, 5\)"),
    (np.zeros((4, 4, 3), np.uint8), np.full((4, 4), 4, np.uint8), "got 4"),
])
def test_a_prepared_picture_refuses_too(image, marks, told):
    with pytest.raises(ValueError, match=told):
        PreparedPicture(image).cut(marks)

def test_input_may_be_read_only_and_strided():
    picture, trimap = blobs(4)
    expected = grabcut(picture, trimap)
    wide = np.repeat(picture, 2, 1)
    wide.flags.writeable = trimap.flags.writeable = False
    assert (grabcut(wide[:, ::2], trimap) == expected).all()
