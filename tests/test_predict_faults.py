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
        brightness = torch.from_numpy(inputs).permute(0, 3, 1, 2).float().mean(1, keepdim=True)/255  # (B, 1, H, W)
        return torch.nn.functional.adaptive_avg_pool2d(brightness, 112), torch.tensor([[2., 0.]]).repeat(len(inputs), 1)


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
    assert found.label == "white" and found.score == pytest.approx(.8808, abs=1e-3)
    assert found.score_map.shape == (112, 112) and found.score_map.max() == pytest.approx(1)
    assert (np.abs(found.box - box) <= np.array([width, height]*2)/112 + 1).all(), found.box
    assert (found.box >= 0).all() and (found.box <= [width, height]*2).all()


def save_16_bit(array, path): Image.fromarray(array[..., 0].astype(np.uint16)*257).save(path)
def save_cmyk(array, path): Image.fromarray(array).convert("CMYK").save(path, quality=95)
def save_turned(array, path):
    exif = Image.Exif()
    exif[0x112] = 6  # turn clockwise to see it upright
    Image.fromarray(np.rot90(array)).save(path, exif=exif, quality=95)
def save_with_hole(array, path):  # what is white shows the page through a hole
    alpha = np.where(array[..., :1] == 255, 0, 255).astype(np.uint8)
    Image.fromarray(np.concatenate([np.zeros_like(array), alpha], -1)).save(path)


@pytest.mark.parametrize("name, save, width, height, box", [
    ("large.jpg", lambda a, p: Image.fromarray(a).save(p), 4000, 3000, (1000, 600, 3000, 1500)),
    ("grey16.png", save_16_bit, 300, 200, (200, 20, 280, 100)),
    ("cmyk.jpg", save_cmyk, 300, 200, (20, 90, 120, 180)),
    ("hole.png", save_with_hole, 300, 200, (20, 90, 120, 180)),
    ("turned.jpg", save_turned, 200, 300, (20, 200, 120, 290)),
    ("two_wide.png", lambda a, p: Image.fromarray(a).save(p), 400, 2, (100, 0, 300, 2))])
def test_box_is_in_the_pictures_own_pixels(tmp_path, model, name, save, width, height, box):
    save(picture(width, height, box), tmp_path/name)
    check(model.predict(tmp_path/name), box, width, height)


def test_arrays_and_pil_pictures(model):
    array = picture(300, 200, (20, 90, 120, 180))
    for source in (array, array[..., 0], Image.fromarray(array)):
        check(model.predict(source), (20, 90, 120, 180), 300, 200)


def test_one_pixel(tmp_path, model):
    Image.new("RGB", (1, 1)).save(tmp_path/"one.png")
    found = model.predict(tmp_path/"one.png")
    assert found.boxes.shape == (0, 4) and found.words == "white 88 %, nothing found"


def make_fault(folder, name):
    path = folder/name
    if name == "empty.jpg":
        path.touch()
    if name == "text.jpg":
        path.write_text("no picture at all")
    if name == "folder":
        path.mkdir()
    if name == "half.jpg":
        Image.fromarray(np.random.default_rng(0).integers(0, 255, (200, 300, 3), dtype=np.uint8)).save(path)
        path.write_bytes(path.read_bytes()[:9000])
    return path


@pytest.mark.parametrize("name", ["missing.jpg", "empty.jpg", "text.jpg", "folder", "half.jpg"])
def test_one_clear_line(tmp_path, model, name):
    with pytest.raises(PictureError) as error:
        model.predict(make_fault(tmp_path, name))
    assert name in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("array", [np.zeros((4, 4, 3), np.float32), np.zeros((4, 4, 2), np.uint8), np.zeros((0, 4, 3), np.uint8)])
def test_arrays_that_are_no_pictures(model, array):
    with pytest.raises(PictureError):
        model.predict(array)
