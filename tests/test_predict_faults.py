"`LocLoc.predict` on pictures as they come: the box is right in the picture's own pixels, or one clear line."
import numpy as np
import pytest
import torch
from PIL import Image

from locloc.backbone import load_backbone
from locloc.data import PictureError
from locloc.geg import GEG
from locloc.lfdm import LinearHead
from locloc.model import LocLoc


class Bright(LocLoc):
    "Finds what is bright and calls it white"
    def heads(self, inputs):
        brightness = torch.from_numpy(inputs).float().mean(-1)[:, None] / 255 # (B, H, W, 3) -> (B, 1, H, W)
        logits = torch.tensor([[2., 0.]]).repeat(len(inputs), 1)
        return torch.nn.functional.adaptive_avg_pool2d(brightness, 112), logits


@pytest.fixture(scope="module")
def model():
    vit = load_backbone("test_vit", weights=False)
    return Bright(vit, GEG(vit.embed_dim, 8, 8), LinearHead.from_backbone(vit, 2), ("white", "black"))


def picture(width, height, box, ground=40):
    "A white box on dark ground, (height, width, 3) uint8"
    array = np.full((height, width, 3), ground, np.uint8)
    x0, y0, x1, y1 = box
    array[y0:y1, x0:x1] = 255
    return array


def check(found, box, width, height):
    cell = np.array([width, height] * 2) / 112
    assert found.label == "white" and found.score == pytest.approx(.8808, abs=1e-3)
    assert found.score_map.shape == (112, 112) and found.score_map.max() == pytest.approx(1)
    assert (np.abs(found.box - box) <= cell + 1).all(), found.box
    assert (found.box >= 0).all() and (found.box <= [width, height] * 2).all()


def save_as_it_is(array, path):
    Image.fromarray(array).save(path)


def save_16_bit(array, path):
    Image.fromarray(array[..., 0].astype(np.uint16) * 257).save(path)


def save_cmyk(array, path):
    Image.fromarray(array).convert("CMYK").save(path, quality=95)


def save_turned(array, path):
    exif = Image.Exif()
    exif[0x112] = 6 # turn clockwise to see it upright
    Image.fromarray(np.rot90(array)).save(path, exif=exif, quality=95)


def save_with_hole(array, path):
    "What is white shows the page through a hole"
    alpha = np.where(array[..., :1] == 255, 0, 255).astype(np.uint8)
    Image.fromarray(np.concatenate([np.zeros_like(array), alpha], -1)).save(path)


@pytest.mark.parametrize("name, save, width, height, box", [
    ("large.jpg", save_as_it_is, 4000, 3000, (1000, 600, 3000, 1500)),
    ("grey16.png", save_16_bit, 300, 200, (200, 20, 280, 100)),
    ("cmyk.jpg", save_cmyk, 300, 200, (20, 90, 120, 180)),
    ("hole.png", save_with_hole, 300, 200, (20, 90, 120, 180)),
    ("turned.jpg", save_turned, 200, 300, (20, 200, 120, 290)),
    ("two_high.png", save_as_it_is, 400, 2, (100, 0, 300, 2)),
])
def test_box_is_in_the_pictures_own_pixels(tmp_path, model, name, save, width, height, box):
    save(picture(width, height, box), tmp_path/name)
    check(model.predict(tmp_path/name), box, width, height)


def first_channel(array):
    return array[..., 0]


@pytest.mark.parametrize("given", [np.asarray, first_channel, Image.fromarray])
def test_arrays_and_pil_pictures(model, given):
    box = 20, 90, 120, 180
    check(model.predict(given(picture(300, 200, box))), box, 300, 200)


def test_one_pixel(tmp_path, model):
    Image.new("RGB", (1, 1)).save(tmp_path/"one.png")
    found = model.predict(tmp_path/"one.png")
    assert found.boxes.shape == (0, 4) and found.words == "white 88 %, nothing found"


def leave_out(path):
    assert not path.exists()


def make_empty(path):
    path.touch()


def write_text(path):
    path.write_text("no picture at all")


def make_folder(path):
    path.mkdir()


def write_half(path):
    noise = np.random.default_rng(0).integers(0, 255, (200, 300, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[:9000])


@pytest.mark.parametrize("make", [leave_out, make_empty, write_text, make_folder, write_half])
def test_one_clear_line(tmp_path, model, make):
    path = tmp_path/"fault.jpg"
    make(path)
    with pytest.raises(PictureError) as error:
        model.predict(path)
    assert "fault.jpg" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("array", [
    np.zeros((4, 4, 3), np.float32), np.zeros((4, 4, 2), np.uint8), np.zeros((0, 4, 3), np.uint8)])
def test_arrays_that_are_no_pictures(model, array):
    with pytest.raises(PictureError):
        model.predict(array)
