"GEG: agreement with the authors' generator; any width, grid and batch; the loss"
import pytest
import torch
from reference_heads import reference_head

from locloc.geg import GEG, geg_loss


@pytest.mark.parametrize("prefix", ["", "module."])
def test_reference(prefix):
    state, patches, wanted, parameters = reference_head("geg")
    frozen_vit = {"blocks.0.norm1.weight": torch.zeros(3)} # beside it in the same file
    geg = GEG.from_reference({prefix + key: value for key, value in state.items()} | frozen_vit)
    assert (geg.embed_dim, geg.unet_dim, geg.width, geg.layout) == (384, 200, 256, "released_code")
    assert sum(p.numel() for p in geg.parameters()) == parameters == 4_052_738
    with torch.no_grad():
        torch.testing.assert_close(geg(patches), wanted, rtol=1e-4, atol=0)
        geg.unet.layout = "paper"
        assert (geg(patches) - wanted).abs().max() > 1e-3 # the layouts are not the same function


def test_reference_needs_all_keys():
    state = reference_head("geg")[0]
    with pytest.raises(ValueError, match="authors' generator"):
        GEG.from_reference({"conv.weight": torch.zeros(1)})
    del state["bn2.bias"]
    with pytest.raises(ValueError, match="1 missing .deconvs.4.bias"):
        GEG.from_reference(state)


@pytest.mark.parametrize("layout", ["paper", "released_code"])
@pytest.mark.parametrize("grid", [(14, 14), (3, 5), (1, 1), (2, 1), (9, 16)])
def test_any_grid(layout, grid):
    geg = GEG(48, unet_dim=7, width=16, layout=layout)
    out = geg(torch.randn(2, 48, *grid))
    assert out.shape == (2, 1, 8 * grid[0], 8 * grid[1]) and 0 <= out.min() and out.max() <= 1
    geg_loss(out, torch.ones(2, 1, 16 * grid[0], 16 * grid[1], dtype=bool)).backward()
    assert geg.unet.down[0][0].weight.grad.abs().sum() > 0


def test_loss():
    activation, mask = torch.rand(3, 1, 16, 24), torch.rand(3, 1, 32, 48) > .5
    target = mask.float().reshape(3, 1, 16, 2, 24, 2).mean((3, 5)) # squares of 2 x 2 px
    wanted = ((activation - target) ** 2).mean()
    torch.testing.assert_close(geg_loss(activation, mask), wanted)
    torch.testing.assert_close(geg_loss(activation, mask, weight=.5), wanted / 2)
    with pytest.raises(ValueError, match="wanted masks"):
        geg_loss(activation, mask[:, 0])


def test_bad_input():
    with pytest.raises(ValueError, match="layout"):
        GEG(48, layout="paprr")
    with pytest.raises(ValueError, match=r"\(B, 48, h, w\)"):
        GEG(48, 8, 8)(torch.zeros(1, 64, 14, 14))
