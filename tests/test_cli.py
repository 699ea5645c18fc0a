"The command line, as a shell calls it."
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from locloc.cli import main

root = Path(__file__).parents[1]


def run(*args, cwd=None):
    return subprocess.run([sys.executable, "-c", "from locloc.cli import main; main()", *map(str, args)], capture_output=True, text=True, cwd=cwd, env=os.environ | {"COLUMNS": "160"})


@pytest.mark.parametrize("args", [["--help"], ["masks", "--help"], ["evaluate", "--help"], ["predict", "--help"], ["tune", "--help"], ["data", "--help"], ["data", "get", "--help"], ["info"]])
def test_help_and_info_do_not_import_torch(args):
    code = f"import sys\nfrom locloc.cli import main\ntry: main({args})\nexcept SystemExit as e: assert not e.code, e.code\nassert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_every_command_is_listed():
    shown = run("--help").stdout
    for command in ("demo", "tune", "masks", "train", "evaluate", "predict", "data", "info"):
        assert command in shown


@pytest.mark.parametrize("args, words", [
    (["masks", "--data", "nowhere", "--out", "store"], "nowhere"),
    (["evaluate", "--data", "scenes", "--count", "2", "--model", "nowhere"], "nowhere"),
    (["evaluate", "--data", "scenes", "--count", "2", "--protocol", "wsolevall"], "wsolevall"),
    (["masks", "--data", "scenes", "--count", "2", "--out", "store", "--source.preset", "papre"], "papre"),
    (["info", "nowhere"], "nowhere"),
    (["data", "get", "birds"], "expected one of cub"),
    (["data", "check", "nowhere"], "nowhere"),
    (["train", "geg"], "locloc masks"),
    (["tune"], "no picture given"),
    (["tune", "nowhere"], "nowhere"),
    (["tune", "."], "no pictures there"),
    (["tune", "scenes", "--attention", "dino_vits16"], "weights"),
])
def test_mistakes_are_one_clear_line(args, words, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        main([a.replace("--source.", "--") for a in args])
    lines = capsys.readouterr().err.strip().splitlines()
    assert stopped.value.code == 1 and lines[-1].startswith("locloc: ") and words in lines[-1]


def test_tune_without_voila(monkeypatch, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SystemExit):
        main(["tune", "scenes"])
    assert "pip install voila" in capsys.readouterr().err


def test_tune_params_reach_the_page(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path/"params.json").write_text('{"delta0": 0.11, "delta1": 0.66, "split": null, "iterations": 2, "seed": 0}')
    pages = []
    monkeypatch.setattr("locloc.cli._serve", lambda code, options: pages.append(code))
    main(["tune", str(next((root/"data").rglob("*.jpg"))), "--params", "params.json", "--ppd", ".3"])
    found = {}
    exec(pages[0].replace("tuning_page(", "found = tuning_page("), found)
    tuner = found["found"].children[0]
    assert (tuner.params.delta0, tuner.params.delta1, tuner.params.split, tuner.params.iterations, tuner.setting.ppd) == (.11, .66, None, 2, .3)


def test_the_whole_chain(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    small = ["--preset", "tiny", "--count", "16", "--batch", "8", "--epochs", "1", "--masks", "store", "--crop", "96", "--resize", "112"]
    main(["masks", "--data", "scenes", "--count", "16", "--out", "store"])
    main(["train", "geg", *small, "--run", "geg", "--unet-dim", "8", "--width", "8"])
    main(["train", "lfdm", *small, "--run", "lfdm", "--localizer", "geg"])
    main(["evaluate", "--data", "scenes", "--count", "6", "--model", "lfdm/model", "--threshold", ".3", "--ppd", ".2", "--split-at", ".35", "--held-out", "train", "--out", "report"])
    report = (tmp_path/"report"/"report.md").read_text()
    assert "wsoleval" in report and "locloc" in report and (tmp_path/"report"/"figure.png").stat().st_size > 10_000
    for told in ("mean training box", "GEG, held-out threshold", "0.3 of maximum", "attention ≥ 0.2", "split 0.35"):
        assert told in report
    json.loads((tmp_path/"report"/"report.json").read_text())
    picture = next((root/"data").rglob("*.jpg"))
    main(["predict", str(picture), "--model", "lfdm/model", "--out", "drawn"])
    main(["predict", str(picture)])
    assert len(list(tmp_path.rglob("*_locloc.*"))) == 2
    for folder in ("store", "geg", "lfdm/model", "report"):
        main(["info", folder])
    assert "lowlevel" in capsys.readouterr().out


def test_data_check_lists_and_fails(tmp_path, capsys):
    (tmp_path/"a.png").touch()
    (tmp_path/"index.csv").write_text("image,class,split,width,height,x0,y0,x1,y1,mask\na.png,x,train,50,40,,,,,\n")
    with pytest.raises(SystemExit) as stopped:
        main(["data", "check", str(tmp_path)])
    said = capsys.readouterr().out
    assert stopped.value.code == 1 and "a.png: the file is empty" in said and "1 picture, 1 problem" in said
    main(["data", "check", str(root/"data")])
    assert "2 pictures, no problems" in capsys.readouterr().out
