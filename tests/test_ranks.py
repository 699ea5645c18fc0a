"The same command on one rank and on two: the same figures, however ranks are started; and what goes on after a stop."
import json
import os
import re
import signal
import subprocess
import sys
import sysconfig
import time
from dataclasses import fields, is_dataclass, replace
from pathlib import Path

import psutil
import pytest
import torch
from accelerate.commands.launch import launch_command_parser
from safetensors.torch import load_file
from torch.distributed.run import get_args_parser

from locloc import cli, ranks
from locloc.compare import Compare, Fig5, Table5
from locloc.data import load_dataset
from locloc.evaluate import evaluate
from locloc.forecast import Plan
from locloc.masks import GrabCutParams
from locloc.stores import make_masks
from locloc.sweeps import choose_params
from locloc.train import STAGES, GEGConfig, LFDMConfig, parse, train

COUNT = 16
SMALL = dict(count=COUNT, batch=8, crop=96, resize=112)
COMMANDS_FIRST = sysconfig.get_path("scripts") + os.pathsep + os.environ["PATH"]
ONE_THREAD = os.environ | {"OMP_NUM_THREADS": "1", "PATH": COMMANDS_FIRST}
TORCHRUN = "torchrun", "--standalone", "--nproc-per-node", "2"
FORMS = {
    "torchrun -m": (*TORCHRUN, "-m", "locloc.cli"),
    "torchrun --no-python": (*TORCHRUN, "--no-python", "locloc"),
    "accelerate launch": ("accelerate", "launch", "--multi_gpu", "--num_processes", "2", "--main_process_port", "0",
                          "-m", "locloc.cli"),
}


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
    train(replace(lfdm, epochs=2), progress=False)
    methods = "ppd:lowlevel", "locloc-tiny"
    scenes = [load_dataset("scenes", split).subset(10) for split in ("test", "train")]
    report = evaluate(scenes[0], methods, ("wsoleval", "locloc"), scenes[1], workers=1, batch_size=3, pictures=3,
                      progress=False, command="the same")
    grid = [GrabCutParams(.05, .6)]
    rows = choose_params(scenes[1], grid=grid, thresholds=(.3, .5), batch_size=3, progress=False)
    if ranks.is_first():
        report.save(folder/"report")
        (folder/"chosen.txt").write_text(repr(rows))
    few = dict(data="scenes", count=4, epochs=2, workers=1)
    Compare(**few, methods=("cam", "grabcut:lowlevel"), masks=masks, out=folder/"compare").run()
    Fig5(**few, delta1=(.6,), attention="lowlevel", out=folder/"fig5").run()


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
    subprocess.run([*TORCHRUN, __file__, two, masks], check=True, env=ONE_THREAD, timeout=600)
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
    assert len(figures(one)) == 6
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


def read_table(file):
    "Its cells, line by line, without the command and, where they are the last column, milliseconds"
    lines = file.read_text(encoding="utf-8").splitlines()
    rows = [[cell.strip("- ") for cell in line.strip("|").split("|")] for line in lines]
    return [row[:-1] if re.fullmatch(r"[\d.]+", row[-1]) else row for row in rows if row[0] != "command"]


@pytest.mark.parametrize("experiment", ["compare", "fig5"])
def test_two_ranks_write_the_table_that_one_writes(both, experiment):
    one, two = (read_table(folder/experiment/"table.md") for folder in both)
    assert one == two and len(one) > 5


def test_two_ranks_make_the_masks_and_the_figure_of_fig5_that_one_makes(both):
    one, two = (contents(folder/"fig5", "fig5.png", "manifest.json", "masks/**/*.png") for folder in both)
    assert one == two and len(one) == 1 + 1 + 4


def words_of(kind):
    "Options of a command as they are typed"
    for field in fields(kind):
        name = field.name.replace("_", "-")
        yield from (f"--{name}", f"--no-{name}")


@pytest.mark.parametrize("parser", [get_args_parser, launch_command_parser])
def test_no_launcher_takes_an_option_of_ours(parser):
    kinds = [*filter(is_dataclass, cli.COMMANDS.values()), cli.Source, Compare, Table5, Fig5, Plan, *STAGES.values()]
    for word in sorted({word for kind in kinds for word in words_of(kind)}):
        ours = ["train", word, "3"]
        assert parser().parse_args(["-m", "locloc.cli", *ours]).training_script_args == ours


