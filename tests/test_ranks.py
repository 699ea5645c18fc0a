"The same command on one rank and on two: the same figures; ranks that are killed, and what goes on from there."
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file

from locloc import ranks
from locloc.data import load_dataset
from locloc.evaluate import evaluate
from locloc.masks import GrabCutParams
from locloc.stores import make_masks
from locloc.sweeps import choose_params
from locloc.train import GEGConfig, LFDMConfig, train

COUNT = 16
SMALL = dict(count=COUNT, batch=8, crop=96, resize=112)
ONE_THREAD = os.environ | {"OMP_NUM_THREADS": "1"}


def launch(*command):
    return [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *map(str, command)]


def options(masks, out, **more):
    given = SMALL | dict(masks=masks, out=out) | more
    return [word for name, value in given.items() for word in (f"--{name.replace('_', '-')}", str(value))]


def work(folder, masks):
    "All that ranks share, one thing after the other"
    small = SMALL | dict(masks=masks, checkpoint_minutes=0., batch=4, held_out=.25)
    geg = replace(GEGConfig.of("tiny"), **small, out=folder/"geg", unet_dim=8, width=8, features=folder/"geg-features",
                  best="mse", ema=.9)
    few_steps = dict(epochs=2, optimizer="sgd", lr=.1) # more of them, or Adam's, blow up the last digits' differences
    train(replace(geg, **few_steps), progress=False)
    lfdm = replace(LFDMConfig.of("tiny"), **small, out=folder/"lfdm", layout="released_code", cached_views=0,
                   mixup=.4, cutmix=1.)
    train(replace(lfdm, epochs=3), progress=False)
    methods = "ppd:lowlevel", "locloc-tiny"
    scenes = [load_dataset("scenes", split).subset(10) for split in ("test", "train")]
    report = evaluate(scenes[0], methods, ("wsoleval", "locloc"), scenes[1], workers=1, batch_size=3, pictures=3,
                      progress=False, command="the same")
    grid = [GrabCutParams(.05, .6)]
    rows = choose_params(scenes[1], grid=grid, thresholds=(.3, .5), batch_size=3, progress=False)
    if ranks.is_first():
        report.save(folder/"report")
        (folder/"chosen.txt").write_text(repr(rows))


@pytest.fixture(scope="module")
def masks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("store")/"masks"
    make_masks(load_dataset("scenes").subset(COUNT), folder, progress=False)
    return folder


@pytest.fixture(scope="module")
def both(tmp_path_factory, masks):
    "What one rank and what two have made"
    one, two = (tmp_path_factory.mktemp(name) for name in ("one", "two"))
    threads = torch.get_num_threads()
    torch.set_num_threads(1) # with more a network answers a little differently
    work(one, masks)
    torch.set_num_threads(threads)
    subprocess.run(launch(__file__, two, masks), check=True, env=ONE_THREAD, timeout=600)
    return one, two


def contents(folder, *names):
    return {str(file.relative_to(folder)): file.read_bytes() for name in names for file in sorted(folder.rglob(name))}


def apart(one, other):
    "Norm of the difference of two runs' weights over their norm"
    one, other = (load_file(run/"model"/"model.safetensors") for run in (one, other))
    assert one.keys() == other.keys()
    one, other = (torch.cat([state[name].double().flatten() for name in one]) for state in (one, other))
    return float((one - other).norm()/one.norm())


def figures(run):
    lines = (run/"metrics.jsonl").read_text().splitlines()
    return [{name: float(f"{value:.3g}") for name, value in json.loads(line).items()} for line in lines]


@pytest.mark.parametrize("stage", ["geg", "lfdm"])
def test_two_ranks_learn_what_one_learns(both, stage):
    one, two = (folder/stage for folder in both)
    assert apart(one, two) < 1e-5
    assert figures(one) == figures(two)
    assert len(figures(one)) == {"geg": 6, "lfdm": 9}[stage]
    assert ["held_out_loss" in line for line in figures(one)[:3]] == [False, False, True]


def test_two_ranks_compute_the_features_that_one_computes(both):
    one, two = (contents(folder/"geg-features", "*.npy", "*.json") for folder in both)
    names = {"features.npy", "mask.npy", "label.npy", "cache.json"}
    assert one == two and names | {f"held_out/{name}" for name in names} == one.keys()


def test_two_ranks_measure_what_one_measures(both):
    one, two = (contents(folder/"report", "*") for folder in both)
    assert one == two and {"report.json", "pictures.csv", "figure.png", "extremes.png"} <= one.keys()


def test_two_ranks_choose_what_one_chooses(both):
    one, two = (contents(folder, "chosen.txt") for folder in both)
    assert one == two and one


def test_a_batch_that_ranks_cannot_share_is_told_once(masks, tmp_path):
    command = launch("-m", "locloc.cli", "train", "lfdm", "--preset", "tiny", *options(masks, tmp_path/"run", batch=7))
    ended = subprocess.run(command, capture_output=True, text=True, env=ONE_THREAD, timeout=600)
    assert ended.returncode == 1
    told = [line for line in ended.stderr.splitlines() if line.startswith("locloc:")]
    assert told == ["locloc: a batch of 7 pictures can't be parted evenly between 2 ranks, 1 times each: "
                    "take --batch 6, or other numbers of them"]
    assert not (tmp_path/"run").exists()


def steps(run):
    file = run/"metrics.jsonl"
    return len(file.read_text().splitlines()) if file.exists() else 0


def rank_of(process):
    return process.environ().get("RANK")


def end(process, number, launcher=False):
    "Send a signal to the launcher or to its rank 1; wait until every rank has ended"
    children = psutil.Process(process.pid).children()
    target = process if launcher else next(child for child in children if rank_of(child) == "1")
    target.send_signal(number)
    assert process.wait(120) != 0
    assert not psutil.wait_procs(children, 120)[1]


@pytest.fixture(scope="module")
def whole(tmp_path_factory, masks):
    "The settings of a run that was never stopped, on one rank"
    folder = tmp_path_factory.mktemp("whole")
    config = replace(LFDMConfig.of("tiny"), **SMALL, masks=masks, out=folder/"run", epochs=6, cached_views=1)
    train(config, progress=False)
    return config


@pytest.mark.parametrize("number, launcher, ranks", [(signal.SIGKILL, False, 2), (signal.SIGTERM, True, 1)])
def test_a_stopped_run_goes_on_with_any_number_of_ranks(whole, tmp_path, number, launcher, ranks):
    words = "lfdm", "--preset", "tiny", "--epochs", "6", "--cached-views", "1", "--checkpoint-minutes", "0"
    command = launch("-m", "locloc.cli", "train", *words, *options(whole.masks, tmp_path/"run"))
    process = subprocess.Popen(command, env=ONE_THREAD, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while steps(tmp_path/"run") < 3 and process.poll() is None:
        time.sleep(.01)
    end(process, number, launcher)
    assert (tmp_path/"run"/"checkpoints").exists() and not (tmp_path/"run"/"model").exists()
    if ranks == 1:
        train(replace(whole, out=tmp_path/"run"), progress=False)
    else:
        subprocess.run(command, check=True, env=ONE_THREAD, capture_output=True, timeout=600)
    assert apart(whole.out, tmp_path/"run") < 1e-5
    assert figures(tmp_path/"run") == figures(whole.out)


if __name__ == "__main__":
    work(*map(Path, sys.argv[1:]))
