"The command line, as a shell calls it."
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from locloc.cli import COMMANDS, _tunnel, main

ROOT = Path(__file__).parents[1]
CAT = next((ROOT/"data/images/cat").glob("*.jpg"))

HELP = """import sys
from locloc.cli import main

try:
    main(sys.argv[1:])
except SystemExit as stopped:
    assert not stopped.code, stopped.code
assert "torch" not in sys.modules
"""


@pytest.mark.parametrize("line", [
    "--help", "masks --help", "evaluate --help", "predict --help", "tune --help", "data --help", "data get --help",
    "info"])
def test_help_and_info_do_not_import_torch(line):
    done = subprocess.run([sys.executable, "-c", HELP, *line.split()], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_every_command_is_listed():
    command = [sys.executable, "-c", "from locloc.cli import main; main()", "--help"]
    shown = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"COLUMNS": "160"}).stdout
    assert [*COMMANDS] == [
        "demo", "tune", "browse", "masks", "train", "evaluate", "compare", "table5", "fig5", "forecast",
        "predict", "data", "info"]
    assert all(name in shown for name in COMMANDS)


@pytest.mark.parametrize("line, told", [
    ("masks --data nowhere --out store", "nowhere"),
    ("masks --data scenes --count 2 --out store --preset papre", "no preset 'papre'; there are paper"),
    ("masks --data scenes --count 0 --out store", "--count must be 1 or more, got 0"),
    ("evaluate --data scenes --count 2 --method nowhere", "no method and no run folder called 'nowhere'"),
    ("evaluate --data scenes --count 2 --method centred ppd:lowlevel,ppd", "an option is name=value, got 'ppd'"),
    ("evaluate --data scenes --count 2 --protocol wsolevall", "wsolevall"),
    ("evaluate --data scenes --count 2 --pseudo store", "store is no mask store"),
    ("info nowhere", "nowhere"),
    ("data get birds", "expected one of cub"),
    ("data check nowhere", "nowhere"),
    ("train geg", "locloc masks"),
    ("tune", "no picture given"),
    ("tune nowhere", "nowhere"),
    ("tune .", "no pictures there"),
    ("tune scenes --attention dino_vits16", "weights"),
    ("masks --data scenes --count 2 --out store --size 0", "size must be 1 or more, got 0"),
    ("masks --data scenes --count 2 --out store --size -16", "size must be 1 or more, got -16"),
    ("masks --data scenes --count 2 --out store --size 100 --attention locloc-tiny", "multiples of its patch size 16"),
    ("masks --data scenes --count 2 --out store --workers -1", "workers must be 0 or more, got -1"),
    ("masks --data scenes --count 2 --out store --batch 0", "batch must be 1 or more, got 0"),
    ("masks --data scenes --count 2 --out store --shard 3/2", "--shard is i/n"),
    ("masks --data scenes --count 2 --out store --delta0 1.5", "--delta0 must be in [0, 1], got 1.5"),
    ("masks --data scenes --count 2 --out store --delta1 nan", "--delta1 must be in [0, 1], got nan"),
    ("masks --data scenes --count 2 --out store --delta0 .7 --delta1 .6", "--delta0 must not exceed --delta1"),
    ("masks --data scenes --count 2 --out store --delta0 .9", "need 0 <= delta0 <= delta1 <= 1"),
    ("masks --data scenes --count 2 --out store --ppd -1", "--ppd must be in [0, 1], got -1"),
    ("masks --data scenes --count 2 --out store --params gone.json", "gone.json"),
    ("masks --data scenes --count 2 --out /dev/null", "/dev/null is a file, not a folder"),
    ("evaluate --data scenes --count 2 --workers 0", "workers must be 1 or more, got 0"),
    ("evaluate --data scenes --count 2 --method centred --out /dev/null/report", "/dev/null is a file, not a folder"),
    ("evaluate --data scenes --count 2 --method ppd:lowlevel,size=0", "size must be 1 or more, got 0"),
    ("evaluate --data scenes --count 2 --method ppd:lowlevel,size=a", "size must be 1 or more, got 'a'"),
    ("evaluate --data scenes --count 2 --method attention:lowlevel,threshold=2", "threshold must be in [0, 1], got 2"),
    ("demo --train 0", "train must be 2 or more, got 0"),
    ("demo --epochs-geg 0", "epochs_geg must be 1 or more"),
    ("tune scenes --port 70000", "--port must be from 1 to 65535, got 70000"),
    ("tune scenes --size 0", "size must be 1 or more, got 0"),
    ("train geg --data scenes --split test2 --masks store", "test2"),
    ("predict .", "0 pictures, 0 other files passed over"),
    ("predict", "no picture given"),
    ("predict missing.jpg", "missing.jpg"),
    ("predict photos/*.jpg", "photos/*.jpg: nothing matches this pattern"),
    ("info .", "so it holds no mask store, run, model or report"),
])
def test_mistakes_are_one_clear_line(line, told, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        main(line.split())
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert stopped.value.code == 1 and last.startswith("locloc: ") and told in last
    assert not [*tmp_path.iterdir()], "nothing is written"


@pytest.mark.parametrize("method, told", [
    ("grabcat:lowlevel", "no method and no run folder called 'grabcat:lowlevel'; nearest: grabcut:lowlevel"),
    ("grabcut", "grabcut needs an attention source, such as grabcut:lowlevel"),
    ("centred:lowlevel", "centred takes no attention source, got centred:lowlevel"),
    ("grabcut:lowlevel,delta0", "--method grabcut:lowlevel,delta0: an option is name=value, got 'delta0'"),
    ("grabcut:lowlevel,", "an option is name=value, got ''"),
    ("grabcut:lowlevel,delta0=.9", "need 0 <= delta0 <= delta1 <= 1"),
    ("grabcut:lowlevel,layers=1", "lowlevel has no weights, layers, heads or architecture to choose"),
    ("centred,sahre=.5", "centred: got an unexpected keyword argument 'sahre'"),
    ("grabcut:lowlevel,delta0=a", "delta0 must be a number, got 'a'"),
    ("grabcut:lowlevel,iterations=1.5", "iterations must be a whole number, got 1.5"),
    ("ppd:lowlevel,ppd=2", "need 0 <= delta0 <= delta1 <= 1"),
])
def test_mistakes_in_a_method_are_one_clear_line(method, told, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["predict", str(CAT), "--method", method, "--out", str(tmp_path)])
    said = capsys.readouterr()
    assert stopped.value.code == 1 and said.out == ""
    assert said.err.startswith("locloc: ") and told in said.err and said.err.count("\n") == 1


@pytest.mark.parametrize("content", ["{", '{"delta9": 1}', "[]", '{"delta0": 2}', '{"delta0": "a"}'])
def test_a_file_of_settings_that_holds_none_is_named(tmp_path, capsys, content):
    (tmp_path/"params.json").write_text(content)
    with pytest.raises(SystemExit) as stopped:
        main(["masks", "--data", "scenes", "--out", str(tmp_path/"m"), "--params", str(tmp_path/"params.json")])
    said = capsys.readouterr().err
    assert stopped.value.code == 1 and "params.json holds no settings of GrabCut" in said and said.count("\n") == 1
    assert not (tmp_path/"m").exists()


def test_tune_without_voila(monkeypatch, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SystemExit):
        main(["tune", "scenes"])
    assert "pip install voila" in capsys.readouterr().err


def test_tune_params_reach_the_page(tmp_path, monkeypatch):
    pages = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("locloc.cli._serve", lambda code, options: pages.append(code))
    (tmp_path/"params.json").write_text('{"delta0": 0.11, "delta1": 0.66, "split": null, "iterations": 2, "seed": 0}')
    main(["tune", str(CAT), "--params", "params.json", "--ppd", ".3"])
    names = {}
    exec(pages[0].replace("tuning_page(", "found = tuning_page("), names)
    tuner = names["found"].children[0]
    params = tuner.params
    assert (params.delta0, params.delta1, params.split, params.iterations) == (.11, .66, None, 2)
    assert tuner.setting.ppd == .3


@pytest.mark.parametrize("connection, told", [
    ("", ""), ("1.2.3.4 5555 10.0.0.7 22", "ssh -L 8866:localhost:8866 ada@10.0.0.7"),
    ("::1 5555 fe80::7 2222", "ssh -L 8866:localhost:8866 -p 2222 ada@fe80::7")])
def test_over_ssh_tune_says_how_its_page_is_reached(monkeypatch, connection, told):
    monkeypatch.setenv("SSH_CONNECTION", connection)
    monkeypatch.setattr("getpass.getuser", lambda: "ada")
    assert _tunnel(8866).partition(": ")[2] == told


def predict(folder, *args):
    main(["predict", *map(str, args), "--out", str(folder)])


def test_predict_draws_the_answer_of_the_shipped_model(tmp_path, capsys):
    predict(tmp_path, CAT)
    said = capsys.readouterr().out
    what = r"(Egyptian cat|tabby|tiger cat) \d+ %, box \d+ \d+ \d+ \d+"
    assert re.fullmatch(f"{re.escape(str(CAT))}: {what} -> {re.escape(str(tmp_path/CAT.stem))}_locloc.png\n", said)
    assert Image.open(tmp_path/f"{CAT.stem}_locloc.png").width > 500
    assert len([*tmp_path.iterdir()]) == 1


def test_predict_takes_any_method_with_its_options(tmp_path, capsys):
    white = np.full((40, 60, 3), 255, np.uint8)
    Image.fromarray(white).save(tmp_path/"white.png")
    predict(tmp_path, tmp_path/"white.png", "--method", "centred,share=.5")
    assert "box 15 10 45 30" in capsys.readouterr().out


@pytest.fixture
def two_pictures(tmp_path):
    "Two pictures in two folders"
    paths = [tmp_path/"pictures/a/x.png", tmp_path/"pictures/b/y.png"]
    for path in paths:
        path.parent.mkdir(parents=True)
        Image.new("RGB", (60, 40)).save(path)
    return paths


def test_predict_takes_a_pattern_in_quotes(tmp_path, two_pictures, capsys):
    for _ in range(2): # the second time answers lie beside the pictures
        predict(tmp_path/"pictures", tmp_path/"pictures/*/?.png", tmp_path/"pict*", "--method", "centred")
        lines = capsys.readouterr().out.splitlines()
        assert [line.partition(":")[0] for line in lines] == list(map(str, two_pictures)), "each picture once"


def test_a_name_like_a_pattern_is_a_name(tmp_path, capsys):
    Image.new("RGB", (60, 40)).save(tmp_path/"a[1].png")
    predict(tmp_path, tmp_path/"a[1].png", "--method", "centred")
    assert (tmp_path/"a[1]_locloc.png").exists()


@pytest.fixture
def saved(tmp_path, two_pictures):
    "Folder with the answers of `centred` in every format"
    predict(tmp_path/"out", *two_pictures, "--method", "centred,share=.5", "--save", "coco", "yolo", "csv")
    return tmp_path/"out"


def test_predict_saves_what_is_asked_for_and_no_more(saved):
    names = sorted(path.relative_to(saved).as_posix() for path in saved.rglob("*") if path.is_file())
    assert names == [
        "labels/a/x.txt", "labels/b/y.txt", "labels/classes.txt", "predictions.csv", "predictions.json",
        "x_locloc.png", "y_locloc.png"]


def test_predict_says_what_it_saved(tmp_path, two_pictures, capsys):
    predict(tmp_path, *two_pictures, "--method", "centred", "--save", "yolo")
    assert capsys.readouterr().out.splitlines()[-1] == f"{tmp_path/'labels'}: 2 pictures"


def test_predict_saves_coco(saved):
    found = json.loads((saved/"predictions.json").read_text())
    assert [image["file_name"] for image in found["images"]] == ["a/x.png", "b/y.png"]
    assert [box["bbox"] for box in found["annotations"]] == [[15, 10, 30, 20]] * 2


def test_predict_saves_yolo(saved):
    class_number, x, y, width, height, score = map(float, (saved/"labels/a/x.txt").read_text().split())
    assert (class_number, x, y, width, height, score) == (0, .5, .5, .5, .5, 1)


def test_predict_saves_csv(saved):
    first = (saved/"predictions.csv").read_text().splitlines()[1]
    assert first.startswith("a/x.png,") and first.endswith(",60,40,15.0,10.0,45.0,30.0")


def test_predict_goes_on_after_a_damaged_picture_and_fails_in_the_end(tmp_path, two_pictures, capsys):
    one, other = two_pictures
    one.write_bytes(b"no picture")
    with pytest.raises(SystemExit) as stopped:
        predict(tmp_path/"out", one, other, "--method", "centred,share=.5", "--save", "csv")
    said = capsys.readouterr()
    assert stopped.value.code == 1 and said.err.startswith("locloc: ") and "x.png" in said.err
    assert "y_locloc.png" in said.out and "predictions.csv: 1 picture" in said.out


def draw_at(folder, *names):
    "A picture at each of these places"
    for name in names:
        (folder/name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (60, 40)).save(folder/name)
    return [folder/name for name in names]


@pytest.mark.parametrize("given, answers", [
    (["a/x.png", "b/y.png"], ["x", "y"]),
    (["a/x.png", "b/x.png"], ["a/x", "b/x"]),
    (["x.png", "x.jpg"], ["x.jpg", "x.png"]),
    (["a/x.png", "b/x.png", "a/x.jpg"], ["a/x.jpg", "a/x.png", "b/x"]),
    (["a/x.png", "b/x.png", "b/y.png"], ["a/x", "b/x", "y"]),
    (["x.png", "x.jpg", "x.png.webp"], ["x.jpg", "x.png_0_3", "x.png"]),
    (["x.png", "X.PNG"], ["X.PNG_1_3", "x.png_0_3"]),
    (["x.png", "./x.png"], ["x"]),
])
def test_no_answer_of_predict_takes_anothers_place(tmp_path, monkeypatch, capsys, given, answers):
    monkeypatch.chdir(tmp_path)
    draw_at(tmp_path, *given)
    predict("out", *given, "--method", "centred")
    files = sorted(file.relative_to("out").as_posix() for file in Path("out").rglob("*") if file.is_file())
    assert files == [f"{answer}_locloc.png" for answer in answers]
    assert all(str(Path("out")/file) in capsys.readouterr().out for file in files[:1])


def test_no_answer_of_predict_takes_the_place_of_a_picture(tmp_path):
    first, second = draw_at(tmp_path, "x.png", "x_locloc.png")
    before = second.read_bytes()
    predict(tmp_path, first, second, "--method", "centred")
    assert second.read_bytes() == before and len([*tmp_path.glob("*.png")]) == 4


def test_labels_that_two_pictures_would_share_are_refused_before_the_work(tmp_path, capsys):
    pictures = draw_at(tmp_path, "a/x.png", "a/x.jpg")
    with pytest.raises(SystemExit) as stopped:
        predict(tmp_path/"out", *pictures, "--method", "centred", "--save", "yolo")
    assert stopped.value.code == 1 and "x.png and x.jpg would share x.txt" in capsys.readouterr().err
    assert not (tmp_path/"out").exists()


def test_predict_answers_a_folder(tmp_path, capsys):
    folder = tmp_path/"photos"
    draw_at(folder, "a/x.png", "b/deep/y.jpg", "z.webp", "masks/x.png", ".hidden/n.png", "__MACOSX/a.png", "._m.png",
            "z_locloc.png")
    (folder/"notes.txt").touch()
    header = "image,class,split,width,height,x0,y0,x1,y1,mask"
    (folder/"index.csv").write_text(f"{header}\na/x.png,cat,train,60,40,1,2,3,4,masks/x.png\n")
    predict(tmp_path/"out", folder, "--method", "centred", "--save", "csv")
    said = capsys.readouterr()
    assert said.err == f"{folder}: 3 pictures, 4 other files passed over\n"
    assert sorted(path.name for path in (tmp_path/"out").iterdir()) == [
        "predictions.csv", "x_locloc.png", "y_locloc.png", "z_locloc.png"]
    lines = (tmp_path/"out/predictions.csv").read_text().splitlines()[1:]
    assert [line.split(",")[0] for line in lines] == ["a/x.png", "b/deep/y.jpg", "z.webp"]


def test_predict_answers_pictures_that_are_hardly_one(tmp_path, capsys):
    Image.new("RGB", (3000, 1)).save(tmp_path/"wide.png")
    Image.new("RGB", (1, 1)).save(tmp_path/"one.png")
    predict(tmp_path/"out", tmp_path/"wide.png", tmp_path/"one.png", "--method", "ppd:lowlevel")
    assert len([*(tmp_path/"out").iterdir()]) == 2 and "box 0 0 0 0" not in capsys.readouterr().out


def test_a_class_may_be_called_anything(tmp_path, capsys):
    for name in ("$5 and $10", "A$$hat", "_^{\\", "a|b"):
        draw_at(tmp_path/"data/test"/name, "x.jpg")
    main(["evaluate", "--data", str(tmp_path/"data"), "--method", "whole", "--out", str(tmp_path/"out")])
    assert (tmp_path/"out/figure.png").exists() and "report.md" in capsys.readouterr().out


def test_pictures_elsewhere(tmp_path, monkeypatch, capsys):
    "Lists that lie apart from their pictures are trained on as they are evaluated"
    monkeypatch.chdir(tmp_path)
    draw_at(tmp_path/"elsewhere", *(f"cat/{i}.jpg" for i in range(4)))
    for split in ("train", "test"):
        Path("lists", split).mkdir(parents=True)
        ids = [f"cat/{i}.jpg" for i in range(4)]
        for name, what in (("image_ids", ""), ("class_labels", ",0"), ("image_sizes", ",60,40")):
            Path("lists", split, f"{name}.txt").write_text("".join(f"{id}{what}\n" for id in ids))
        Path("lists", split, "localization.txt").write_text("".join(f"{id},1,2,30,20\n" for id in ids))
    where = "--data lists --pictures elsewhere"
    small = "--preset tiny --epochs 1 --batch 2 --unet-dim 8 --width 8 --crop 64 --resize 64 --cached-views 1"
    main(f"masks {where} --out m --size 64 --workers 0".split())
    assert "--data lists --masks m --pictures elsewhere" in capsys.readouterr().out
    main(f"masks {where} --out m --size 64 --workers 0 --check".split())
    main(f"train geg {small} {where} --masks m --out run".split())
    main(f"masks {where} --split test --out t --size 64 --workers 0".split())
    assert "--masks t --split test --pictures elsewhere" in capsys.readouterr().out
    main(f"train geg {small} {where} --split test --masks t --out test".split())
    assert Path("run/model/config.json").exists() and Path("test/model/config.json").exists()


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    "Folder in which masks were made, both stages trained and methods evaluated, in 16 scenes"
    folder = tmp_path_factory.mktemp("chain")
    small = "--preset tiny --count 16 --batch 8 --epochs 1 --masks store --crop 96 --resize 112"
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(folder)
        main("masks --data scenes --count 16 --out store".split())
        main(f"train geg {small} --out geg --unet-dim 8 --width 8".split())
        main(f"train lfdm {small} --out lfdm --localizer geg".split())
    return folder


@pytest.fixture
def in_chain(chain, monkeypatch):
    monkeypatch.chdir(chain)


METHODS = "ppd:lowlevel,ppd=.2", "grabcut:lowlevel,split=.35", "lfdm,threshold=.3"


@pytest.fixture(scope="module")
def report(chain):
    "Folder of a report on three methods"
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(chain)
        main(["evaluate", "--data", "scenes", "--count", "6", "--method", *METHODS,
              "--held-out", "train", "--pseudo", "store", "--out", "report"])
    return chain/"report"


@pytest.mark.parametrize("told", [
    *METHODS, "wsoleval", "locloc", "mean training box", "held_out", "pseudo", "0.3 of maximum", "attention ≥ 0.2",
    "split 0.35"])
def test_the_report_says(report, told):
    assert told in (report/"report.md").read_text(encoding="utf-8")


def test_the_report_has_a_figure(report):
    assert (report/"figure.png").stat().st_size > 10_000


def test_the_report_is_json_too(report):
    assert json.loads((report/"report.json").read_text(encoding="utf-8"))["rows"]


@pytest.mark.parametrize("method", ["lfdm", "lfdm/model", "lfdm,threshold=.3"])
def test_predict_takes_a_run(in_chain, tmp_path, capsys, method):
    predict(tmp_path, CAT, "--method", method)
    assert " %, " in capsys.readouterr().out and [*tmp_path.glob("*_locloc.png")]


@pytest.mark.parametrize("folder", ["store", "geg", "lfdm/model"])
def test_info_describes_what_a_command_made(in_chain, capsys, folder):
    main(["info", folder])
    assert folder in capsys.readouterr().out


def test_info_names_the_attention_of_a_store(in_chain, capsys):
    main(["info", "store"])
    assert "lowlevel" in capsys.readouterr().out


def test_info_describes_a_report(report, capsys):
    main(["info", str(report)])
    assert "report.json" in capsys.readouterr().out


def test_info_lists_what_is_in_a_folder(in_chain, report, capsys):
    Path("cut").mkdir(exist_ok=True)
    Path("cut/config.json").write_text("{}")
    lines = [json.dumps({"step": step, "epoch": 0, "lr": .1, "loss": 1 / step}) for step in (3, 4)]
    Path("cut/metrics.jsonl").write_text("\n".join([*lines, '{"step": 5, "lo']))
    Path("new").mkdir(exist_ok=True)
    Path("new/config.json").write_text("{}")
    main(["info", "."])
    said = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert said["store"] == "mask store" and said["report"] == "report"
    assert re.fullmatch(r"run, finished at step 2, \w+ [\d.e-]+(, \w+ [\d.e-]+)*", said["geg"])
    assert said["cut"] == "run, unfinished at step 4, loss 0.25" and said["new"] == "run, unfinished at step 0"


def test_the_report_has_figures_for_print(in_chain, tmp_path, capsys):
    main(["evaluate", "--data", "scenes", "--count", "2", "--method", "centred", "--figures", "svg",
          "--out", str(tmp_path)])
    assert "figures (png, svg)" in capsys.readouterr().out
    assert {file.suffix for file in tmp_path.glob("figure.*")} == {".png", ".svg"}


def test_data_check_lists_and_fails(tmp_path, capsys):
    (tmp_path/"a.png").touch()
    header = "image,class,split,width,height,x0,y0,x1,y1,mask"
    (tmp_path/"index.csv").write_text(f"{header}\na.png,x,train,50,40,,,,,\n")
    with pytest.raises(SystemExit) as stopped:
        main(["data", "check", str(tmp_path)])
    said = capsys.readouterr().out
    assert stopped.value.code == 1 and "a.png: the file is empty" in said and "1 picture, 1 problem" in said


def test_data_check_says_that_all_is_well(capsys):
    main(["data", "check", str(ROOT/"data")])
    assert "5 pictures, no problems" in capsys.readouterr().out


def test_a_note_is_one_line(tmp_path, capsys):
    pictures = tmp_path/"data/train/cat"
    pictures.mkdir(parents=True)
    Image.new("RGB", (30, 20)).save(pictures/"0.png")
    (pictures/"notes.txt").write_text("of mine")
    main(["data", "check", str(tmp_path/"data")])
    said = capsys.readouterr().err
    notes = [line for line in said.splitlines() if line.startswith("locloc: ")]
    assert len(notes) == 1 and "notes.txt" in notes[0] and "Warning" not in said


@pytest.mark.parametrize("args, said", [
    ("browse", "nothing given"), ("browse centred", "give --data"), ("browse centred --data none", "none"),
    ("browse nobody --data scenes", "nobody"), ("browse centred --data scenes --split other", "other"),
    ("browse centred --data scenes --port 0", "--port must be"),
])
def test_browse_refuses_what_it_cannot_show(args, said, capsys):
    with pytest.raises(SystemExit) as ended:
        main(args.split())
    captured = capsys.readouterr()
    assert ended.value.code and said in captured.err + captured.out and "Traceback" not in captured.err


def test_browse_makes_a_page_of_runs_and_of_masks(tmp_path, monkeypatch):
    pages = []
    monkeypatch.setattr("locloc.cli._serve", lambda code, options: pages.append(code))
    for run in ("b", "a"):
        (tmp_path/"runs"/run/"model").mkdir(parents=True)
        (tmp_path/"runs"/run/"config.json").write_text('{"data": "scenes"}')
    monkeypatch.setattr("locloc.localizers.load_localizer", lambda name: name)
    main(["browse", str(tmp_path/"runs")])
    (tmp_path/"store").mkdir()
    (tmp_path/"store"/"manifest.json").write_text("{}")
    main(["browse", str(tmp_path/"store"), "--data", "scenes"])
    runs = [str(tmp_path/"runs"/run) for run in "ab"]
    assert f"browsing_page({runs!r}, 'scenes', None)" in pages[0]
    assert f"browsing_page({[str(tmp_path/'store')]!r}, 'scenes', None)" in pages[1]
