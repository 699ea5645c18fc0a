"The authors' heads as recorded in golden/: state dict, input and output"
import json
from pathlib import Path

import numpy as np
import torch

golden = Path(__file__).parent / "golden"


def reference_head(
    kind # "geg" or "lfdm"
): # state dict, input, output, number of parameters
    "Weights and input are drawn again from their seeds, see golden/README.md"
    spec = json.loads((golden / "reference_heads_a.json").read_text())[kind]
    rng = np.random.RandomState(spec["weight_seed"])
    state = {key: drawn(key, shape, rng) for key, shape in spec["state_dict"].items()}
    x = np.random.RandomState(spec["input_seed"]).standard_normal(spec["input_shape"]).astype(np.float32)
    name = {"geg": "geg_map", "lfdm": "lfdm_logits"}[kind]
    out = np.load(golden / "reference_heads_a.npz")[name]
    return state, torch.from_numpy(x), torch.from_numpy(out), spec["parameters"]


def drawn(key, shape, rng): # one tensor of the state dict; scales and variances are near 1, the rest near 0
    if key.endswith("num_batches_tracked"):
        return torch.tensor(0)
    values = (rng.standard_normal(shape) * .05).astype(np.float32)
    if key.endswith("running_var"):
        values = 1 + abs(values)
    elif len(shape) == 1 and key.endswith(".weight"):
        values = 1 + values
    return torch.from_numpy(values)
