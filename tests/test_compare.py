"The paper's tables as commands: equal treatment, seeds, and a kill in the middle."
import re

import numpy as np
import pytest
from safetensors.torch import load_file

import locloc.train
from locloc import compare
from locloc.cli import main
from locloc.compare import (
    Entry,
    Percent,
    check_equal_treatment,
    claims_text,
    difference,
    milliseconds,
    paired_difference,
)
from locloc.localization import Localization
from locloc.localizers import load_localizer
from locloc.report import PictureScore, Report
from locloc.widgets import browsing_page

SMALL = "--data scenes --count 4 --epochs 1 --workers 1".split()
WORDS = "--methods cam whole grabcut:lowlevel --seeds 0 1 --published cub".split()


def run(out, *more):
    main(["compare", *SMALL, "--out", str(out), *more])
    text = (out/"table.md").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith("|") and "command" not in line]
    return [re.sub(r"\|\s*[\d.]+ (\|[^|]*\|)$", r"\1", row) for row in rows] # without the milliseconds


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    out = tmp_path_factory.mktemp("whole")
    return out, run(out, *WORDS)


def test_each_method_has_its_row(whole):
    out, rows = whole
    names = [row.split("|")[1].strip() for row in rows]
    assert names[-6:] == [
        "CAM, frozen efficientnet_lite0", "whole", "grabcut:lowlevel", "whole picture", "best centred box",
        "mean training box"]
    head, _, cam, _, masks, whole_picture = rows[-8:-2]
    assert "±" in cam and "held_out" in cam and "fixed" in masks and "oracle" in rows[-2]
    assert "as published (cub)" in head and "36.1 / – / 56.0, VGG16" in cam and "VGG16" not in masks
    assert whole_picture.count("–") > 5
    assert (out/"figure.png").exists() and (out/"report.md").exists()


def test_the_results_are_browsed_picture_by_picture(whole):
    browser = browsing_page([str(whole[0])], None)
    assert browser.methods.options == ("CAM", "whole", "grabcut:lowlevel") and browser.seed.options == (0, 1)
    assert len(browser.rows) == 4 and not browser.failed
    cam, _, cut = browser.rows[0].predictions
    assert cam.said and cam.class_right is not None and not cut.said and cut.box.any()


def weights(run):
    return load_file(run/"model"/"model.safetensors")["head.conv.weight"]


def test_stopped_in_the_middle_it_ends_with_the_same_table(whole, tmp_path, monkeypatch):
    train = locloc.train.train
    def stop_at_the_second(config):
        if config.seed == 1:
            raise KeyboardInterrupt
        return train(config)
    with monkeypatch.context() as patched:
        patched.setattr("locloc.train.train", stop_at_the_second)
        with pytest.raises(SystemExit):
            run(tmp_path, *WORDS)
    assert (tmp_path/"cam-0"/"model").exists() and not (tmp_path/"cam-1").exists()
    before = (tmp_path/"cam-0"/"model"/"model.safetensors").stat().st_mtime_ns
    out, rows = whole
    assert run(tmp_path, *WORDS) == rows
    first, second = weights(out/"cam-0"), weights(out/"cam-1")
    assert weights(tmp_path/"cam-0").equal(first) and not second.equal(first)
    assert (tmp_path/"cam-0"/"model"/"model.safetensors").stat().st_mtime_ns == before


def test_psol_learns_from_boxes_of_its_own_kind(tmp_path):
    rows = run(tmp_path, "--methods", "psol_ddt", "--cnn", "efficientnet_lite0")
    assert any(row.startswith("| PSOL, own boxes") for row in rows)
    assert (tmp_path/"masks"/"ddt"/"manifest.json").exists() and (tmp_path/"psol_ddt-0"/"model").exists()


def test_what_is_not_there_is_told_before_anything_is_trained(tmp_path, capsys):
    with pytest.raises(SystemExit):
        run(tmp_path, "--methods", "cam", "grabcat")
    assert "called 'grabcat'" in capsys.readouterr().err and not (tmp_path/"cam-0").exists()


class Named:
    def __init__(self, name):
        self.name = name


def row(method, origin, protocol="wsoleval"):
    return dict(table="boxes", protocol=protocol, method=method, threshold=".3", origin=origin, scored="map")


