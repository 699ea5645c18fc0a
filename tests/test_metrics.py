"MaxBoxAcc against wsolevaluation's recorded figures; counters that survive several processes."
import json
import pathlib
import socket

import numpy as np
import pytest
import torch.distributed as dist
import torch.multiprocessing as mp

from locloc.metrics import LocalizationAccuracy, MaxBoxAcc, MaxBoxAccV2

golden = pathlib.Path(__file__).parent / "golden"
data = np.load(golden / "wsol_metrics_a.npz")
said = json.loads((golden / "wsol_metrics_a.json").read_text())


def run(metric):
    for score_map, boxes in zip(data["maps"], data["gt_boxes"]):
        metric.update(score_map, boxes[(boxes >= 0).all(1)])
    return metric


def test_max_box_acc_equals_wsolevaluation():
    metric = run(MaxBoxAcc())
    assert np.array_equal(metric.curve()[0], data["box_acc_iou50_single"])
    assert metric.compute()["MaxBoxAcc"] == said["max_box_acc"] == 90


def test_max_box_acc_v2_equals_wsolevaluation():
    metric = run(MaxBoxAccV2())
    assert np.array_equal(metric.curve(), [data[f"box_acc_iou{n}_multi"] for n in (30, 50, 70)])
    result = metric.compute()
    assert list(result["per_iou"].values()) == said["max_box_acc_v2"]
    assert result["MaxBoxAcc"] == pytest.approx(said["max_box_acc_v2_mean"], abs=1e-12)


def test_the_convention_matters():
    assert not np.array_equal(run(MaxBoxAcc(inclusive=False)).curve()[0], data["box_acc_iou50_single"])


@pytest.mark.parametrize("scores, label", [([1, np.nan], 0), ([[1, 2]], 0), ([1, 2], 2), ([1, 2], -1)])
def test_bad_scores_are_refused(scores, label):
    with pytest.raises(ValueError):
        LocalizationAccuracy().update(scores, label)


def share(rank, world, port, results):
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=world)
    loc, box = LocalizationAccuracy(), MaxBoxAcc(thresholds=[.5])
    for i in range(rank, 5, world):
        loc.update(np.eye(3)[i % 3], label=0, iou=.2*i)
        box.update(np.eye(8), [[0, 0, 7 if i < 3 else 2, 7 if i < 3 else 2]])
    loc.compute()  # asked twice: the counters stay local
    results[rank] = loc.compute(), box.compute()
    dist.destroy_process_group()


def test_two_processes_agree_with_one():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    with mp.Manager() as manager:
        results = manager.dict()
        mp.spawn(share, args=(2, port, results), nprocs=2)
        assert results[0] == results[1]
        loc, box = results[0]
    assert loc == {"Top-1 Loc": 20, "Top-5 Loc": 40, "GT-known Loc": 40, "Top-1 Cls": 40, "Top-5 Cls": 100}
    assert box["MaxBoxAcc"] == 60
