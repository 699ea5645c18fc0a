"Training of locloc-tiny: features, held-out pictures, losses, resuming"
import csv
import json
import shutil

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file

import locloc.pretrain
from locloc.attention import load_attention
from locloc.backbone import load_backbone
from locloc.data import get_protocol, load_dataset
from locloc.lite0 import load_lite0
from locloc.model import load_locloc_tiny
from locloc.pretrain import (
    PretrainConfig,
    PretrainData,
    PretrainModel,
    attention_loss,
    held_out_pictures,
    main,
    pretrain,
    pretrain_data,
    pretrain_loss,
)
from locloc.stores import MaskStore


def short_run(out, **options):
    "Settings of a run of seconds"
    defaults = dict(attention="lowlevel", thresholds=((.2, .7, .4),), epochs=2, batch_size=2, workers=0, held_out=.4)
    return PretrainConfig(out=out, **(defaults | options))


def log_rows(out):
    with (out/"log.csv").open() as file:
        return list(csv.DictReader(file))


def assert_same_weights(one, other):
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    "Batches of two pictures are slower on several threads that wait for each other"
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def scenes():
    return load_dataset("scenes", count=7)


@pytest.fixture(scope="module")
def vit():
    return load_backbone("locloc-tiny")


@pytest.fixture(scope="module")
def finished(tmp_path_factory, scenes):
    "Folder of a run of two epochs"
    out = tmp_path_factory.mktemp("finished")
    pretrain(short_run(out), [scenes])
    return out


@pytest.fixture
def begun(tmp_path, finished):
    "Folder with the masks and features of that run, where nothing is trained yet"
    for folder in ("masks", "features"):
        shutil.copytree(finished/folder, tmp_path/folder)
    return tmp_path


def test_held_out_pictures_are_marked_and_keep_their_boxes(begun, scenes, vit):
    data = pretrain_data(short_run(begun), [scenes], vit)
    kept = (~data.teaches).nonzero()[:, 0].tolist()
    assert 1 < len(kept) < 6
    assert [i for i, boxes in enumerate(data.boxes) if boxes is not None] == kept
    protocol = get_protocol("wsoleval")
    for i in kept:
        boxes = protocol.boxes(scenes[i].boxes, (224, 224), protocol.inclusive)
        assert np.array_equal(data.boxes[i], boxes)


def test_held_out_pictures_teach_nothing(begun, finished, scenes):
    store = MaskStore(begun/"masks"/"0-scenes-0")
    for i in held_out_pictures([scene.boxes for scene in scenes], .4).nonzero()[0]:
        store.write(scenes[i].id, ~store.read(scenes[i].id))
    weights = load_file(pretrain(short_run(begun), [scenes]))
    assert_same_weights(weights, load_file(finished/"locloc-tiny.safetensors")) # whatever their masks say
    losses = [log_rows(out)[-1]["held_out_loss"] for out in (begun, finished)]
    assert losses[0] != losses[1]


def test_pictures_without_boxes_teach(tmp_path, vit):
    folder = tmp_path/"data"/"train"/"thing"
    folder.mkdir(parents=True)
    for i, scene in enumerate(load_dataset("scenes", count=2)):
        Image.fromarray(scene.picture).save(folder/f"{i}.png")
    data = pretrain_data(short_run(tmp_path/"out", held_out=.9), [load_dataset(tmp_path/"data")], vit)
    assert data.teaches.all()
    assert data.boxes == [None] * 2


def test_sets_follow_one_another(begun, scenes, vit):
    few = load_dataset("scenes", count=2)
    one, both = (pretrain_data(short_run(begun), sets, vit) for sets in ([scenes], [scenes, few]))
    assert both.sets.tolist() == [0] * 7 + [1] * 2
    assert torch.equal(both.fine[:, :7], one.fine) and torch.equal(both.targets[:7], one.targets)


def test_something_must_be_left_to_learn_from(begun, scenes, vit):
    with pytest.raises(ValueError, match="leaves 0 of 7 pictures to learn from"):
        pretrain_data(short_run(begun, held_out=1.), [scenes], vit)
    with pytest.raises(ValueError, match="batch_size"):
        short_run(begun, batch_size=1)


def test_features_are_those_of_the_picture_and_of_its_mirror_image(begun, scenes, vit):
    data = pretrain_data(short_run(begun), [scenes], vit)
    for view, picture in enumerate((scenes[3].picture, scenes[3].picture[:, ::-1].copy())):
        with torch.inference_mode():
            fine, coarse = vit.model.patch_embed.maps(vit.normalize(picture[None]))
        torch.testing.assert_close(data.fine[view, 3].float(), fine[0], atol=.02, rtol=.01) # kept in half precision
        torch.testing.assert_close(data.coarse[view, 3].float(), coarse[0], atol=.02, rtol=.01)


