"From tuner to masks without retyping: what is saved, where it was chosen, and the masks that the command makes of it"
import json
import shlex
from dataclasses import replace
from pathlib import Path

import cv2
import pytest

from locloc.cli import main
from locloc.data import load_dataset
from locloc.masks import GrabCutParams, preset
from locloc.setting import Chosen, SavedSetting, Setting, read_setting
from locloc.stores import MaskStore, make_masks
from locloc.widgets import MaskBrowser, SweepPanel, ThresholdTuner, tuning_page
from locloc.workbench import Workbench, as_dataset, masks_command, to_save

SCENES = load_dataset("scenes", split="test", count=3)
BEST = Chosen("stability, without boxes", "birds", "train", 16)


def keep(picture, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), picture[..., ::-1])


@pytest.fixture
def plain(tmp_path, monkeypatch):
    "A plain folder of three pictures of two shapes, in the folder where one works"
    monkeypatch.chdir(tmp_path)
    for i, sample in enumerate(SCENES):
        keep(sample.picture[:150 + 37 * i], tmp_path/"photos"/f"{i}.png")
    return "photos"


@pytest.fixture
def birds(tmp_path, monkeypatch):
    "A data set with two train pictures and one test picture, with boxes"
    monkeypatch.chdir(tmp_path)
    lines = ["image,class,split,width,height,x0,y0,x1,y1,mask"]
    for i, (sample, split) in enumerate(zip(SCENES, ("train", "train", "test"), strict=True)):
        keep(sample.picture, tmp_path/"birds"/f"{i}.png")
        lines.append(f"{i}.png,jay,{split},224,224,{','.join(str(int(x)) for x in sample.boxes[0])},")
    (tmp_path/"birds"/"index.csv").write_text("\n".join(lines) + "\n")
    return "birds"


def fails(capsys, *args):
    "What a command that is refused says, one line"
    with pytest.raises(SystemExit) as stopped:
        main([str(arg) for arg in args])
    said = capsys.readouterr().err
    assert stopped.value.code and said.count("\n") == 1
    return said


# which pictures

def test_train_is_shown_where_there_is_such_a_split(birds):
    assert as_dataset(birds).split == "train" and len(as_dataset(birds)) == 2
    assert len(as_dataset(birds, "test")) == 1 and len(as_dataset(birds, "all")) == 3
    assert Workbench(birds, split="test").dataset.split == "test"


def test_all_is_shown_where_there_is_no_train(birds):
    index = Path(birds)/"index.csv"
    index.write_text(index.read_text().replace("train", "test"))
    assert as_dataset(birds).split == "all" and len(as_dataset(birds)) == 3


def test_a_wrong_list_is_told_as_it_is(birds):
    index = Path(birds)/"index.csv"
    index.write_text(index.read_text() + "9.png,jay,train,a,b,c\n")
    with pytest.raises(ValueError, match="line 5"):
        as_dataset(birds)


def test_a_split_that_is_not_there_is_refused(birds, plain):
    for pictures, split in ((birds, "val"), (plain, "train"), (SCENES, "train"), ([SCENES[0].picture], "test")):
        with pytest.raises(ValueError, match=split):
            as_dataset(pictures, split)
    assert as_dataset(SCENES, "test") is SCENES and len(as_dataset(plain, "all")) == 3


# what is saved

def test_a_setting_is_read_back_as_it_was_saved(tmp_path):
    params = GrabCutParams(.03, .8, .4, 3, 7, "cv2")
    saved = SavedSetting(Setting(params, .2, "lowlevel+locloc-tiny", (0, 2), (5,)), 448, "w.pth", BEST)
    saved.save(tmp_path/"a.json")
    assert read_setting(tmp_path/"a.json") == saved
    assert GrabCutParams.from_json((tmp_path/"a.json").read_text()) == params
    (tmp_path/"a.json").write_text(params.to_json())
    assert read_setting(tmp_path/"a.json", saved) == replace(saved, chosen=None)


