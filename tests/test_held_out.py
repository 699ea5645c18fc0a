"What a training may be told beside its data: pictures to hold out, a mean of the weights, mixed pictures, trackers."
import json
import logging
import math
from dataclasses import replace
from functools import partialmethod
from unittest.mock import patch

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from locloc.data import load_dataset
from locloc.geg import geg_loss
from locloc.lfdm import LinearHead
from locloc.stores import make_masks
from locloc.train import (
    GEGConfig,
    LFDMConfig,
    LFDMStage,
    TrainSet,
    _keep_best,
    load_checkpoint,
    save_checkpoint,
    train,
)

COUNT = 12
SMALL = dict(batch=4, crop=64, resize=72, cached_views=1)


@pytest.fixture(scope="module")
def scenes():
    return load_dataset("scenes").subset(COUNT)


@pytest.fixture(scope="module")
def masks(scenes, tmp_path_factory):
    return make_masks(scenes, tmp_path_factory.mktemp("store")/"masks", progress=False)


@pytest.fixture(scope="module")
def backbone():
    return LFDMConfig.make_backbone("locloc-tiny")


def geg(out, **more):
    return replace(GEGConfig.of("tiny"), **SMALL | dict(out=out, unet_dim=8, width=8) | more)


def lfdm(out, **more):
    return replace(LFDMConfig.of("tiny"), **SMALL | dict(out=out) | more)


def lines(run):
    return [json.loads(line) for line in (run/"metrics.jsonl").read_text().splitlines()]


def weights(run):
    return load_file(run/"model"/"model.safetensors")


def apart(one, other):
    return max(float((one[name] - other[name]).abs().max()) for name in one)


@pytest.fixture(scope="module")
def held(scenes, masks, tmp_path_factory):
    "Runs of both heads that hold pictures out, and the sets of pictures that each was made of"
    folder, seen = tmp_path_factory.mktemp("held"), {}
    def note(self, dataset, config, masks=None):
        seen.setdefault(config.out.name, []).append({*dataset.ids()})
        made(self, dataset, config, masks)
    made = TrainSet.__init__
    with patch.object(TrainSet, "__init__", note):
        model = train(geg(folder/"geg", held_out=.3, best="mse", epochs=3), scenes, masks, progress=False)
        train(lfdm(folder/"lfdm", held_out=.3, cached_views=0, epochs=1), scenes, masks, progress=False)
    return folder, model, seen


def test_both_heads_hold_out_the_same_pictures_and_learn_from_none_of_them(held, scenes):
    _, _, seen = held
    (aside, taught), other = seen["geg"][-2:], seen["lfdm"]
    assert len(aside) == 4 and not aside & taught and aside | taught == {*scenes.ids()}
    assert other == [aside, taught]


def test_the_held_out_figure_is_what_the_saved_model_has_on_these_pictures(held, scenes, masks):
    folder, model, (aside, _) = held[0], held[1], held[2]["geg"][-2:]
    config = geg(folder/"geg", held_out=.3).plain()
    pictures = TrainSet(scenes.subset([i for i, id in enumerate(scenes.ids()) if id in aside]), config, masks)
    items = [pictures[0, i] for i in range(len(pictures))]
    images, target = (torch.stack([item[name] for item in items]) for name in ("picture", "mask"))
    with torch.no_grad():
        tokens = model.backbone(model.backbone.normalize(images), attention=False).patches.half().float()
        mse = geg_loss(model.geg(tokens), target[:, None].float())
    told = [line["held_out_mse"] for line in lines(folder/"geg") if "held_out_mse" in line]
    assert len(told) == 3 and float(mse) == pytest.approx(min(told), rel=1e-4)


def test_the_best_epoch_becomes_the_model_though_later_ones_are_worse(scenes, masks, tmp_path):
    told = iter([.5, .2, .4])
    def measure(stage, loader, progress=False):
        return {"loss": 0., "mse": next(told) if progress is not None else 0.}
    steps = {}
    with patch("locloc.train._measure", measure), patch("locloc.train._check_best"):
        train(geg(tmp_path/"run", held_out=.3, best="mse", epochs=3, checkpoint_minutes=0.), scenes, masks,
              progress=False)
    with safe_open(tmp_path/"run/best.safetensors", "pt") as best:
        steps = best.metadata()
    assert steps == {"step": "4", "mse": "0.2"}
    best, last = load_file(tmp_path/"run/best.safetensors"), weights(tmp_path/"run")
    assert all(torch.equal(best[name], last[f"geg.{name}"]) for name in best)
    newest, = (tmp_path/"run/checkpoints").iterdir()
    assert apart(best, load_file(newest/"head.safetensors")) > 0


