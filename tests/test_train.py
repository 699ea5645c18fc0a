"Training that is killed, resumed, misconfigured."
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch.distributed.run import get_args_parser

from locloc.backbone import load_backbone
from locloc.cli import Masks
from locloc.cli import main as command_line
from locloc.data import load_dataset
from locloc.localizers import load_localizer
from locloc.stores import Corrections, MaskStore, make_masks
from locloc.train import GEGConfig, LFDMConfig, train

COUNT = 24


@pytest.fixture(scope="module")
def masks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("store")/"masks"
    make_masks(load_dataset("scenes").subset(COUNT), folder, progress=False)
    return folder


def command(stage, masks, run, *more):
    small = "--preset tiny --batch 8 --crop 96 --resize 112".split()
    paths = "--masks", str(masks), "--out", str(run)
    return [sys.executable, "-m", "locloc.train", stage, *small, "--count", str(COUNT), *paths, *more]


def steps(run):
    file = run/"metrics.jsonl"
    lines = file.read_text().splitlines() if file.exists() else []
    return [json.loads(line)["step"] for line in lines]


def same_weights(a, b): return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("stage, more", [
    ("geg", "--unet-dim 8 --width 8 --epochs 6 --cached-views 0 --held-out .2 --best mse --ema .9".split()),
    ("lfdm", "--epochs 6 --held-out .2".split()),
])
def test_killed_run_ends_with_the_same_weights(masks, tmp_path, stage, more):
    whole, killed = tmp_path/"whole", tmp_path/"killed"
    subprocess.run(command(stage, masks, whole, *more), check=True, capture_output=True)
    quiet = dict(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    process = subprocess.Popen(command(stage, masks, killed, *more), **quiet)
    while len(steps(killed)) < 4 and process.poll() is None:
        time.sleep(.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "the run ended before it could be killed"
    assert not (killed/"model").exists()
    subprocess.run(command(stage, masks, killed, *more), check=True, capture_output=True)
    weights = [load_file(run/"model"/"model.safetensors") for run in (whole, killed)]
    assert same_weights(*weights)
    assert steps(killed) == steps(whole)


def test_the_backbone_does_not_learn(masks, tmp_path):
    small = dict(count=COUNT, epochs=1, batch=8, crop=96, resize=112)
    model = train(replace(LFDMConfig.of("tiny"), **small, masks=masks, out=tmp_path/"run"), progress=False)
    untouched = load_backbone("locloc-tiny")
    assert same_weights(model.backbone.state_dict(), untouched.state_dict())
    trained = model.lfdm.blocks.state_dict()
    assert not same_weights(trained, untouched.model.blocks.state_dict())


def test_missing_masks_are_named(tmp_path, masks):
    with pytest.raises(ValueError, match="--masks"):
        train(replace(GEGConfig.of("tiny"), out=tmp_path/"a"), progress=False)
    with pytest.raises(ValueError, match="no mask for 6 of 30"):
        train(replace(GEGConfig.of("tiny"), count=COUNT + 6, masks=masks, out=tmp_path/"b"), progress=False)


def test_other_settings_in_the_same_folder_are_refused(tmp_path, masks):
    small = dict(count=8, epochs=1, batch=8, unet_dim=8, width=8, crop=64, resize=64, cached_views=1)
    config = replace(GEGConfig.of("tiny"), **small, masks=masks, out=tmp_path/"run")
    first = train(config, progress=False)
    again = train(config, progress=False)
    assert same_weights(first.geg.state_dict(), again.geg.state_dict())
    with pytest.raises(ValueError, match="lr is 0.001 there and 0.1 here") as refused:
        train(replace(config, lr=.1), progress=False)
    assert str(config.out) in str(refused.value) and "--no-resume" in str(refused.value)


def test_heads_share_features_of_the_same_views_only(tmp_path, masks):
    small = dict(count=8, epochs=1, batch=8, unet_dim=8, width=8, crop=64, resize=64, cached_views=1)
    config = replace(GEGConfig.of("tiny"), **small, masks=masks, out=tmp_path/"own")
    own = train(config, progress=False)
    shared = tmp_path/"features"
    train(replace(config, lr=.01, out=tmp_path/"first", features=shared), progress=False)
    made = (shared/"features.npy").stat().st_mtime_ns
    second = train(replace(config, out=tmp_path/"second", features=shared), progress=False)
    assert same_weights(own.geg.state_dict(), second.geg.state_dict())
    assert (shared/"features.npy").stat().st_mtime_ns == made and not (tmp_path/"own"/"features").exists()
    with pytest.raises(ValueError, match="features of other views: seed is 0 there and 1 here.*--features"):
        train(replace(config, seed=1, out=tmp_path/"third", features=shared), progress=False)
    MaskStore(shutil.copytree(masks, tmp_path/"masks")).say_corrected({"other": "strokes"})
    with pytest.raises(ValueError, match="made.corrected.*there and.*strokes"):
        train(replace(config, masks=tmp_path/"masks", out=tmp_path/"corrected_run", features=shared), progress=False)
    with pytest.raises(ValueError, match="stage is 'GEGStage' there and 'LFDMStage' here"):
        lfdm = replace(LFDMConfig.of("tiny"), count=8, epochs=1, crop=64, resize=64, cached_views=1, masks=masks)
        train(replace(lfdm, out=tmp_path/"fourth", features=shared), progress=False)


@pytest.mark.parametrize("stage, wrong, told", [
    ("geg", dict(epochs=0), "epochs must be 1 or more, got 0"), ("geg", dict(batch=0), "batch must be 1 or more"),
    ("geg", dict(lr=0.), "lr must be more than 0, got 0.0"), ("geg", dict(lr=float("nan")), "more than 0, got nan"),
    ("geg", dict(lr=float("inf")), "more than 0, got inf"), ("geg", dict(workers=-1), "workers must be 0 or more"),
    ("geg", dict(count=0), "count must be 1 or more, got 0"), ("geg", dict(seed=-1), "seed must be 0 or more"),
    ("geg", dict(weight_decay=float("nan")), "weight_decay must be 0 or more"),
    ("geg", dict(warmup_epochs=-1), "warmup_epochs must be 0 or more"), ("geg", dict(unet_dim=0), "unet_dim must be 1"),
    ("geg", dict(cached_views=-1), "cached_views must be 0"), ("geg", dict(width=0), "width must be 1 or more"),
    ("geg", dict(resize=100, crop=112), "need 0 < crop <= resize"), ("geg", dict(crop=0), "need 0 < crop <= resize"),
    ("geg", dict(optimizer="adan_"), "optimizer 'adan_'"), ("lfdm", dict(color_jitter=-1.), "color_jitter must be 0"),
    ("lfdm", dict(randaugment="m9"), "timm's string such as rand-m9"),
])
def test_impossible_settings_are_refused_when_they_are_made(stage, wrong, told, tmp_path, monkeypatch, capsys):
    kind = dict(geg=GEGConfig, lfdm=LFDMConfig)[stage]
    with pytest.raises(ValueError, match=re.escape(told)):
        replace(kind.of("tiny"), **wrong)
    monkeypatch.chdir(tmp_path)
    options = [f"--{name.replace('_', '-')}={value}" for name, value in wrong.items()]
    with pytest.raises(SystemExit) as stopped:
        command_line(["train", stage, "--preset", "tiny", "--out", "run", *options])
    said = capsys.readouterr()
    assert stopped.value.code == 1 and said.out == "" and said.err.startswith("locloc: ") and told in said.err
    assert said.err.count("\n") == 1 and not [*tmp_path.iterdir()]


@pytest.mark.parametrize("wrong, told", [
    (dict(crop=100, resize=112), "multiples of its patch size 16"), (dict(backbone="deit_huge"), "no network called"),
    (dict(weights="gone.pth"), "no weights file at gone.pth"), (dict(batch=1), "needs 2 pictures a step"),
    (dict(out="two\nlines"), "name can't be written"), (dict(out="caf\udce9"), "name can't be written"),
])
def test_what_the_work_needs_is_checked_before_anything_is_written(masks, tmp_path, monkeypatch, wrong, told):
    monkeypatch.chdir(tmp_path)
    wrong = {name: Path(value) if name == "out" else value for name, value in wrong.items()}
    config = replace(GEGConfig.of("tiny"), **{"count": 8, "masks": masks, "out": Path("run")} | wrong)
    with pytest.raises((ValueError, OSError), match=told):
        train(config, progress=False)
    assert not [*tmp_path.iterdir()]


def test_a_localizer_that_is_not_there_is_told_before_the_training(masks, tmp_path):
    config = replace(LFDMConfig.of("tiny"), count=8, masks=masks, out=tmp_path/"run", localizer=tmp_path/"gone")
    with pytest.raises(FileNotFoundError, match="gone"):
        train(config, progress=False)
    assert not (tmp_path/"run").exists()


def test_a_file_in_the_place_of_the_run_is_told(masks, tmp_path):
    (tmp_path/"run").touch()
    with pytest.raises(ValueError, match="run is a file, not a folder"):
        train(replace(GEGConfig.of("tiny"), count=8, masks=masks, out=tmp_path/"run"), progress=False)


def test_starting_over_deletes_nothing_but_runs(masks, tmp_path):
    (tmp_path/"photo.jpg").touch()
    with pytest.raises(ValueError, match="--no-resume would delete it"):
        train(replace(GEGConfig.of("tiny"), count=8, masks=masks, out=tmp_path, resume=False), progress=False)
    assert (tmp_path/"photo.jpg").exists()


SMALL = "--preset tiny --epochs 1 --batch 4 --unet-dim 8 --width 8 --crop 64 --resize 64 --cached-views 1".split()


@pytest.fixture
def pictures(tmp_path, monkeypatch):
    "An ImageFolder of eight pictures in the current folder, data"
    monkeypatch.chdir(tmp_path)
    for i, sample in enumerate(load_dataset("scenes", count=8, size=64)):
        folder = tmp_path/f"data/train/{'cat dog'.split()[i % 2]}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(sample.picture).save(folder/f"{i}.png")
    return tmp_path


def test_one_folder_is_one_setting_however_it_is_typed(pictures, capsys):
    (pictures/"link").symlink_to("data")
    command_line("masks --data data --size 64 --out m".split())
    whole = f"{pictures}/data", f"{pictures}/m/"
    for data, masks in (("data", "m"), whole, ("./data/", "./m"), ("link", "data/../m")):
        command_line(["train", "geg", *SMALL, "--data", data, "--masks", masks, "--out", "run"])
        command_line(["masks", "--data", data.replace("link", "data"), "--size", "64", "--out", masks])
    shutil.copytree(pictures/"data", pictures/"other")
    with pytest.raises(SystemExit):
        command_line(["train", "geg", *SMALL, "--data", "other", "--masks", "m", "--out", "run"])
    assert "data is 'link' there and 'other' here" in capsys.readouterr().err


def test_damaged_pictures_are_left_out_until_they_are_mended(pictures, capsys):
    damaged = pictures/"data/train/cat/4.png"
    content = damaged.read_bytes()
    damaged.write_bytes(content[:len(content)//2])
    with pytest.raises(SystemExit) as stopped:
        command_line("masks --data data --size 64 --workers 0 --out m".split())
    said = capsys.readouterr()
    assert stopped.value.code == 1 and "m: 7 of 8 masks; damaged pictures: 1" in said.out
    assert said.err.splitlines()[-1].startswith("no mask: data/train/cat/4.png: cannot be read")
    training = ["train", "geg", *SMALL, "--data", "data", "--masks", "m", "--out", "run"]
    command_line(training)
    told = "m: damaged pictures without a mask are left out: 1, the first is train/cat/4.png\n"
    assert told in capsys.readouterr().err
    noted = json.loads((pictures/"run/config.json").read_text())
    assert noted["left_out"] == ["train/cat/4.png"] and "corrected_masks" not in noted
    assert "learned from" not in load_localizer("run").fingerprint
    damaged.write_bytes(content)
    command_line("masks --data data --size 64 --workers 0 --out m".split())
    assert "m: 8 masks; next" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        command_line(training)
    assert "left_out is ['train/cat/4.png'] there and None here" in capsys.readouterr().err


def test_masks_corrected_by_hand_are_named_in_run_model_and_report(pictures, capsys):
    Corrections("drawn").write("train/cat/4.png", [dict(kind="foreground", size=.3, points=[[.5, .5]])])
    command_line("masks --data data --size 64 --workers 0 --out m --corrections drawn".split())
    command_line(["train", "geg", *SMALL, "--data", "data", "--masks", "m", "--out", "run"])
    assert "m: masks that were corrected by hand: 1" in capsys.readouterr().err
    assert json.loads((pictures/"run/config.json").read_text())["corrected_masks"] == 1
    told = "masks of which 1 were corrected by hand"
    for folder in ("run", "run/model"):
        assert load_localizer(folder).fingerprint["learned from"] == told
    command_line("evaluate --data data --split train --method run --workers 1 --out report".split())
    assert f"learned from {told}" in (pictures/"report/report.md").read_text()


def test_no_option_of_ours_is_one_of_torchruns():
    "torchrun takes an option that begins one of its own for itself, wherever it stands"
    theirs = [option for action in get_args_parser()._actions for option in action.option_strings]
    ours = {f"--{field.name.replace('_', '-')}" for kind in (GEGConfig, LFDMConfig, Masks) for field in fields(kind)}
    assert not [(our, their) for our in ours for their in theirs if their.startswith(our)]
    assert "--out" in ours and "--run" not in ours


def test_help_teaches():
    command = [sys.executable, "-m", "locloc.train", "geg", "--help"]
    wide = os.environ | {"COLUMNS": "160"}
    shown = subprocess.run(command, check=True, capture_output=True, text=True, env=wide).stdout
    for words in ("--preset", "--masks", "learning rate at its peak", "--resume"):
        assert words in shown