@pytest.mark.parametrize("change", [
    dict(format=2), dict(ppd=2), dict(ppd="a"), dict(source=3), dict(layers=[.5]), dict(layers="01"), dict(size=0),
    dict(weights=1), dict(chosen=[]), dict(chosen={"by": "me"}), dict(more=1), dict(delta0=.9), dict(kernel="x")])
def test_a_file_that_says_something_else_is_one_line(tmp_path, change):
    flat = SavedSetting(Setting(), chosen=BEST).flat | change
    (tmp_path/"a.json").write_text(json.dumps(flat))
    with pytest.raises(ValueError, match="a.json holds no settings of GrabCut") as told:
        read_setting(tmp_path/"a.json")
    assert "\n" not in str(told.value)


def test_a_file_that_lacks_something_is_refused(tmp_path):
    flat = SavedSetting(Setting(), chosen=BEST).flat
    for name in flat:
        (tmp_path/"a.json").write_text(json.dumps({key: value for key, value in flat.items() if key != name}))
        with pytest.raises(ValueError, match="a.json"):
            read_setting(tmp_path/"a.json")


# where it was chosen

def sweep(tuner, measure):
    "A tuner's setting after the first value of a sweep was pressed"
    panel = SweepPanel(tuner, workers=1)
    panel.count.value, panel.delta0.value, panel.delta1.value = 2, ".05 .3", ".5 .8"
    panel.runner.start.click()
    panel.measure.value = measure
    next(child for child in panel.heat.children[0].children if hasattr(child, "click")).click()
    return panel


@pytest.mark.parametrize("split, measure, by, shown", [
    ("train", "GT-known", "GT-known, by true boxes of split train", "GT-known (true boxes of split train)"),
    ("all", "box IoU", "box IoU, oracle: by true boxes of split all", "box IoU (oracle)"),
    ("all", "stability", "stability, without boxes", "stability"),
    ("train", "area", "area, without boxes", "area")])
def test_a_choice_says_what_it_saw(birds, split, measure, by, shown):
    tuner = ThresholdTuner(birds, split=split)
    panel = sweep(tuner, measure)
    assert tuner.chosen == Chosen(by, "birds", split, 2) and by in panel.status.value
    assert shown in [words for words, _ in panel.measure.options]
    assert panel.which.value == f"2 of {len(tuner.bench)} pictures, split {split}"
    tuner.save("a.json")
    assert read_setting("a.json").chosen == tuner.chosen
    tuner.controls.ppd.value = .6
    assert tuner.chosen.by.startswith("by hand, ")


def test_a_choice_by_hand_says_what_was_in_sight(birds, plain):
    for pictures, split, by in (
            (birds, "train", "by hand, by true boxes of split train"),
            (birds, "test", "by hand, oracle: by true boxes of split test"), (plain, None, "by hand, without boxes")):
        tuner = ThresholdTuner(pictures, split=split)
        assert tuner.chosen.by == "preset lowlevel" and tuner.chosen.count == 0
        tuner.controls.delta0.value = .21
        tuner.picker.next.click()
        assert tuner.chosen.by == by and tuner.chosen.count == min(2, len(tuner.bench))


# the file row

def test_a_file_is_overwritten_at_the_second_press_only(plain):
    tuner = ThresholdTuner(plain)
    name, save, *_ = tuner.files.children
    save.click()
    before = Path("params.json").read_text()
    tuner.params = GrabCutParams(.2, .7)
    save.click()
    assert Path("params.json").read_text() == before
    assert save.description == "press again to overwrite" and "press again" in tuner.status.value
    name.value = "other.json"
    assert save.description == "save"
    name.value = "params.json"
    save.click()
    assert Path("params.json").read_text() == before
    save.click()
    assert read_setting("params.json").setting == tuner.setting and save.description == "save"
    with pytest.raises(ValueError, match="overwrite=True"):
        tuner.save("params.json")


