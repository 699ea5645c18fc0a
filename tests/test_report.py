"A report's page and its figures: what they say, and that nothing is cut"
import matplotlib

matplotlib.use("agg")
import numpy as np
import pytest

from locloc.report import Curve, IoUSpread, Judged, Report, curves_figure, extremes_figure, spreads_figure

PROTOCOLS = ["wsoleval"], ["wsoleval", "locloc", "tscam", "bas"]
NAMES = [f"grabcut:locloc-tiny,delta0={i / 50:.2f},delta1=0.8,split=0.3,iterations=3" for i in range(20)]
SHARES = np.arange(0, 1, .01)


def curves(names, protocols):
    return [Curve(name, p, SHARES, 90*(1 - SHARES)**(i + 1), .3) for p in protocols for i, name in enumerate(names)]


def spreads(names, protocols):
    return [IoUSpread(name, p, np.arange(20) + i, .5) for p in protocols for i, name in enumerate(names)]


def legend_names(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def looks(figure):
    "Name -> colour and dashes"
    (legend,) = figure.legends
    return {text.get_text(): (line.get_color(), line._unscaled_dash_pattern)
            for text, line in zip(legend.get_texts(), legend.get_lines(), strict=True)}


@pytest.mark.parametrize("protocols", PROTOCOLS)
@pytest.mark.parametrize("count", [1, 20])
@pytest.mark.parametrize("make", [lambda n, p: curves_figure(curves(n, p)), lambda n, p: spreads_figure(spreads(n, p))])
def test_nothing_of_a_figure_is_cut_or_covered(make, count, protocols):
    figure = make(NAMES[:count], protocols)
    figure.draw_without_rendering()
    whole, legend = figure.bbox, figure.legends[0].get_window_extent()
    assert legend.x0 >= 0 and legend.x1 <= whole.x1 and legend.y0 >= 0 and legend.y1 <= whole.y1
    axes = [ax for ax in figure.axes if ax.axison]
    assert len(axes) == len(protocols)
    for ax in axes:
        box = ax.get_tightbbox()
        assert box.x0 >= 0 and box.y0 >= 0 and box.y1 <= whole.y1 and not box.overlaps(legend)
        assert ax.get_window_extent().width > 200, "the curves have room"
    assert len({*legend_names(figure)}) == count, "long names differ still"
    assert len({*looks(figure).values()}) == count


def test_a_method_looks_the_same_in_every_figure():
    with_map, all_of_them = NAMES[2:5], NAMES[:5]
    one = looks(curves_figure(curves(with_map, ["wsoleval"]), all_of_them))
    other = looks(spreads_figure(spreads(["whole picture", *all_of_them], ["wsoleval"]), all_of_them))
    assert len(one) == 3 and one.items() <= other.items()


@pytest.mark.parametrize("name", ["_hidden", "$5 or $6", "a\nb"])
def test_a_method_may_be_called_anything(name, tmp_path):
    figure = curves_figure(curves([name], ["wsoleval"]))
    figure.savefig(tmp_path/"figure.png")
    assert legend_names(figure) == [name.replace("$", r"\$").replace("\n", r"\n")]


def test_a_dot_marks_the_threshold_of_a_method():
    (ax,) = curves_figure([Curve("mine", "wsoleval", SHARES, 100*SHARES, .25)]).axes
    dot, line = ax.lines
    assert (dot.get_xdata(), dot.get_ydata()) == ([.25], [25]) and len(line.get_xdata()) == 100


def test_the_share_of_right_boxes_at_each_iou():
    counts = np.zeros(20)
    counts[[0, 9, 10, 19]] = 1
    (ax,) = spreads_figure([IoUSpread("mine", "wsoleval", counts, .5)]).axes
    shown = dict(zip(np.round(ax.lines[0].get_xdata(), 2), ax.lines[0].get_ydata(), strict=True))
    assert [shown[x] for x in (0, .05, .45, .5, .55, .95, 1)] == [100, 75, 75, 50, 25, 25, 0]


def test_extremes_name_class_and_picture():
    box = np.array([[1, 1, 9, 9]])
    one = Judged(.25, np.zeros((10, 10, 3), np.uint8), box, box, "$tern", "tern_" + "x" * 60 + "_7.jpg")
    axes = extremes_figure("mine", [one, one], [one]).axes
    assert [ax.get_ylabel() for ax in axes] == ["worst", "", "best", ""]
    class_id, name = axes[0].get_xlabel().split("\n")
    assert class_id == r"\$tern" and name.startswith("tern_x") and "…" in name and name.endswith("_7.jpg")
    assert axes[0].get_title() == "IoU 0.25" and not axes[3].axison


def row(**figures):
    return {"table": "boxes", "protocol": "wsoleval", "method": "mine", **figures, "n": 9}


def page(*rows, **settings):
    return Report({"title": "t"}, settings, rows).to_markdown()


def test_a_page_without_boxes_says_that_localization_was_not_measured():
    classes = row(**{"Top-1 Cls": 50.}) | {"table": "classes"}
    assert "## Boxes\n\nNot measured: no true box" in page(classes)
    assert "Not measured" not in page(classes, row(**{"GT-known Loc": 50.}))


def test_top_5_of_few_classes_is_left_out():
    figures = {"GT-known Loc": 60., "Top-1 Loc": 50., "Top-5 Loc": 60.}
    assert "| Top-5 Loc |" in page(row(**figures)) and "| Top-5 Loc |" in page(row(**figures), classes=6)
    few = page(row(**figures), classes=3)
    assert "| Top-5 Loc |" not in few and "of 3 classes" in few and "Top-1 Loc" in few
    assert "of 3 classes" not in page(row(**{"GT-known Loc": 60.}), classes=3)


@pytest.mark.parametrize("threshold, warned", [
    ("0 of maximum", True), ("0", True), ("0.01 of maximum", False), ("", False), ("sides 0.80 of the input's", False)])
def test_a_threshold_of_0_is_warned_about(threshold, warned):
    assert ("says nothing about where" in page(row(threshold=threshold, origin="oracle"))) == warned


def test_figures_are_saved_in_the_formats_that_are_asked_for(tmp_path):
    report = Report({"title": "t"}, {}, (), {"curves": curves_figure(curves(["mine"], ["wsoleval"]))})
    report.save(tmp_path/"plain")
    report.save(tmp_path/"more", ("svg", "pdf"))
    assert not [*(tmp_path/"plain").glob("*.pdf")] and "(curves.png)" in (tmp_path/"more"/"report.md").read_text()
    starts = {"png": b"\x89PNG", "pdf": b"%PDF", "svg": b"<?xml"}
    assert all((tmp_path/"more"/f"curves.{kind}").read_bytes().startswith(start) for kind, start in starts.items())
