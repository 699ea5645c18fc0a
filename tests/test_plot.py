"Figures: what is drawn where, on whose axes, in which style"
import matplotlib

matplotlib.use("agg")
import cv2
import matplotlib.pyplot as plt
import numpy as np
import pytest
from PIL import Image

from locloc.localization import Localization
from locloc.plot import (
    FigureRow,
    clip_name,
    fig4,
    plain_text,
    show_attention,
    show_boxes,
    show_mask,
    show_picture,
    show_trimap,
)

PICTURE = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
MAP = np.linspace(0, 1, 6, dtype=np.float32).reshape(2, 3)
MASK = PICTURE[..., 0] > 99
TRUE_BOXES = np.array([[0, 0, 9, 9], [5, 5, 20, 20]])


@pytest.fixture
def ax():
    figure, ax = plt.subplots()
    yield ax
    plt.close(figure)


@pytest.mark.parametrize("draw", [
    lambda ax: show_picture(PICTURE, ax=ax),
    lambda ax: show_attention(MAP, PICTURE, ax=ax),
    lambda ax: show_mask(MASK, PICTURE, ax=ax),
    lambda ax: show_trimap(PICTURE[..., 0] % 4, PICTURE, ax=ax),
])
def test_draws_on_the_given_axes(ax, draw):
    before, settings = plt.get_fignums(), dict(plt.rcParams)
    assert draw(ax) is ax
    assert plt.get_fignums() == before and dict(plt.rcParams) == settings
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


@pytest.mark.parametrize("name", ["$", "$5 to $6", "a$^$b", r"one\$two", "$x$ $", r"\frac", "50 % & more_#~{}"])
def test_a_plain_text_is_drawn_as_it_is(ax, name):
    parser = matplotlib.mathtext.MathTextParser("path")
    drawn, is_math = show_picture(PICTURE, plain_text(name), ax).title._preprocess_math(plain_text(name))
    assert (drawn, is_math) == (name, False)
    ax.figure.draw_without_rendering()
    parser.parse(f"$F^{{att}}$ of {plain_text(name)}") # a name beside mathematics


@pytest.mark.parametrize("name, shown", [
    ("tern", "tern"), ("0123456789", "0123456789"), ("0123456789x", "01234…789x"), ("0123456789" * 9, "01234…6789")])
def test_a_long_name_keeps_both_ends(name, shown):
    assert clip_name(name, 10) == shown


def test_a_mask_has_no_stairs_in_a_larger_picture(ax):
    size, white = 896, np.full((896, 896, 3), 255, np.uint8)
    def disc(side):
        y, x = np.mgrid[:side, :side] + .5
        return np.hypot(x - side / 2, y - side / 2) < side / 3
    stairs = cv2.resize(disc(224).astype(np.uint8), (size, size), interpolation=cv2.INTER_NEAREST) > 0
    shown = show_mask(stairs, white, ax=ax).images[-1].get_array()[..., 0] > (1 + .35) / 2 * 255
    wrong, wrong_before = (shown != disc(size)).sum(), (stairs != disc(size)).sum()
    assert wrong < wrong_before / 2


@pytest.mark.parametrize("answer, images", [
    (Localization([[1, 2, 30, 20]], label="tern", score=.9), 1), (Localization(mask=MASK), 2),
    (Localization(score_map=MAP), 3)])
def test_an_answer_shows_itself_over_its_picture(answer, images, tmp_path):
    Image.fromarray(PICTURE).save(tmp_path/"a.png")
    before = plt.get_fignums()
    figure = answer.show(tmp_path/"a.png")
    assert figure.axes[0].get_title() == answer.words and sum(len(ax.images) for ax in figure.axes) == images
    figure.savefig(tmp_path/"figure.png")
    assert plt.get_fignums() == before


def test_an_answer_is_shown_in_words():
    assert repr(Localization([[1, 2, 30, 20]], MASK, MAP)) == "Localization(box 1 2 30 20; score map 2×3; mask 40×60)"