def test_what_changes_between_the_presses_is_asked_about_again(plain):
    tuner = ThresholdTuner(plain)
    save = tuner.files.children[1]
    save.click()
    save.click()
    tuner.controls.delta0.value = .3
    assert save.description == "save"


def test_what_was_saved_is_taken_up_again(plain):
    tuner = ThresholdTuner(plain)
    tuner.controls.ppd.value = .61
    tuner.save("a.json")
    other = ThresholdTuner(plain, size=112)
    other.load("a.json")
    assert other.setting == tuner.setting and other.chosen == tuner.chosen
    assert "chosen at 224 px, here it is 112" in other.status.value


def test_a_file_for_other_weights_says_how_to_start(plain):
    SavedSetting(Setting(), weights="w.pth").save("a.json")
    tuner = ThresholdTuner(plain)
    tuner.files.children[0].value = "a.json"
    tuner.files.children[2].click()
    assert "w.pth" in tuner.status.value and "locloc tune DATA --params a.json" in tuner.status.value
    assert tuner.setting == Setting()


def test_a_file_whose_source_cannot_be_had_says_what_to_fetch(plain, capsys):
    SavedSetting(Setting(source="dino_vits16")).save("a.json")
    tuner = ThresholdTuner(plain)
    tuner.files.children[0].value = "a.json"
    tuner.files.children[2].click()
    assert "weights" in tuner.status.value and tuner.setting == Setting()
    assert "weights" in fails(capsys, "masks", "--data", plain, "--out", "m", "--params", "a.json")
    assert not Path("m").exists()


# the command

def run_shown_command(tuner):
    "The store that the command on the page makes"
    tuner.files.children[1].click()
    assert "The masks of all, as they are shown here:" in tuner.about.value
    command = shlex.split(tuner.command.value)
    assert command[:2] == ["locloc", "masks"]
    main([*command[1:], "--workers", "0"])
    return MaskStore(command[command.index("--out") + 1])


@pytest.mark.parametrize("source, size, picks", [
    ("lowlevel", 224, {}),
    ("lowlevel+locloc-tiny", 160, dict(layers=(0, 1), heads=(2,))),
])
def test_the_command_makes_the_masks_on_the_screen(plain, source, size, picks):
    tuner = ThresholdTuner(plain, size=size)
    tuner.controls.other.value = source
    for name, numbers in picks.items():
        getattr(tuner.controls, name).value = numbers
    tuner.params = replace(tuner.params, delta0=.07, delta1=.55, iterations=2)
    store = run_shown_command(tuner)
    for i, id in enumerate(tuner.bench.dataset.ids()):
        mask = tuner.bench.cut(i, tuner.setting).grabcut
        assert 0 < mask.sum() and (store.read(id) == mask).all()


@pytest.mark.parametrize("layers, saved", [(0, (0,)), ([0, 2], (0, 2)), (None, None)])
def test_layers_and_weights_asked_for_in_python_are_saved(layers, saved):
    bench = Workbench(SCENES, "locloc-tiny", layers=layers, weights=Path("w.pth"))
    kept = to_save(bench, Setting(source="locloc-tiny"), BEST)
    assert kept.setting.layers == saved and kept.weights == "w.pth"
    assert to_save(bench, Setting(), BEST).weights is None


def test_masks_of_ppd_take_the_saved_threshold(plain):
    tuner = ThresholdTuner(plain)
    tuner.controls.ppd.value = .55
    tuner.save()
    main(["masks", "--data", plain, "--out", "m", "--params", "params.json", "--method", "ppd", "--workers", "0"])
    assert (MaskStore("m").read("0.png") == tuner.bench.cut(0, tuner.setting).ppd).all()


