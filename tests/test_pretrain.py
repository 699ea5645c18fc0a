"Pretraining of locloc-tiny: views, losses, resuming"
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from locloc.backbone import load_backbone
from locloc.data import load_dataset
from locloc.pretrain import PretrainConfig, PretrainModel, attention_loss, main, pretrain, pretrain_loss, random_view


def test_view_moves_picture_and_target_together():
    y, x = np.mgrid[:224, :224]
    mask = (((y - 90)**2 + (x - 130)**2) < 60**2).astype(np.uint8) * 255
    picture = np.repeat(mask[..., None], 3, 2)
    for seed in range(20):
        seen, target = random_view(picture, mask, 128, np.random.default_rng(seed))
        bright = seen[..., 0].reshape(16, 8, 16, 8).mean((1, 3))
        assert target.shape == (16, 16) and np.corrcoef(bright.ravel(), target.ravel())[0, 1] > .98


def test_same_seed_same_view():
    picture = np.random.default_rng(0).integers(0, 256, (224, 224, 3), np.uint8)
    views = [random_view(picture, picture[..., 0], 128, np.random.default_rng(s)) for s in (1, 1, 2)]
    assert np.array_equal(views[0][0], views[1][0]) and not np.array_equal(views[0][0], views[2][0])


def test_attention_loss_has_its_least_at_the_mask():
    target = torch.rand(3, 4, 4)
    perfect = (target / target.sum((1, 2), keepdim=True))[:, None] / 2 # half of the attention is on CLS
    assert attention_loss(perfect, target, torch.ones(3)).abs() < 1e-5
    assert attention_loss(perfect.flip(0), target, torch.ones(3)) > .05
    assert attention_loss(perfect.flip(0), target, torch.zeros(3)) == 0


def test_untrusted_masks_and_missing_labels_do_not_count():
    torch.manual_seed(0)
    outputs = torch.rand(2, 4, 3, 3), torch.randn(2, 6, 6), torch.randn(2, 5)
    groups, labels = torch.tensor([0, 0, 0, 1, 1]), torch.tensor([2, -1])
    loss = lambda target, logits: torch.stack(pretrain_loss((*outputs[:2], logits), target, torch.tensor([0., 1.]), labels, groups))
    target, other = torch.rand(2, 6, 6), torch.rand(2, 6, 6)
    other[1] = target[1]
    logits = outputs[2].clone()
    logits[0, 3:] += 9 # classes of another data set
    logits[1] += torch.randn(5)
    torch.testing.assert_close(loss(target, outputs[2]), loss(other, logits))


def test_quarters_are_in_their_places():
    model = PretrainModel(2).eval()
    seen = {}
    model.quarters.register_forward_hook(lambda module, args, out: seen.setdefault("tokens", out))
    tokens_to_map = model(torch.randn(1, 3, 32, 48))[1]
    token = seen["tokens"][0, 3 * 1 + 2] # row 1, column 2 of a 2×3 grid
    torch.testing.assert_close(tokens_to_map[0, 2:4, 4:6].flatten(), token)


def test_stopped_run_ends_like_an_undisturbed_one(tmp_path):
    scenes = [load_dataset("scenes", count=8)]
    config = lambda name: PretrainConfig(out=tmp_path/name, epochs=2, small_epochs=2, batch_size=4, workers=0)
    whole = load_file(pretrain(config("whole"), scenes))
    pretrain(config("parts"), scenes, stop_after=1)
    parts = load_file(pretrain(config("parts"), scenes))
    assert all(torch.equal(whole[k], parts[k]) for k in whole)
    assert load_backbone("locloc-tiny", weights=tmp_path/"parts"/"locloc-tiny.safetensors").embed_dim == 192
    with pytest.raises(ValueError, match="seed 0 there, 1 here"):
        pretrain(PretrainConfig(out=tmp_path/"whole", epochs=2, small_epochs=2, batch_size=4, workers=0, seed=1), scenes)


def test_help(capsys):
    with pytest.raises(SystemExit): main(["--help"])
    assert "moving average" in capsys.readouterr().out
