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
    rng, state = np.random.RandomState(spec["weight_seed"]), {}
    for key, shape in spec["state_dict"].items():
        if key.endswith("num_batches_tracked"):
            state[key] = torch.tensor(0)
            continue
        w = (rng.standard_normal(shape) * .05).astype(np.float32)
        if key.endswith("running_var"):
            w = 1 + abs(w)
        elif len(shape) == 1 and key.endswith(".weight"):
            w = 1 + w
        state[key] = torch.from_numpy(w)
    x = np.random.RandomState(spec["input_seed"]).standard_normal(spec["input_shape"]).astype(np.float32)
    out = np.load(golden / "reference_heads_a.npz")[{"geg": "geg_map", "lfdm": "lfdm_logits"}[kind]]
    return state, torch.from_numpy(x), torch.from_numpy(out), spec["parameters"]