def test_a_file_without_a_threshold_of_ppd_is_told(plain, capsys):
    Path("old.json").write_text(GrabCutParams().to_json())
    said = fails(capsys, "masks", "--data", plain, "--out", "m", "--params", "old.json", "--method", "ppd")
    assert "old.json says nothing of PPD's threshold: give --ppd" in said


def test_an_old_file_still_gives_its_thresholds(plain):
    Path("old.json").write_text('{"delta0": 0.11, "delta1": 0.66, "split": null, "iterations": 2, "seed": 3}')
    main(["masks", "--data", plain, "--out", "m", "--params", "old.json", "--workers", "0"])
    params = GrabCutParams(.11, .66, None, 2, 3)
    store = make_masks(as_dataset(plain), "n", "lowlevel", params, progress=False)
    assert MaskStore("m").manifest == store.manifest


def test_options_beside_a_file_win_and_are_said(plain, capsys):
    SavedSetting(Setting(source="locloc-tiny", layers=(0,)), 112, chosen=BEST).save("a.json")
    main(["masks", "--data", plain, "--out", "m", "--params", "a.json", "--attention", "lowlevel", "--size", "96",
          "--delta0", ".07", "--workers", "0"])
    said = capsys.readouterr().err
    assert "a.json, but for what is given beside it: " in said
    for words in ("source is 'locloc-tiny' there and 'lowlevel' here", "size is 112 there and 96 here",
                  "delta0 is 0.12 there and 0.07 here", "layers"):
        assert words in said
    manifest = MaskStore("m").manifest
    assert manifest["attention"]["name"] == "lowlevel" and manifest["size"] == [96, 96]
    assert manifest["params"]["delta0"] == .07


def test_what_is_given_as_the_file_says_is_not_said(plain, capsys):
    SavedSetting(Setting(), chosen=BEST).save("a.json")
    main(["masks", "--data", plain, "--out", "m", "--params", "a.json", "--attention", "lowlevel", "--workers", "0"])
    assert "beside" not in capsys.readouterr().err


def test_masks_of_a_plain_folder(plain, capsys):
    main(["masks", "--data", plain, "--out", "m", "--count", "2", "--workers", "0"])
    assert MaskStore("m").manifest["split"] == "all" and len(MaskStore("m")) == 2
    capsys.readouterr()
    assert "no splits" in fails(capsys, "masks", "--data", plain, "--out", "n", "--split", "train")
    Path("empty").mkdir()
    assert "empty" in fails(capsys, "masks", "--data", "empty", "--out", "n")


def test_corrections_on_the_command_line(plain, capsys):
    tuner = ThresholdTuner(plain)
    Path("drawn").mkdir()
    stroke = dict(kind="background", size=.2, points=[[.5, .5]])
    Path("drawn/1.png.json").write_text(json.dumps(dict(format=1, strokes=[stroke])))
    args = ["masks", "--data", plain, "--out", "m", "--corrections", "drawn", "--workers", "0"]
    main(args)
    assert "3 masks, 1 of them corrected by hand" in capsys.readouterr().out
    shown = tuner.bench.make_cut(1, tuner.setting, strokes=[stroke])
    assert (MaskStore("m").read("1.png") == shown.grabcut).all()
    assert "corrections" in fails(capsys, *args, "--method", "ppd")
    assert "gone: no such folder" in fails(capsys, *args[:-4], "--corrections", "gone")
    Path("drawn/1.png.json").write_text("{")
    assert "1.png.json is damaged" in fails(capsys, *args)


def test_a_corrected_store_wants_its_corrections(plain, capsys):
    Path("drawn").mkdir()
    stroke = dict(kind="foreground", size=.2, points=[[.5, .5]])
    Path("drawn/1.png.json").write_text(json.dumps(dict(format=1, strokes=[stroke])))
    args = ["masks", "--data", plain, "--out", "m", "--workers", "0"]
    main([*args, "--corrections", "drawn"])
    capsys.readouterr()
    assert "corrected by hand" in fails(capsys, *args)


