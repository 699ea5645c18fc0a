"Pretraining of locloc-tiny: views, losses, resuming"
import csv

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file

import locloc.pretrain
from locloc.backbone import load_backbone
from locloc.data import get_protocol, load_dataset
from locloc.pretrain import (
    PretrainConfig,
    PretrainModel,
    attention_loss,
    held_out_pictures,
    main,
    pretrain,
    pretrain_data,
    pretrain_loss,
    random_views,
)
from locloc.stores import MaskStore


def views(picture, target, size, seed):
    return random_views(picture, target, size, torch.Generator().manual_seed(seed))


def short_run(out, **options):
    "Settings of a run of seconds"
    defaults = dict(epochs=2, small_epochs=2, batch_size=4, workers=0)
    return PretrainConfig(out=out, **(defaults | options))


def held_out_column(out):
    with (out/"log.csv").open() as file:
        return [row["held_out"] for row in csv.DictReader(file)]


def assert_same_weights(one, other):
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_views_move_picture_and_target_together():
    y, x = np.mgrid[:224, :224]
    mask = torch.from_numpy((((y - 90)**2 + (x - 130)**2) < 60**2).astype(np.uint8) * 255)
    target = F.avg_pool2d(mask[None, None].float(), 4).round().byte()
    seen, targets = views(mask.expand(20, 3, -1, -1), target.expand(20, -1, -1, -1), 128, 0)
    assert seen.shape == (20, 3, 128, 128) and targets.shape == (20, 1, 16, 16)
    for bright, share in zip(F.avg_pool2d(seen[:, :1], 8), targets, strict=True):
        assert np.corrcoef(bright.ravel(), share.ravel())[0, 1] > .97
    assert len({round(share.mean().item(), 4) for share in targets}) > 15 # every picture has a warp of its own


def test_a_view_of_the_whole_picture_is_the_picture(monkeypatch):
    picture = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    target = torch.randint(0, 256, (2, 1, 8, 8), dtype=torch.uint8)
    monkeypatch.setattr(locloc.pretrain, "_random_moves", lambda n, *_: torch.eye(2, 3).expand(n, -1, -1))
    monkeypatch.setattr(locloc.pretrain, "_recolour", lambda x, generator: x)
    seen, share = views(picture, target, 64, 0)
    torch.testing.assert_close(seen, picture / 255, atol=1e-4, rtol=0)
    torch.testing.assert_close(share, target / 255, atol=1e-4, rtol=0)


@pytest.mark.parametrize("min_side", [.45, .75])
def test_views_keep_min_side(min_side):
    moves = locloc.pretrain._random_moves(4000, torch.Generator().manual_seed(0), min_side)
    kept = torch.linalg.det(moves[:, :, :2]).abs() # share of the picture's area
    assert min_side**2 * .99 < kept.min() < min_side**2 * 1.1
    assert kept.max() <= 1 + 1e-5


@pytest.mark.parametrize("min_side", [0, 1.1, float("nan")])
def test_config_refuses_min_side(min_side):
    with pytest.raises(ValueError, match="min_side"):
        PretrainConfig(min_side=min_side)


def test_same_seed_same_views():
    picture = torch.randint(0, 256, (1, 3, 224, 224), dtype=torch.uint8)
    one, again, other = (views(picture, picture[:, :1, ::4, ::4], 128, seed)[0] for seed in (1, 1, 2))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


def test_held_out_pictures_are_marked_and_keep_their_boxes(tmp_path):
    scenes = load_dataset("scenes", count=16)
    data = pretrain_data(short_run(tmp_path, held_out=.4), [scenes])
    kept = (~data.teaches).nonzero()[:, 0].tolist()
    assert 2 < len(kept) < 12
    assert [i for i, boxes in enumerate(data.boxes) if boxes is not None] == kept
    protocol = get_protocol("wsoleval")
    for i in kept:
        boxes = protocol.boxes(scenes[i].boxes, (224, 224), protocol.inclusive)
        assert np.array_equal(data.boxes[i], boxes)


def test_held_out_pictures_teach_nothing(tmp_path):
    config = short_run(tmp_path, held_out=.4)
    scenes = load_dataset("scenes", count=16)
    weights = load_file(pretrain(config, [scenes]))
    assert all(0 <= float(share) <= 100 for share in held_out_column(tmp_path))
    (tmp_path/"checkpoint.pt").unlink()
    store = MaskStore(tmp_path/"masks"/"0-scenes-0")
    kept = held_out_pictures([scene.boxes for scene in scenes], config.held_out)
    assert kept.any()
    for i in kept.nonzero()[0]:
        store.write(scenes[i].id, ~store.read(scenes[i].id))
    assert_same_weights(weights, load_file(pretrain(config, [scenes]))) # whatever their masks say