def test_mathematics_can_be_a_title(ax):
    title = show_picture(PICTURE, "$F^{att}$", ax).title
    assert title._preprocess_math(title.get_text())[1]


def columns(figure, rows=1):
    "Titles above, axes (rows, columns)"
    grid = np.reshape(figure.axes, (rows, -1))
    return [ax.get_title() for ax in grid[0]], grid


def test_fig4_has_a_column_a_stage_and_an_answer():
    first = Localization([[1, 2, 30, 20]], MASK, stages={"attention": MAP, "trimap": PICTURE[..., 0] % 4})
    second = Localization([[1, 2, 30, 20]], score_map=MAP, stages={"trimap": MASK, "ppd": MASK[::2, ::2]})
    titles, (axes,) = columns(fig4([FigureRow(PICTURE, {"one": first, "two": second}, TRUE_BOXES)]))
    assert titles == ["picture", "attention $F^{att}$", "trimap", "ppd", "one", "two"]
    assert [len(ax.patches) for ax in axes] == [2, 0, 0, 0, 3, 3]
    assert axes[2].images[-1].get_clim() == (0, 3), "the first answer's trimap, not the second's mask"
    assert axes[2].get_legend() is None
    assert axes[5].images[-1].get_cmap().name == "magma"


def test_fig4_draws_what_a_row_has():
    full = FigureRow(PICTURE, {"one": Localization([[1, 2, 30, 20]], stages={"attention": MAP})}, TRUE_BOXES)
    titles, grid = columns(fig4([FigureRow(PICTURE, {}), full]), rows=2)
    assert len(titles) == 3
    assert [len(ax.images) for ax in grid[0]] == [1, 0, 0]
    assert [len(ax.images) for ax in grid[1]] == [1, 2, 1]
    assert len(fig4([FigureRow(PICTURE, {})]).axes) == 1


@pytest.mark.parametrize("answer, words", [
    (Localization(mask=MASK), "nothing found"),
    (Localization(score_map=MAP), "nothing found"),
    (Localization(), ""),
    (Localization([[1, 2, 30, 20]], MASK), ""),
])
def test_fig4_says_where_nothing_was_found(answer, words):
    _, (axes,) = columns(fig4([FigureRow(PICTURE, {"one": answer}, title="a bird")]))
    assert axes[1].get_xlabel() == words
    assert axes[0].get_xlabel().strip() == "a bird"
    assert axes[0].get_xlabel().startswith("\n") == bool(words), "the title is out of its way"


def test_fig4_draws_names_as_they_are(tmp_path):
    row = FigureRow(PICTURE, {"$1 or $2": Localization(stages={"$^": MAP})}, title="$a^$/$.jpg")
    titles, (axes,) = columns(fig4([row]))
    assert titles[1:] == [r"\$^", r"\$1 or \$2"] and axes[0].get_xlabel() == r"\$a^\$/\$.jpg"
    axes[0].figure.savefig(tmp_path/"figure.png")


def test_fig4_has_no_name_that_is_cut(tmp_path):
    long = "Black_footed_Albatross_" * 20
    figure = fig4([FigureRow(PICTURE, {long: Localization([[1, 2, 30, 20]])}, title=f"{long}\n{long}")])
    figure.draw_without_rendering()
    for text in (figure.axes[0].xaxis.label, figure.axes[1].title):
        box = text.get_window_extent()
        assert box.x0 >= 0 and box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1 and "…" in text.get_text()


def test_fig4_is_not_pyplots(tmp_path):
    figure = fig4([FigureRow(PICTURE, {"one": Localization([[1, 2, 30, 20]], MASK)}, TRUE_BOXES, "a bird, IoU 0.71")])
    figure.savefig(tmp_path/"figure.png")
    assert (tmp_path/"figure.png").stat().st_size > 5000 and not plt.get_fignums()