def test_pictures_in_no_folder_have_no_command():
    tuner = ThresholdTuner([SCENES[0].picture])
    assert tuner.command.value == "" and "lie in no folder" in tuner.about.value


def test_odd_folder_names_are_quoted(tmp_path):
    folder = tmp_path/"my 'birds' $5"
    keep(SCENES[0].picture, folder/"a.png")
    command = shlex.split(masks_command(Workbench(folder), "my params.json"))
    assert command[command.index("--data") + 1] == str(folder) and command[-1] == "my params.json"


def test_tune_takes_a_split_and_the_whole_file(birds, monkeypatch):
    pages = []
    monkeypatch.setattr("locloc.cli._serve", lambda code, options: pages.append(code))
    saved = SavedSetting(Setting(ppd=.61), 112, chosen=BEST)
    saved.save("a.json")
    main(["tune", birds, "--split", "test", "--params", "a.json"])
    names = {}
    exec(pages[0].replace("tuning_page(", "found = tuning_page("), names)
    tuner = names["found"].children[0]
    assert tuner.setting == saved.setting and tuner.bench.size == 112 and tuner.chosen == BEST
    assert tuner.bench.dataset.split == "test" and "split test" in names["found"].children[1].which.value


def test_a_browser_shows_the_pictures_of_its_store(birds):
    store = make_masks(as_dataset(birds, "test"), "m", progress=False)
    assert len(MaskBrowser(store, birds).gallery.rows) == 1


# sources and presets

def test_a_source_brings_its_thresholds_unless_they_were_moved():
    tuner = ThresholdTuner(SCENES)
    tuner.controls.source.value = "locloc-tiny"
    assert tuner.params == preset("locloc-tiny").params and tuner.setting.ppd == preset("locloc-tiny").ppd
    tuner.controls.delta0.value = .23
    tuner.controls.source.value = "lowlevel"
    assert tuner.params == replace(preset("locloc-tiny").params, delta0=.23)


def test_the_preset_that_is_set_is_marked():
    controls = ThresholdTuner(SCENES).controls
    def marked():
        return [name for name, button in controls.presets.items() if button.icon]
    assert marked() == ["lowlevel"]
    controls.presets["paper"].click()
    assert marked() == ["paper"] and "which are set" in controls.presets["paper"].tooltip
    controls.ppd.value = .77
    assert marked() == []


def test_any_name_can_be_typed(monkeypatch):
    controls = ThresholdTuner(SCENES).controls
    controls.other.value = "locloc-tiny+lowlevel"
    assert controls.setting.source == controls.source.value == "locloc-tiny+lowlevel" and controls.other.value == ""
    assert "locloc-tiny+lowlevel" in controls.source.options
    assert "cam:efficientnet_lite0" in controls.source.options


@pytest.mark.parametrize("name, told", [("vit_tiny_patch16_224", "weights"), ("no such model", "no such model")])
def test_a_typed_name_that_cannot_be_had_is_told(name, told):
    tuner = ThresholdTuner(SCENES)
    tuner.controls.other.value = name
    assert told in tuner.status.value and "⚠" in tuner.status.value
    assert tuner.setting.source == "lowlevel" == tuner.controls.source.value
    assert name not in tuner.controls.source.options


def test_words_are_explained_where_they_stand():
    tabs = tuning_page(SCENES)
    tuner, panel = tabs.children
    for explainer, words in ((tuner.controls.explainer, ("split", "rounds")),
                             (panel.explainer, ("stability", "separation"))):
        assert tuple(explainer.buttons) == words and explainer.layout.display == "none"
        for word, other in (words, words[::-1]):
            explainer.buttons[word].value = True
            assert explainer.layout.display is None and "<svg" in explainer.value
            assert not explainer.buttons[other].value
        explainer.buttons[words[0]].value = False
        explainer.buttons[words[1]].value = False
        assert explainer.layout.display == "none"