@pytest.mark.parametrize("name, figures, best", [
    ("top1", [20., 60., 40.], 1), ("mse", [.5, .2, .4], 1), ("loss", [math.nan, .3, math.nan], 1), ("mse", [.2, .2], 0),
])
def test_the_highest_top1_and_the_lowest_of_all_others_is_the_best(name, figures, best, tmp_path):
    for step, value in enumerate(figures):
        head = nn.Linear(1, 1)
        nn.init.constant_(head.weight, step)
        _keep_best(lfdm(tmp_path, held_out=.3, best=name), step, head, {name: value})
    with safe_open(tmp_path/"best.safetensors", "pt") as kept:
        assert kept.metadata() == {"step": str(best), name: str(figures[best])}
        assert float(kept.get_tensor("weight")) == best


def test_a_figure_that_nobody_measures_is_told_before_a_step_is_taken(scenes, masks, tmp_path):
    with pytest.raises(ValueError, match="best must be one of loss, mse, got 'iou'"):
        train(geg(tmp_path/"run", held_out=.3, best="iou"), scenes, masks, progress=False)
    assert not (tmp_path/"run").exists()


def test_the_mean_of_the_weights_is_saved_in_their_place(scenes, masks, tmp_path):
    options = dict(cosine=False, warmup_epochs=0, batch=COUNT, cached_views=1)
    for name, more in dict(first=dict(epochs=1), both=dict(epochs=2), mean=dict(epochs=2, ema=.9)).items():
        train(geg(tmp_path/name, **options, **more), scenes, masks, progress=False)
    first, both, mean = (weights(tmp_path/name) for name in ("first", "both", "mean"))
    decay = 1 - 2**(-2/3) # timm's, of the second step; the first one's is 0
    learned = [name for name in first if name.startswith("geg.") and first[name].is_floating_point()]
    assert all(torch.allclose(mean[name], torch.lerp(both[name], first[name], decay), atol=1e-6) for name in learned)
    assert apart({name: mean[name] for name in learned}, both) > 1e-4


def test_mixed_pictures_come_in_pairs_and_so_do_their_labels(backbone):
    config = lfdm("run", mixup=0., cutmix=1., cached_views=0)
    stage = LFDMStage(backbone, config, 4)
    batch = {"picture": torch.randint(256, (4, 64, 64, 3), dtype=torch.uint8), "label": torch.arange(4)}
    np.random.seed(0)
    mixed = stage.on_whole_batch(stage._mix, {name: values.clone() for name, values in batch.items()})
    own, other = batch["picture"], batch["picture"].flip(0)
    assert ((mixed["picture"] == own) | (mixed["picture"] == other)).all()
    share = (mixed["picture"] == own).all(3).float().mean((1, 2))
    assert .02 < share[0] < .98 and torch.allclose(mixed["target"].diagonal(), share, atol=.01)
    assert torch.allclose(mixed["target"].sum(1), torch.ones(4))


def test_pictures_are_mixed_where_the_head_learns_and_nowhere_else(backbone):
    stage = LFDMStage(backbone, lfdm("run", mixup=1., cached_views=0), 4)
    batch = {"picture": torch.zeros(4, 32, 32, 3, dtype=torch.uint8), "label": torch.arange(4)}
    with torch.no_grad(), patch.object(stage, "_mix", wraps=stage._mix) as mix:
        stage(batch)
        assert mix.call_count == 1
        stage.head.eval()
        stage(batch)
        assert mix.call_count == 1