STAND_INS = {
    "srun": 'printf "%s\\n" "$@" > "$1.txt"; [ "$1" != torchrun ] || exit "$STATUS"',
    "scontrol": 'if [ "$1" = show ]; then printf "%s\\n" one two; else touch "$1"; fi',
}


@pytest.mark.parametrize("status, seconds, again", [("0", "14300", False), ("1", "9", False), ("1", "14300", True)])
def test_the_tutorials_job_for_slurm_goes_on_where_its_time_was_up(tmp_path, status, seconds, again):
    tutorial = (Path(__file__).parents[1]/"nbs"/"tutorials"/"many_gpus.ipynb").read_text(encoding="utf-8")
    texts = ["".join(cell["source"]) for cell in json.loads(tutorial)["cells"]]
    job = next(filter(None, (re.search("```bash\n(.*?)```", text, re.DOTALL) for text in texts)))[1]
    for name, does in STAND_INS.items():
        (tmp_path/name).write_text(f"#!/bin/sh\n{does}\n")
        (tmp_path/name).chmod(0o755)
    given = dict(SLURM_JOB_ID="7", SLURM_NNODES="2", SLURM_JOB_NODELIST="[one,two]", STATUS=status, SECONDS=seconds)
    given["PATH"] = f"{tmp_path}:{os.environ['PATH']}"
    assert subprocess.run(["bash", "-c", job], env=given, cwd=tmp_path).returncode == int(status)
    assert (tmp_path/"requeue").exists() == again
    started = get_args_parser().parse_args((tmp_path/"torchrun.txt").read_text().splitlines()[1:])
    assert (started.nnodes, started.rdzv_endpoint, started.training_script) == ("2", "one:20007", "locloc")
    assert parse(started.training_script_args[1:]).out == Path("/shared/runs/geg")


def test_a_batch_that_ranks_cannot_share_is_told_once(masks, tmp_path):
    command = [*FORMS["torchrun -m"], "train", "lfdm", "--preset", "tiny", *options(masks, tmp_path/"run", batch=7)]
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


def end(process, number, whom):
    "Send a signal to rank 1, to the launcher or, as Ctrl-C does, to all; wait until every rank has ended"
    children = psutil.Process(process.pid).children()
    if whom == "all":
        os.killpg(process.pid, number)
    else:
        rank_1 = next(child for child in children if rank_of(child) == "1")
        (process if whom == "launcher" else rank_1).send_signal(number)
    assert process.wait(120) != 0
    assert not psutil.wait_procs(children, 120)[1]


@pytest.fixture(scope="module")
def whole(tmp_path_factory, masks):
    "The settings of a run that was never stopped, on one rank"
    folder = tmp_path_factory.mktemp("whole")
    config = replace(LFDMConfig.of("tiny"), **SMALL, masks=masks, out=folder/"run", epochs=6, cached_views=1)
    train(config, progress=False)
    return config


def test_a_batch_in_parts_teaches_what_a_whole_one_teaches(whole, tmp_path):
    train(replace(whole, out=tmp_path/"run", accumulate=2), progress=False)
    assert apart(whole.out, tmp_path/"run") < 1e-5


@pytest.mark.parametrize("first, number, whom, second", [
    ("torchrun -m", signal.SIGKILL, "rank 1", "torchrun --no-python"),
    ("torchrun -m", signal.SIGTERM, "launcher", None),
    ("accelerate launch", signal.SIGINT, "all", None),
])
def test_a_stopped_run_goes_on_with_any_number_of_ranks(whole, tmp_path, first, number, whom, second):
    killed, run = number == signal.SIGKILL, tmp_path/"run"
    words = ["train", "lfdm", "--preset", "tiny", *options(whole.masks, run, epochs=6, cached_views=1)]
    often = ["--checkpoint-minutes", "0"] if killed else []
    process = subprocess.Popen([*FORMS[first], *words, *often], env=ONE_THREAD, stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL, start_new_session=True)
    while steps(run) < 3 and process.poll() is None:
        time.sleep(.01)
    end(process, number, whom)
    checkpoint = max((run/"checkpoints").glob("step_????????"))
    assert killed or int(checkpoint.name.removeprefix("step_")) == steps(run)
    assert not (run/"model").exists()
    if second:
        subprocess.run([*FORMS[second], *words], check=True, env=ONE_THREAD, capture_output=True, timeout=600)
    else:
        train(replace(whole, out=run), progress=False)
    assert apart(whole.out, run) < 1e-5
    assert figures(run) == figures(whole.out)


if __name__ == "__main__":
    work(*map(Path, sys.argv[1:]))
