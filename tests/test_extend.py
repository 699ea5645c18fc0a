"Something of one's own from outside the package, in a few lines; every command, table and figure knows it then."
from dataclasses import replace

import cv2
import numpy as np
import pytest

from locloc.attention import SOURCES, Source, register_source
from locloc.boxes import map_boxes
from locloc.cli import main
from locloc.data import PROTOCOLS, get_protocol, register_protocol
from locloc.localization import Localization
from locloc.localizers import LOCALIZERS, localizer_names, register_localizer


@pytest.fixture(autouse=True)
def registries(monkeypatch):
    "What a test registers is gone after it"
    for registry in (SOURCES, LOCALIZERS, PROTOCOLS):
        for name in registry:
            monkeypatch.setitem(registry, name, registry[name])
    before = [{**registry} for registry in (SOURCES, LOCALIZERS, PROTOCOLS)]
    yield
    for registry, entries in zip((SOURCES, LOCALIZERS, PROTOCOLS), before, strict=True):
        registry.clear()
        registry.update(entries)


def report(tmp_path, *args):
    main(["evaluate", "--data", "scenes", "--count", "3", "--out", str(tmp_path), *args])
    return (tmp_path/"report.md").read_text(encoding="utf-8")


def test_an_attention_source(tmp_path):
    class Bright:
        name, fingerprint = "bright", dict(name="bright", version=1)

        def __call__(self, pictures):
            return np.stack([cv2.resize(p.mean(-1)/255, (28, 28)) for p in pictures]).astype(np.float32)

    register_source(Source("bright", Bright, params=dict(delta0=.2, delta1=.8), ppd=.55))

    said = report(tmp_path, "--method", "ppd:bright", "grabcut:bright", "attention:bright+lowlevel")
    assert "attention ≥ 0.55" in said and "δ0 0.2, δ1 0.8" in said and "attention:bright+lowlevel" in said
    main(f"masks --data scenes --count 2 --attention bright --workers 0 --out {tmp_path}/masks".split())
    assert len(list((tmp_path/"masks").rglob("*.png"))) == 2


def test_a_baseline(tmp_path):
    class Corner:
        "The upper left quarter"
        name, fingerprint, class_specific = "corner", dict(name="corner"), False

        def __call__(self, pictures, class_ids=None):
            return [Localization([[0, 0, p.shape[1]/2, p.shape[0]/2]]) for p in pictures]

    register_localizer("corner", Corner)

    assert "corner" in report(tmp_path, "--method", "corner", "centred") and "corner" in localizer_names()


def test_a_localizer_with_classes(tmp_path):
    class Guess:
        "A map and a class"
        name, fingerprint, class_specific, threshold = "guess", dict(name="guess", version=1), False, .6

        def __call__(self, pictures, class_ids=None):
            maps = [np.abs(p.mean(-1) - p.mean())/255 for p in pictures]
            fish = dict(label="a fish", class_id="fish", score=1., top=(("a fish", 1.),), top_ids=("fish",))
            return [Localization(map_boxes(m, self.threshold), score_map=m, **fish) for m in maps]

    register_localizer("guess", Guess)

    said = report(tmp_path, "--method", "guess", "--held-out", "train")
    assert "Top-1 Loc" in said and "Top-1 Cls" in said and "0.6 of maximum" in said and "held_out" in said


def test_a_protocol(tmp_path):
    register_protocol(replace(get_protocol("tscam"), name="mine", resize=112, threshold=.4, iou=.3))

    said = report(tmp_path, "--protocol", "mine", "--method", "attention:lowlevel")
    assert "squashed to 112×112" in said and "IoU ≥ 0.3" in said and "0.4 of maximum" in said