@pytest.mark.parametrize("wrong, told", [
    (dict(held_out=1.), r"held_out must be in \[0, 1\)"),
    (dict(ema=-.1), r"ema must be in \[0, 1\)"),
    (dict(best="mse"), "best 'mse' needs pictures that are held out"),
    (dict(mixup=.2, cached_views=2), "--cached-views must be 0, got 2"),
    (dict(trackers=("paper",)), "trackers are .*tensorboard.*; got 'paper'"),
    (dict(fused=True, optimizer="lamb"), "optimizer 'lamb': .*fused"),
])
def test_what_cannot_be_is_refused_by_name(wrong, told):
    with pytest.raises(ValueError, match=told):
        replace(LFDMConfig(), **wrong)


def test_a_tracker_that_is_not_installed_is_told():
    with patch("locloc.train.get_available_trackers", list), pytest.raises(ValueError, match="pip install wandb"):
        GEGConfig(trackers=("wandb",))


def test_an_odd_batch_cannot_be_mixed(scenes, masks, tmp_path):
    with pytest.raises(ValueError, match="must be even, got 5"):
        train(lfdm(tmp_path/"run", cutmix=1., cached_views=0, batch=5), scenes, masks, progress=False)


def test_pictures_masks_and_maps_stand_among_the_events(held):
    for head, columns in ("geg", 3), ("lfdm", 2):
        events = EventAccumulator(str(held[0]/head/"events"/"locloc"), {"images": 0})
        events.Reload()
        sheets = events.Images("pictures")
        assert [sheet.step for sheet in sheets] == {"geg": [2, 4, 6], "lfdm": [2]}[head]
        assert {(sheet.height, sheet.width) for sheet in sheets} == {(4*64, columns*64)}
        assert "held_out_loss" in events.Tags()["scalars"]


def test_a_head_without_maps_shows_none(scenes, tmp_path):
    run = lfdm(tmp_path/"run", head="linear", augment=False, layer_decay=None, epochs=1)
    assert isinstance(train(run, scenes, progress=False).lfdm, LinearHead)
    events = EventAccumulator(str(tmp_path/"run/events/locloc"))
    events.Reload()
    assert not events.Tags()["images"] and events.Tags()["scalars"]


@pytest.fixture(scope="module")
def untouched(scenes, masks, tmp_path_factory):
    run = tmp_path_factory.mktemp("plain")/"run"
    train(geg(run, epochs=1), scenes, masks, progress=False)
    return weights(run)


def test_a_compiled_training_learns_the_same(scenes, masks, tmp_path, untouched):
    with patch.object(nn.Module, "compile", partialmethod(nn.Module.compile, backend="aot_eager")):
        train(geg(tmp_path, epochs=1, compile=True), scenes, masks, progress=False)
    assert apart(untouched, weights(tmp_path)) < 1e-5


def test_a_fused_optimizer_learns_the_same_and_no_tracker_writes_nothing(scenes, masks, tmp_path, untouched):
    train(geg(tmp_path, epochs=1, fused=True, trackers=()), scenes, masks, progress=False)
    assert apart(untouched, weights(tmp_path)) < 1e-4
    assert not (tmp_path/"events").exists()


def test_a_run_from_before_an_option_was_there_goes_on(scenes, masks, tmp_path):
    config = geg(tmp_path, epochs=1)
    train(config, scenes, masks, progress=False)
    file = tmp_path/"config.json"
    old = json.loads(file.read_text())
    for name in "accumulate held_out best ema compile fused trackers".split():
        del old[name]
    file.write_text(json.dumps(old))
    assert train(config, scenes, masks, progress=False).geg is not None
    with pytest.raises(ValueError, match="ema"):
        train(replace(config, ema=.5), scenes, masks, progress=False)


def test_a_checkpoint_keeps_the_scale_of_the_loss(tmp_path, caplog):
    head = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(head.parameters(), .1)
    with caplog.at_level(logging.CRITICAL):
        scaler, other = (torch.amp.GradScaler("cpu", init_scale=scale) for scale in (8., 2.))
    scaler.scale(head(torch.ones(1, 2)).sum()).backward()
    scaler.step(optimizer)
    scaler.update()
    save_checkpoint(tmp_path, 3, head, optimizer, scaler=scaler)
    assert load_checkpoint(tmp_path, head, optimizer, scaler=other) == 3
    assert other.get_scale() == 8. and other.state_dict() == scaler.state_dict()
