"Forecasts: what is counted, what a plan leaves on the disk, what a command says."
import json
import math
from dataclasses import replace
from unittest.mock import patch

import numpy as np
import pytest

from locloc.data import load_dataset
from locloc.forecast import (
    Disk,
    Forecast,
    Marks,
    Pace,
    Plan,
    Stage,
    bytes_of_features,
    count_steps,
    find_pace,
    forecast,
    forecast_figure,
    forecast_text,
    main,
    watch_training,
)
from locloc.stores import make_masks
from locloc.train import train


def made_up(notes=()):
    stages = (
        Stage("masks", "picture", 1, Pace(.02, .01, .03, 100, 5), 1000, parts=63),
        Stage("GEG, steps", "step", 8, Pace(.1, .1, .2, 50, 2), 250, parts=8, pauses=5.))
    return Forecast("DATA", 1000, "CPU", stages, (Disk("masks", 4_096_000),), notes)


def test_pace_leaves_out_the_warm_up_and_gives_its_range():
    moments = iter([0, 10, 18, 19, 20, 22, 23, 24])
    marks = Marks(clock=lambda: next(moments))
    for _ in range(7):
        marks()
    intervals, warm_up = marks.every()
    pace = find_pace(intervals, warm_up, units=4)
    assert warm_up == 18 and intervals.tolist() == [1, 1, 2, 1, 1]
    assert (pace.seconds, pace.low, pace.high, pace.units) == (.3, .25, .5, 20)


def test_marks_of_two_geometries_count_once_a_batch():
    moments = iter([0, 1, 2, 11, 12, 21, 22])
    marks = Marks(clock=lambda: next(moments))
    for _ in range(6):
        marks()
    intervals, warm_up = marks.every(2)
    assert intervals.tolist() == [10] and warm_up == 11


def test_nothing_measured_is_an_error_with_the_mend():
    with pytest.raises(ValueError, match="more --seconds"):
        find_pace([])


@pytest.mark.parametrize("pictures, batch, steps", [(706, 8, 880), (8, 8, 10), (7, 8, 10), (15, 8, 10), (16, 8, 20)])
def test_steps_are_counted_as_the_loop_takes_them(pictures, batch, steps):
    assert count_steps(pictures, batch, epochs=10) == steps


def test_ranks_share_masks_by_batches_and_steps_by_pictures():
    masks, steps = made_up().stages
    assert math.isclose(masks.seconds(), 20) and math.isclose(masks.seconds(ranks=2), 20*32/63)
    assert math.isclose(steps.seconds(), 30) and math.isclose(steps.seconds(ranks=3), 5 + 25*3/8)
    assert steps.seconds(ranks=8) == steps.seconds(ranks=50) == 5 + 25/8
    assert math.isclose(made_up().seconds("low"), 40) and math.isclose(made_up().seconds("high"), 85)


def test_text_names_stages_bottleneck_warm_up_and_notes():
    text = forecast_text(made_up(["Evaluation is left out: no split test"]), ranks=4)
    for said in ("| masks ", "1,000 pictures", "20 ms", "50.0 s", "4 ranks", "4.1 MB", "Bottleneck: GEG, steps, 60%",
                 "masks 5.0 s", "Evaluation is left out"):
        assert said in text, said
    assert "ranks" not in forecast_text(made_up())


def test_figure_has_a_bar_for_each_stage():
    ax, = forecast_figure(made_up()).axes
    assert [label.get_text() for label in ax.get_yticklabels()] == ["masks", "GEG, steps"]
    assert np.allclose([bar.get_width() for bar in ax.patches], [20, 30])


@pytest.fixture(scope="module")
def whole():
    "A forecast, of small batches, and its plan"
    plan = Plan("scenes", count=24, epochs_geg=2, epochs_lfdm=1, workers=1, protocol=("wsoleval",), seconds=1.)
    with patch.multiple("locloc.forecast", _BATCH=4, _LEAST=2):
        return plan, forecast(plan, progress=False)


def test_whole_plan_is_counted(whole):
    _, found = whole
    assert {stage.name: stage.times for stage in found.stages} == {
        "masks": 24, "GEG, features": 48, "GEG, steps": 6, "LFDM, features": 96, "LFDM, steps": 1, "evaluation": 200}
    assert all(0 < stage.pace.low <= stage.pace.seconds <= stage.pace.high for stage in found.stages)
    assert all(stage.memory > 50e6 for stage in found.stages)


def test_watched_training_is_a_real_one_and_leaves_what_was_said(whole, tmp_path):
    plan, found = whole
    said = {one.name: one.bytes for one in found.disk}
    scenes = load_dataset("scenes", split="train").subset(24)
    config = replace(next(plan.configs()), out=tmp_path/"run", features=tmp_path/"features")
    features, steps = Marks(), Marks()
    masks = make_masks(scenes, tmp_path/"masks", progress=False)
    train(watch_training(config, features, steps), scenes, masks, progress=False)
    # one picture that tells the shapes, then views, or epochs, times batches
    assert (len(features.moments), len(steps.moments)) == (1 + 2*3, 2*3)

    def there(folder):
        return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    assert there(tmp_path/"run/checkpoints") == said["GEG, checkpoints"]
    arrays = sum(file.stat().st_size for file in (tmp_path/"features").glob("*.npy"))
    about = (tmp_path/"features/cache.json").stat().st_size
    assert bytes_of_features(tmp_path/"features", 2, 24) == arrays + about
    assert abs(arrays + about - said["GEG, features"]) < 200 # cache.json names folders
    assert abs(there(tmp_path/"run/model") - said["GEG, model"]) < 200
    log = there(tmp_path/"run/events") + (tmp_path/"run/metrics.jsonl").stat().st_size
    assert .9 < said["GEG, log"]/log < 1.1


@pytest.mark.parametrize("line, told", [
    ("--data nowhere", "no data set 'nowhere'"),
    ("--data scenes --seconds 0", "seconds must be 1 or more, got 0"),
    ("--data scenes --ranks 0", "ranks must be 1 or more, got 0"),
    ("--data scenes --protocol wsolevall", "no protocol 'wsolevall'"),
    ("--data scenes --split nowhere", "scenes have the splits"),
    ("--data scenes --count 1 --seconds 1", "take more pictures"),
])
def test_what_cannot_be_forecast_is_one_line(line, told, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(line.split())
    said = capsys.readouterr().err.splitlines()[-1]
    assert stopped.value.code == 1 and said.startswith("locloc: ") and told in said


def test_json_holds_what_the_tables_hold(monkeypatch, capsys):
    monkeypatch.setattr("locloc.forecast.forecast", lambda plan: made_up())
    main(["--data", "scenes", "--json", "--ranks", "2"])
    found, = json.loads(capsys.readouterr().out)
    assert found["whole"]["seconds"] == 50 and found["whole"]["ranks"] == 2
    assert [stage["here"] for stage in found["stages"]] == [20, 30]
