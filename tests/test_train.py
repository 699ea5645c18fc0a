"Training that is killed, resumed, misconfigured."
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from locloc.backbone import load_backbone
from locloc.data import load_dataset
from locloc.stores import make_masks
from locloc.train import GEGConfig, LFDMConfig, train

COUNT = 24


@pytest.fixture(scope="module")
def masks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("store")/"masks"
    make_masks(load_dataset("scenes").subset(COUNT), folder, progress=False)
    return folder


def command(stage, masks, run, *more):
    small = "--preset tiny --batch 8 --crop 96 --resize 112".split()
    paths = "--masks", str(masks), "--run", str(run)
    return [sys.executable, "-m", "locloc.train", stage, *small, "--count", str(COUNT), *paths, *more]


def steps(run):
    file = run/"metrics.jsonl"
    lines = file.read_text().splitlines() if file.exists() else []
    return [json.loads(line)["step"] for line in lines]


def same_weights(a, b): return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("stage, more", [
    ("geg", "--unet-dim 8 --width 8 --epochs 8 --cached-views 0".split()),
    ("lfdm", "--epochs 8".split()),
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
    model = train(replace(LFDMConfig.of("tiny"), **small, masks=masks, run=tmp_path/"run"), progress=False)
    untouched = load_backbone("locloc-tiny")
    assert same_weights(model.backbone.state_dict(), untouched.state_dict())
    trained = model.lfdm.blocks.state_dict()
    assert not same_weights(trained, untouched.model.blocks.state_dict())


def test_missing_masks_are_named(tmp_path, masks):
    with pytest.raises(ValueError, match="--masks"):
        train(replace(GEGConfig.of("tiny"), run=tmp_path/"a"), progress=False)
    with pytest.raises(ValueError, match="no mask for 6 of 30"):
        train(replace(GEGConfig.of("tiny"), count=COUNT + 6, masks=masks, run=tmp_path/"b"), progress=False)


def test_other_settings_in_the_same_folder_are_refused(tmp_path, masks):
    small = dict(count=8, epochs=1, batch=8, unet_dim=8, width=8, crop=64, resize=64, cached_views=1)
    config = replace(GEGConfig.of("tiny"), **small, masks=masks, run=tmp_path/"run")
    first = train(config, progress=False)
    again = train(config, progress=False)
    assert same_weights(first.geg.state_dict(), again.geg.state_dict())
    with pytest.raises(ValueError, match="lr is 0.001 there and 0.1 here") as refused:
        train(replace(config, lr=.1), progress=False)
    assert str(config.run) in str(refused.value) and "--no-resume" in str(refused.value)


def test_help_teaches():
    command = [sys.executable, "-m", "locloc.train", "geg", "--help"]
    wide = os.environ | {"COLUMNS": "160"}
    shown = subprocess.run(command, check=True, capture_output=True, text=True, env=wide).stdout
    for words in ("--preset", "--masks", "learning rate at its peak", "--resume"):
        assert words in shown