@pytest.mark.parametrize("rows", [
    [row("a", "held_out"), row("b", "oracle")],
    [row("a", "held_out"), row("a", "oracle"), row("b", "pseudo"), row("b", "oracle")],
    [row("a", "fixed"), row("b", "held_out")],
    [row("a", "held_out"), row("b", "held_out"), row("a", "held_out", "locloc"), row("b", "fixed", "locloc")],
])
def test_a_threshold_of_another_origin_than_its_neighbours_is_refused(rows):
    with pytest.raises(ValueError, match="no origin of thresholds that all maps share"):
        check_equal_treatment(rows)


def test_masks_and_boxes_have_no_threshold_to_compare():
    rows = [row("a", "held_out"), row("b", "fixed") | dict(scored="mask"), row("c", "") | dict(scored="box")]
    assert check_equal_treatment(rows) == {"wsoleval": "held_out"}


def test_claims_are_paired_by_picture(whole):
    text = (whole[0]/"table.md").read_text(encoding="utf-8")
    assert "What the authors claim" not in text # cam stands beside nothing that it is said to beat

    def report(**right):
        each = [PictureScore("wsoleval", name, "held_out", str(i), "a", 0, iou, iou, .5, share)
                for name, (ious, share) in right.items() for i, iou in enumerate(ious)]
        settings = dict(protocols=[dict(name="wsoleval", iou=.5, strict=False)])
        return Report({}, settings, tuple(row(name, "held_out") for name in right), each=tuple(each))

    found = report(SCM=([.5, .6, .7, .4], .9), **{"TS-CAM": ([.4, .6, .7, .4], .6)})
    entries = [Entry("SCM", (Named("SCM"),)), Entry("TS-CAM", (Named("TS-CAM"),))]
    line, = [line for line in claims_text(found, entries).splitlines() if line.startswith("| SCM")]
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[0] == "SCM − TS-CAM" and cells[2].startswith("+25.0 (+0.0 to +") and cells[3] == cells[2]
    assert cells[4:] == ["+0.0 on every picture", "+30.0 on every picture"]


def test_a_paired_difference_is_narrower_than_two_intervals():
    rng = np.random.default_rng(0)
    hard = rng.random(400)
    text = paired_difference((hard < .7).astype(float), (hard < .65).astype(float))
    apart, low, high = map(float, re.findall(r"[+-][\d.]+", text))
    assert low < apart < high < low + 5 # two shares of 400 apart are known within 9 at best
    assert paired_difference([np.nan, np.nan], [0., 1.]) == ""


def test_a_figure_over_seeds():
    figure = Percent((80., 82., 84.), ((70., 90.), (72., 92.), (74., 94.)))
    assert str(figure) == "82.0 ± 2.0" and figure.interval == "72.0–92.0" and str(Percent((80.,), ())) == "80.0"


def test_a_difference_over_seeds():
    assert difference([5., 5., 5.], [4., 4., 4.]) == "+1.0 (+1.0 to +1.0)"
    assert difference([1., 3.], [0., 0.]) == "+2.0 (-10.7 to +14.7)" # t of one degree of freedom, 12.706


def test_milliseconds_are_of_one_picture():
    assert milliseconds(load_localizer("whole"), [np.zeros((8, 8, 3), np.uint8)]*4) >= 0


class Guess:
    "What stands for a trained model: a map and a class that depend on nothing"
    name, class_specific = "guess", False

    def __init__(self, options):
        self.fingerprint = options

    def __call__(self, pictures, class_ids=None):
        fish = dict(label="fish", class_id="fish", score=1., top=(("fish", 1.),), top_ids=("fish",))
        return [Localization([[0, 0, 9, 9]], score_map=np.eye(7, dtype=np.float32), **fish) for _ in pictures]


@pytest.mark.parametrize("command, asked, said", [
    ("table5 --seeds 0 1", 8, ("LFDM, background patch", "+0.0 (+0.0 to +0.0)", "85.7")),
    ("fig5 --delta1 .5 .7 --delta0 .1", 4, ("masks, δ1 0.5", "LocLoc, δ1 0.7", "held_out")),
])
def test_the_papers_ablations(tmp_path, monkeypatch, capsys, command, asked, said):
    trained = []
    def train(experiment, name, stage, seed, **options):
        trained.append((name, seed))
        return Guess(dict(name=name, seed=seed))
    monkeypatch.setattr(compare._Experiment, "train", train)
    main([*command.split(), *SMALL, "--attention", "lowlevel", "--out", str(tmp_path)])
    printed = capsys.readouterr().out
    assert len(set(trained)) == asked and all(words in printed for words in said)
    assert (tmp_path/"table.md").read_text(encoding="utf-8") in printed
    assert ("fig5" in command) == (tmp_path/"fig5.png").exists()
