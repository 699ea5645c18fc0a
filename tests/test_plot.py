"Figures: what is drawn where, on whose axes, in which style"
import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
import numpy as np
import pytest

from locloc.plot import fig4, show_attention, show_boxes, show_mask, show_picture, show_trimap

PICTURE = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
MAP = np.linspace(0, 1, 6, dtype=np.float32).reshape(2, 3)

@pytest.fixture
def ax():
    figure, ax = plt.subplots()
    yield ax
    plt.close(figure)

@pytest.mark.parametrize("draw", [lambda ax: show_picture(PICTURE, ax=ax), lambda ax: show_attention(MAP, PICTURE, ax=ax),
    lambda ax: show_mask(PICTURE[..., 0] > 99, PICTURE, ax=ax), lambda ax: show_trimap(PICTURE[..., 0] % 4, PICTURE, ax=ax)])
def test_draws_on_the_given_axes(ax, draw):
    before, settings = plt.get_fignums(), dict(plt.rcParams)
    assert draw(ax) is ax and plt.get_fignums() == before and dict(plt.rcParams) == settings
    assert ax.images[-1].get_array().shape[:2] == (40, 60)

def test_attention_has_a_fixed_scale(ax):
    image = show_attention(MAP * .3, PICTURE, ax=ax).images[-1]
    assert image.get_clim() == (0, 1) and image.get_cmap().name == "magma" and image.get_alpha() == .5

def test_boxes_lie_between_pixels_and_differ_without_colour(ax):
    show_boxes([[10, 5, 30, 25]], "true", ax)
    show_boxes([[0, 0, 60, 40]], "predicted", ax)
    true, guess = ax.patches
    assert true.get_bbox().extents.tolist() == [9.5, 4.5, 29.5, 24.5]
    assert true.get_linestyle() == "-" and guess.get_linestyle() != "-"

def test_trimap_legend_tells_the_shares(ax):
    marks = np.zeros((10, 10), np.uint8)
    marks[:4] = 2
    marks[:1] = 1
    labels = [t.get_text() for t in show_trimap(marks, ax=ax).get_legend().get_texts()]
    assert labels == ["background 60%", "uncertain 30%", "foreground 10%"]

def test_fig4_draws_what_it_is_given(tmp_path):
    mask = PICTURE[..., 0] > 99
    full = dict(picture=PICTURE, attention=MAP, ppd=mask, grabcut=mask, activation=MAP, pred_box=[1, 2, 30, 20], true_boxes=[[0, 0, 9, 9], [5, 5, 20, 20]], title="a bird, IoU 0.71")
    figure = fig4([full, {"picture": PICTURE}])
    grid = np.reshape(figure.axes, (2, 5))
    assert [len(ax.patches) for ax in grid[0]] == [2, 0, 0, 0, 3] and [len(ax.images) for ax in grid[1]] == [1, 0, 0, 0, 0]
    assert grid[0, 0].get_xlabel() == "a bird, IoU 0.71" and grid[0, 3].get_title().startswith("GrabCut")
    figure.savefig(tmp_path/"figure.png")
    assert (tmp_path/"figure.png").stat().st_size > 5000 and not plt.get_fignums()
    assert len(fig4([dict(picture=PICTURE, ppd=mask)]).axes) == 2