def test_pictures_without_boxes_teach(tmp_path):
    folder = tmp_path/"data"/"train"/"thing"
    folder.mkdir(parents=True)
    for i, scene in enumerate(load_dataset("scenes", count=4)):
        Image.fromarray(scene.picture).save(folder/f"{i}.png")
    data = pretrain_data(short_run(tmp_path/"out", held_out=.9), [load_dataset(tmp_path/"data")])
    assert data.teaches.all()
    assert data.boxes == [None] * 4


def test_checkpoints_now_and_then(tmp_path):
    config = short_run(tmp_path, epochs=3, small_epochs=3, save_every=2)
    pretrain(config, [load_dataset("scenes", count=8)], stop_after=1)
    assert (tmp_path/"checkpoint.pt").is_file() # the last epoch of a call always leaves one
    pretrain(config, [load_dataset("scenes", count=8)])
    assert held_out_column(tmp_path) == ["nan"] * 3


def test_attention_loss_has_its_least_at_the_mask():
    target = torch.rand(3, 4, 4)
    perfect = (target / target.sum((1, 2), keepdim=True))[:, None] / 2 # half of the attention is on CLS
    assert attention_loss(perfect, target, torch.ones(3)).abs() < 1e-5
    assert attention_loss(perfect.flip(0), target, torch.ones(3)) > .05
    assert attention_loss(perfect.flip(0), target, torch.zeros(3)) == 0


def test_untrusted_masks_and_missing_labels_do_not_count():
    torch.manual_seed(0)
    attention, quarters, logits = torch.rand(2, 4, 3, 3), torch.randn(2, 6, 6), torch.randn(2, 5)
    groups, labels = torch.tensor([0, 0, 0, 1, 1]), torch.tensor([2, -1])

    def loss(target, logits):
        outputs = attention, quarters, logits
        return torch.stack(pretrain_loss(outputs, target, torch.tensor([0., 1.]), labels, groups))

    target, other = torch.rand(2, 6, 6), torch.rand(2, 6, 6)
    other[1] = target[1]
    changed = logits.clone()
    changed[0, 3:] += 9 # classes of another data set
    changed[1] += torch.randn(5)
    torch.testing.assert_close(loss(target, logits), loss(other, changed))


def test_quarters_are_in_their_places():
    model = PretrainModel(2).eval()
    seen = {}
    model.quarters.register_forward_hook(lambda module, args, out: seen.setdefault("tokens", out))
    tokens_to_map = model(torch.randn(1, 3, 32, 48))[1]
    token = seen["tokens"][0, 3 * 1 + 2] # row 1, column 2 of a 2×3 grid
    torch.testing.assert_close(tokens_to_map[0, 2:4, 4:6].flatten(), token)


def test_stopped_run_ends_like_an_undisturbed_one(tmp_path):
    scenes = [load_dataset("scenes", count=8)]
    whole = load_file(pretrain(short_run(tmp_path/"whole"), scenes))
    pretrain(short_run(tmp_path/"parts"), scenes, stop_after=1)
    parts = load_file(pretrain(short_run(tmp_path/"parts"), scenes))
    assert_same_weights(whole, parts)
    assert load_backbone("locloc-tiny", weights=tmp_path/"parts"/"locloc-tiny.safetensors").embed_dim == 192
    with pytest.raises(ValueError, match="seed is 0 there and 1 here"):
        pretrain(short_run(tmp_path/"whole", seed=1), scenes)


def test_help(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "moving average" in capsys.readouterr().out


def test_stop_in_one_line(monkeypatch):
    def stop(config): raise KeyboardInterrupt
    monkeypatch.setattr(locloc.pretrain, "pretrain", stop)
    with pytest.raises(SystemExit, match="the same command goes on"):
        main([])


def test_missing_data_is_named_in_one_line(tmp_path):
    with pytest.raises(SystemExit, match="nowhere"):
        main(["--data", str(tmp_path/"nowhere"), "--out", str(tmp_path/"out")])


def test_something_must_be_left_to_learn_from(tmp_path):
    with pytest.raises(ValueError, match="no picture to learn from"):
        pretrain_data(PretrainConfig(out=tmp_path, workers=0, held_out=1.), [load_dataset("scenes", count=4)])
