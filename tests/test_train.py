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

from locloc.data import load_dataset
from locloc.masks import make_masks
from locloc.train import GEGConfig, LFDMConfig, train

COUNT = 24


@pytest.fixture(scope="module")
def masks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("store")/"masks"
    make_masks(load_dataset("scenes").subset(COUNT), folder, progress=False)
    return folder


def command(stage, masks, run, *more):
    return [sys.executable, "-m", "locloc.train", stage, "--preset", "tiny", "--count", str(COUNT), "--batch", "8", "--masks", str(masks), "--run", str(run),
            "--crop", "96", "--resize", "112", *more]


def steps(run): return [json.loads(l)["step"] for l in (run/"metrics.jsonl").read_text().splitlines()] if (run/"metrics.jsonl").exists() else []


@pytest.mark.parametrize("stage, more", [("geg", ("--unet-dim", "8", "--width", "8", "--epochs", "8", "--cached-views", "0")), ("lfdm", ("--epochs", "8"))])
def test_killed_run_ends_with_the_same_weights(masks, tmp_path, stage, more):
    subprocess.run(command(stage, masks, tmp_path/"whole", *more), check=True, capture_output=True)
    process = subprocess.Popen(command(stage, masks, tmp_path/"killed", *more), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while len(steps(tmp_path/"killed")) < 4 and process.poll() is None:
        time.sleep(.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "the run ended before it could be killed"
    assert not (tmp_path/"killed"/"model").exists()
    subprocess.run(command(stage, masks, tmp_path/"killed", *more), check=True, capture_output=True)
    whole, killed = (load_file(tmp_path/name/"model"/"model.safetensors") for name in ("whole", "killed"))
    assert whole.keys() == killed.keys() and all(torch.equal(whole[k], killed[k]) for k in whole)
    assert steps(tmp_path/"killed") == steps(tmp_path/"whole")


def test_the_backbone_does_not_learn(masks, tmp_path):
    from locloc.backbone import load_backbone
    config = replace(LFDMConfig.of("tiny"), count=COUNT, epochs=1, batch=8, crop=96, resize=112, masks=masks, run=tmp_path/"run")
    model, untouched = train(config, progress=False), load_backbone("locloc-tiny")
    assert all(torch.equal(a, b) for a, b in zip(model.backbone.state_dict().values(), untouched.state_dict().values()))
    assert any(not torch.equal(a, b) for a, b in zip(model.lfdm.state_dict().values(),
               type(model.lfdm).from_backbone(untouched, len(model.classes), layout="paper").state_dict().values()))


def test_missing_masks_are_named(tmp_path, masks):
    with pytest.raises(ValueError, match="--masks"):
        train(replace(GEGConfig.of("tiny"), run=tmp_path/"a"), progress=False)
    with pytest.raises(ValueError, match="no mask for 6 of 30"):
        train(replace(GEGConfig.of("tiny"), count=COUNT + 6, masks=masks, run=tmp_path/"b"), progress=False)


def test_other_settings_in_the_same_folder_are_refused(tmp_path, masks):
    config = replace(GEGConfig.of("tiny"), count=8, epochs=1, batch=8, unet_dim=8, width=8, crop=64, resize=64, cached_views=1, masks=masks, run=tmp_path/"run")
    first = train(config, progress=False)
    again = train(config, progress=False)
    assert all(torch.equal(a, b) for a, b in zip(first.geg.state_dict().values(), again.geg.state_dict().values()))
    with pytest.raises(ValueError, match="lr is 0.001, wanted 0.1"):
        train(replace(config, lr=.1), progress=False)


def test_help_teaches():
    shown = subprocess.run([sys.executable, "-m", "locloc.train", "geg", "--help"], check=True, capture_output=True, text=True, env=os.environ | {"COLUMNS": "160"}).stdout
    for words in ("--preset", "--masks", "learning rate at its peak", "--resume"):
        assert words in shown
