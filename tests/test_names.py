"Names from outside are drawn, written and printed as they are, whatever they hold"
import csv
import json
import os
import re
import subprocess
import sys
import warnings

import numpy as np
import pytest
from matplotlib.text import Text
from PIL import Image

from locloc.backbone import load_backbone
from locloc.lfdm import LinearHead
from locloc.localization import Localization, one_line
from locloc.model import LocLoc
from locloc.plot import FigureRow, fig4
from locloc.report import (
    Curve,
    IoUSpread,
    Judged,
    Prediction,
    Report,
    curves_figure,
    extremes_figure,
    spreads_figure,
    write_predictions,
)

PICTURE = np.zeros((20, 30, 3), np.uint8)
NAMES = [
    "$5 and $10", "A$$hat", "$", r"\frac{", "a_b^c", "_hidden", "a|b", "a\\|b", "back\\", "two\nlines", "tab\there",
    "caf\udce9", "\x1b[31mred", "حصان", "猫", "50 % & more_#~{}", "<b>&amp;", "`code` *bold*", "n/a: b", " "]


@pytest.mark.parametrize("name, shown", [
    ("two\nlines", r"two\nlines"), ("caf\udce9", r"caf\udce9"), ("\x1b[31m", r"\x1b[31m"), ("\u2028", r"\u2028"),
    ("$5 | _x^\\", "$5 | _x^\\"), ("حصان 猫", "حصان 猫")])
def test_one_line(name, shown):
    assert one_line(name) == shown
    shown.encode()


def localization(name):
    return Localization([[1, 2, 20, 15]], np.ones((20, 30), bool), label=name, class_id=name, score=.5)


@pytest.mark.parametrize("name", NAMES)
def test_words_are_one_line(name):
    assert localization(name).words == f"{one_line(name)} 50 %, box 1 2 20 15"


def drawn(figure):
    "What stands in a figure once it is drawn"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore") # the font lacks some letters
        figure.draw_without_rendering()
    return [text._preprocess_math(text.get_text()) for text in figure.findobj(Text)]


@pytest.mark.parametrize("name", NAMES)
def test_figures_draw_names(name):
    judged = [Judged(.5, PICTURE, np.zeros((0, 4)), np.zeros((0, 4)))]
    figures = [
        fig4([FigureRow(PICTURE, {name: localization(name)}, title=one_line(name))], side=9),
        curves_figure([Curve(name, "locloc", np.linspace(0, 1, 3), np.zeros(3), .5)]),
        spreads_figure([IoUSpread(name, "locloc", np.arange(20), .5)]),
        extremes_figure(name, judged, judged)]
    for figure in figures:
        texts = [text for text, is_math in drawn(figure) if not is_math]
        assert any(one_line(name).strip() in text for text in texts), texts


def columns(line):
    "Cells of a line of a Markdown table, as GitHub reads it"
    cells = re.findall(r"((?:\\.|[^|\\])*)\|", line)[1:]
    return [re.sub(r"\\([|\\<[])", r"\1", cell).strip() for cell in cells]


@pytest.mark.parametrize("name", NAMES)
def test_reports_keep_names_in_their_cells(tmp_path, name):
    row = {"table": "boxes", "protocol": "locloc", "method": name, "GT-known Loc": 50., "n": 2}
    Report({"title": name, "data": name}, {"methods": {name: {}}}, (row,)).save(tmp_path)
    page = (tmp_path/"report.md").read_text(encoding="utf-8")
    tables = [line for line in page.splitlines() if line.startswith("|")]
    assert {len(columns(line)) for line in tables[:3]} == {2} and {len(columns(line)) for line in tables[3:]} == {4}
    if "\\" not in name: # a page shows \\ as \
        assert columns(tables[-1])[0] == one_line(name).strip()
    assert json.loads((tmp_path/"report.json").read_text(encoding="utf-8"))["rows"][0]["method"] == name
    lines = list(csv.reader((tmp_path/"report.csv").read_text(encoding="utf-8").splitlines(keepends=True)))
    assert lines[1][2] == name.replace("\udce9", r"\udce9")


@pytest.mark.parametrize("name", NAMES)
def test_predictions_keep_names(tmp_path, name):
    one = [Prediction(f"{name}.png", (20, 30), localization(name))]
    write_predictions(tmp_path/"coco.json", one, "coco")
    found = json.loads((tmp_path/"coco.json").read_text(encoding="utf-8"))
    assert found["images"][0]["file_name"] == f"{name}.png" and found["categories"][0]["name"] == name
    write_predictions(tmp_path/"csv.csv", one, "csv")
    (line,) = csv.DictReader((tmp_path/"csv.csv").read_text(encoding="utf-8").splitlines(keepends=True))
    assert line["class"] == name.replace("\udce9", r"\udce9")
    write_predictions(tmp_path/"yolo", one, "yolo")
    assert (tmp_path/f"yolo/{name}.txt").exists()
    assert (tmp_path/"yolo/classes.txt").read_text(encoding="utf-8") == f"{one_line(name)}\n"


def test_models_keep_the_names_of_classes(tmp_path):
    vit = load_backbone("test_vit", weights=False)
    LocLoc(vit, lfdm=LinearHead.from_backbone(vit, len(NAMES)), classes=NAMES).save(tmp_path/"model")
    assert LocLoc.load(tmp_path/"model").classes == tuple(NAMES)


PRINT = "from locloc.cli import main; main()"


@pytest.mark.parametrize("name", ["猫 $5.png", "caf\udce9.png", "two\nlines.png"])
def test_a_terminal_that_cannot_encode(tmp_path, name):
    picture = tmp_path/name
    Image.fromarray(PICTURE).save(picture)
    command = [sys.executable, "-c", PRINT, "predict", picture, tmp_path/"gone.png", "--method", "centred,share=.5",
               "--out", tmp_path/"out"]
    done = subprocess.run(command, capture_output=True, env={**os.environ, "PYTHONIOENCODING": "ascii"})
    out, err = done.stdout.decode("ascii"), done.stderr.decode("ascii")
    assert done.returncode == 1 and out.count("\n") == 1 and "box 8 5 22 15 ->" in out, err
    assert err.startswith("locloc: ") and "gone.png: no such file" in err
    assert (tmp_path/"out"/f"{picture.stem}_locloc.png").exists()