def test_features_are_computed_once(begun, scenes, vit, monkeypatch):
    monkeypatch.setattr(locloc.pretrain, "_stem_maps", None) # a call would fail
    kept = load_file(begun/"features"/"0-scenes.safetensors")
    data = pretrain_data(short_run(begun), [scenes], vit)
    assert torch.equal(data.fine, kept["fine"]) and torch.equal(data.coarse, kept["coarse"])


def test_features_of_other_pictures_are_refused(begun, vit):
    shutil.rmtree(begun/"masks")
    with pytest.raises(ValueError, match=r"0-scenes\.safetensors is of 7 pictures, scenes has 2: delete it"):
        pretrain_data(short_run(begun), [load_dataset("scenes", count=2)], vit)


@pytest.fixture
def seen_targets():
    "Data whose features are the targets"
    targets = torch.randint(0, 256, (12, 56, 56), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    parts = F.avg_pool2d(targets.float() / 255, 4)[:, None]
    fine = torch.stack([parts, parts.flip(3)])
    teaches = torch.arange(12) < 9
    return PretrainData(fine, fine[..., ::2, ::2], targets, torch.arange(12.), teaches, [None] * 12, np.zeros(12, int))


def test_mirrored_views_carry_mirrored_targets(seen_targets):
    views = set()
    for epoch in range(3):
        for fine, _, targets, trusted in locloc.pretrain._epoch_batches(seen_targets, short_run("out"), epoch):
            torch.testing.assert_close(fine[:, 0], F.avg_pool2d(targets, 4))
            for one, i in zip(fine, trusted.long(), strict=True):
                views.add((int(i), torch.equal(one, seen_targets.fine[1, i])))
    assert {mirrored for _, mirrored in views} == {True, False}
    assert {i for i, _ in views} == set(range(9)) # all that teach, none that is held out


def test_an_epoch_has_an_order_of_its_own(seen_targets):
    def order(epoch, **options):
        batches = locloc.pretrain._epoch_batches(seen_targets, short_run("out", **options), epoch)
        return torch.cat([trusted for *_, trusted in batches]).tolist()

    assert order(0) == order(0) and sorted(order(0)) == sorted(order(1)) == list(range(9))
    assert len({tuple(order(epoch, seed=seed)) for epoch in (0, 1) for seed in (0, 1)}) == 4


def test_attention_loss_has_its_least_at_the_mask():
    target = torch.rand(3, 4, 4, generator=torch.Generator().manual_seed(0))
    perfect = (target / target.sum((1, 2), keepdim=True))[:, None] / 2 # half of the attention is on CLS
    assert attention_loss(perfect, target, torch.ones(3)).abs() < 1e-5
    assert attention_loss(perfect.flip(0), target, torch.ones(3)) > .05
    assert attention_loss(perfect.flip(0), target, torch.zeros(3)) == 0


def test_untrusted_masks_do_not_count():
    torch.manual_seed(0)
    outputs = torch.rand(2, 4, 3, 3), torch.rand(2, 24, 24)
    target, other = torch.rand(2, 12, 12), torch.rand(2, 12, 12)
    other[1] = target[1]
    one, same = (torch.stack(pretrain_loss(outputs, mask, torch.tensor([0., 1.]))) for mask in (target, other))
    torch.testing.assert_close(one, same)
    assert not torch.allclose(one, torch.stack(pretrain_loss(outputs, other, torch.ones(2))))


def test_masks_of_no_plausible_size_are_not_trusted(begun, scenes, vit):
    store = MaskStore(begun/"masks"/"0-scenes-0")
    store.write(scenes[0].id, np.ones((224, 224), bool))
    store.write(scenes[1].id, np.zeros((224, 224), bool))
    store.write(scenes[2].id, np.arange(224)[:, None] + np.zeros(224) < 100)
    data = pretrain_data(short_run(begun), [scenes], vit)
    assert data.trusted[:3].tolist() == [0, 0, 1]


def test_targets_are_the_mean_over_the_settings(tmp_path, vit):
    config = short_run(tmp_path, thresholds=((.2, .7, .4), (.1, .6, .3)), held_out=0.)
    few = load_dataset("scenes", count=2)
    data = pretrain_data(config, [few], vit)
    masks = np.stack([MaskStore(tmp_path/"masks"/f"0-scenes-{i}").read(few[1].id) for i in (0, 1)])
    wanted = 255 * masks.reshape(2, 56, 4, 56, 4).mean((0, 2, 4)) # (2, 224, 224) -> (56, 56)
    assert np.abs(data.targets[1].numpy() - wanted).max() <= .51


@pytest.fixture
def model():
    torch.manual_seed(0)
    return PretrainModel(load_backbone("locloc-tiny", weights=False).model).eval()


def test_geg_reads_the_patch_tokens(model):
    given = torch.randn(2, 3, 32, 64)
    with torch.no_grad():
        fine, coarse = model.vit.patch_embed.maps(given)
        activation = model(fine, coarse)[1]
        vit = load_backbone("locloc-tiny", weights=False)
        vit.model.load_state_dict(model.vit.state_dict())
        torch.testing.assert_close(activation, model.geg(vit(given).patches)[:, 0], atol=1e-5, rtol=1e-5)
    assert activation.shape == (2, 16, 32)


def test_what_learns_is_the_attention_that_is_looked_at(vit):
    images = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        wanted = vit(images).cls_attention[:, -1]
        model = PretrainModel(load_backbone("locloc-tiny").model).eval()
        given = model(*vit.model.patch_embed.maps(images))[0]
    torch.testing.assert_close(given, wanted, atol=1e-6, rtol=1e-4)


def test_all_but_the_stem_learns(model):
    model.train()
    stem = model.vit.patch_embed
    assert {p for p in model.parameters() if not p.requires_grad} == set(stem.parameters())
    assert not any(module.training for module in model.vit.patch_embed.net.modules()) and model.vit.blocks[0].training


def test_the_log_has_a_row_an_epoch(finished):
    found = log_rows(finished)
    assert list(found[0]) == ["epoch", "attention", "mask", "held_out_loss", "held_out"]
    assert [row["epoch"] for row in found] == ["1", "2"]
    assert all(0 <= float(row["held_out"]) <= 100 and float(row["held_out_loss"]) > 0 for row in found)
    assert float(found[1]["attention"]) < float(found[0]["attention"])


def test_the_geg_that_learned_is_the_one_that_is_read(finished):
    file = finished/"locloc-tiny.safetensors"
    geg = load_locloc_tiny(file).geg
    written = {name.removeprefix("geg."): value for name, value in load_file(file).items() if name.startswith("geg.")}
    assert written.keys() == geg.state_dict().keys()
    assert all(torch.equal(value.float(), geg.state_dict()[name].float()) for name, value in written.items())


def test_weights_hold_nothing_of_the_stems_network(finished):
    file = finished/"locloc-tiny.safetensors"
    weights = load_file(file)
    assert "patch_embed.proj.weight" in weights and not any(name.startswith("patch_embed.net") for name in weights)
    vit = load_backbone("locloc-tiny", weights=file)
    torch.testing.assert_close(vit.model.cls_token, weights["cls_token"].float())
    assert_same_weights(vit.model.patch_embed.net.state_dict(), load_lite0().state_dict())


def test_a_second_round(tmp_path, finished):
    options = dict(weights=finished/"locloc-tiny.safetensors", epochs=1, held_out=0.)
    config = short_run(tmp_path, attention="lowlevel+locloc-tiny", **options)
    weights = load_file(pretrain(config, [load_dataset("scenes", count=2)]))
    imitated = MaskStore(tmp_path/"masks"/"0-scenes-0").manifest["attention"]
    wanted = load_attention(config.attention, weights=config.weights).fingerprint
    assert imitated == json.loads(json.dumps(wanted))
    assert weights.keys() == load_file(config.weights).keys()


def test_stopped_run_ends_like_an_undisturbed_one(begun, finished, scenes):
    pretrain(short_run(begun), [scenes], stop_after=1)
    assert len(log_rows(begun)) == 1
    parts = load_file(pretrain(short_run(begun), [scenes]))
    assert_same_weights(load_file(finished/"locloc-tiny.safetensors"), parts)
    assert (begun/"log.csv").read_text() == (finished/"log.csv").read_text()


def test_other_settings_are_refused(finished, scenes):
    with pytest.raises(ValueError, match="seed is 0 there and 1 here.*Take another --out"):
        pretrain(short_run(finished, seed=1), [scenes])


def test_checkpoints_now_and_then(begun, scenes):
    config = short_run(begun, epochs=3, save_every=2, held_out=0.)
    pretrain(config, [scenes], stop_after=1)
    assert (begun/"checkpoint.pt").is_file() # the last epoch of a call always leaves one
    pretrain(config, [scenes])
    assert [row["held_out"] for row in log_rows(begun)] == ["nan"] * 3


def test_help(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "a second round" in capsys.readouterr().out


def test_stop_in_one_line(monkeypatch, capsys):
    def stop(config): raise KeyboardInterrupt
    monkeypatch.setattr(locloc.pretrain, "pretrain", stop)
    with pytest.raises(SystemExit):
        main([])
    assert "the same command goes on" in capsys.readouterr().err


def test_missing_data_is_named_in_one_line(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["--data", str(tmp_path/"nowhere"), "--out", str(tmp_path/"out")])
    told = capsys.readouterr().err
    assert "nowhere" in told and told.count("\n") == 1
