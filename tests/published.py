"Weights of a ViT as others publish them: timm's state dict in, what their file holds out"
import re
from argparse import Namespace

import torch

HEAD = {"head.weight": torch.ones(10, 48), "head.bias": torch.ones(10)}


def renamed(state, names):
    "Each key by the first regular expression that is found in it"
    def theirs(key):
        found = next((ours for ours in names if re.search(ours, key)), None)
        return re.sub(found, names[found], key) if found else key
    return {theirs(key): value.clone() for key, value in state.items()}


def prefixed(prefix, state, **more):
    return {prefix + key: value for key, value in state.items()} | more


def other(state):
    "As a student is beside its teacher: the same names, other values"
    return {key: value + 1 for key, value in state.items()}


def bare(state):
    return state


def with_head(state):
    return state | HEAD


def deit(state):
    return {"model": state | HEAD}


def deit_distilled(state):
    return {"model": state | HEAD | {f"head_dist.{key[5:]}": value for key, value in HEAD.items()}}


def deit3(state):
    return {"model": renamed(state, {r"ls([12])\.gamma": r"gamma_\1"}) | HEAD}


def dino_training(state):
    "What main_dino.py saves: the student is wrapped by DDP, the teacher is not"
    head = {"head.mlp.0.weight": torch.ones(3, 48), "head.last_layer.weight_g": torch.ones(3, 1)}
    return {
        "student": prefixed("module.", prefixed("backbone.", other(state)) | head),
        "teacher": prefixed("backbone.", state) | head,
        "optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": [{"lr": .1}]},
        "epoch": 100, "args": Namespace(arch="vit_small"), "dino_loss": {"center": torch.ones(1, 3)},
        "fp16_scaler": {"scale": 65536.}}


def ibot_training(state):
    student = prefixed("module.backbone.", other(state)) | {"module.backbone.masked_embed": torch.ones(1, 48)}
    return {"student": student, "teacher": prefixed("backbone.", state, **{"head.mlp.0.weight": torch.ones(3, 48)}),
            "ibot_loss": {"center": torch.ones(1, 3), "center2": torch.ones(1, 1, 3)}, "epoch": 800}


def ibot_student(state):
    return {"student": prefixed("module.backbone.", state | {"masked_embed": torch.ones(1, 48)})}


def in_state_dict(state):
    return {"state_dict": state}


def mae(state):
    return {"model": state | {
        "mask_token": torch.ones(1, 1, 32), "decoder_pos_embed": torch.ones(1, 197, 32),
        "decoder_embed.weight": torch.ones(32, 48), "decoder_blocks.0.norm1.weight": torch.ones(32),
        "decoder_norm.weight": torch.ones(32), "decoder_pred.weight": torch.ones(768, 32)}}


def moco3(state):
    head = {"head.0.weight": torch.ones(3, 48)}
    return {"arch": "vit_small", "epoch": 300, "optimizer": {"state": {}}, "state_dict":
            prefixed("module.base_encoder.", state | head)
            | prefixed("module.momentum_encoder.", other(state) | head) | {"module.predictor.0.weight": torch.ones(3)}}


def dinov2(state):
    "One position for CLS, none for registers; timm adds the first to its CLS token where there are registers"
    theirs = renamed(state, {"^reg_token$": "register_tokens"}) | {"mask_token": torch.zeros(1, 48)}
    if "register_tokens" in theirs:
        cls_position = torch.ones(1, 1, 48)
        theirs["cls_token"] = theirs["cls_token"] - cls_position
        theirs["pos_embed"] = torch.cat([cls_position, theirs["pos_embed"]], 1)
    return theirs


def dinov2_training(state):
    "Blocks are numbered CHUNK.BLOCK"
    chunked = {re.sub(r"^blocks\.(\d+)", r"blocks.0.\1", key): value for key, value in dinov2(state).items()}
    return {"teacher": prefixed("backbone.", chunked) | {"dino_head.mlp.0.weight": torch.ones(3, 48),
                                                         "ibot_head.mlp.0.weight": torch.ones(3, 48)}}


def dinov3(state):
    "Every block has a bias and a mask of it; that of the keys is zero"
    theirs = renamed(state, {"^reg_token$": "storage_tokens", r"gamma_([12])": r"ls\1.gamma"})
    for key in [key for key in theirs if key.endswith("attn.qkv.weight")]:
        attn, zeros = key.removesuffix("qkv.weight"), torch.zeros(48)
        queries, values = (theirs.pop(f"{attn}{name}_bias", zeros) for name in "qv")
        theirs[f"{attn}qkv.bias"] = torch.cat([queries, zeros, values])
        theirs[f"{attn}qkv.bias_mask"] = torch.cat([zeros + 1, zeros, zeros + 1])
    return theirs | {"mask_token": torch.zeros(1, 48), "rope_embed.periods": torch.ones(4)}


def dinov3_training(state):
    return {"teacher": prefixed("backbone.", dinov3(state)) | {"dino_head.mlp.0.weight": torch.ones(3, 48)}}


def timm_training(state):
    "What timm's CheckpointSaver writes"
    return {"epoch": 3, "arch": "vit_small_patch16_224", "state_dict": other(state) | HEAD, "version": 2,
            "optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}}, "args": Namespace(lr=.1),
            "state_dict_ema": state | HEAD, "metric": 81.2}


def lightning(state):
    return {"state_dict": prefixed("model._orig_mod.", state), "pytorch-lightning_version": "2", "epoch": 3,
            "hyper_parameters": {"lr": .1}}


def distributed(state):
    return {"state_dict": prefixed("module.", state)}


def compiled(state):
    return prefixed("_orig_mod.", state)


def open_clip(state):
    "The picture half of CLIP, beside the half for texts"
    theirs = renamed(state, {
        r"patch_embed\.proj": "visual.conv1", "pos_embed": "visual.positional_embedding",
        "cls_token": "visual.class_embedding", "^norm_pre": "visual.ln_pre", r"^norm\.": "visual.ln_post.",
        r"^blocks\.(.*)norm": r"visual.transformer.resblocks.\1ln_",
        r"^blocks\.(.*)qkv\.": r"visual.transformer.resblocks.\1in_proj_",
        r"^blocks\.(.*attn\.)proj": r"visual.transformer.resblocks.\1out_proj",
        r"^blocks\.(.*)fc1": r"visual.transformer.resblocks.\1c_fc",
        r"^blocks\.(.*)fc2": r"visual.transformer.resblocks.\1c_proj"})
    for name in ("visual.class_embedding", "visual.positional_embedding"):
        theirs[name] = theirs[name].squeeze(0).squeeze(0) # (1, 1, D) -> (D,); (1, 1+N, D) -> (1+N, D)
    return theirs | {"visual.proj": torch.ones(48, 10), "logit_scale": torch.ones(()),
                     "token_embedding.weight": torch.ones(3, 8), "transformer.resblocks.0.ln_1.weight": torch.ones(8)}


BLOCK, LAYER = r"^blocks\.(\d+)\.", r"encoder.layer.\1."
EMBEDDINGS = {
    "pos_embed": "embeddings.position_embeddings", "cls_token": "embeddings.cls_token",
    "mask_token": "embeddings.mask_token", "dist_token": "embeddings.distillation_token",
    "register_tokens": "embeddings.register_tokens", r"^norm\.": "layernorm."}
PATCHES = {r"patch_embed\.proj": "embeddings.patch_embeddings.projection"}
ATTENTION = {BLOCK + r"attn\.qkv": LAYER + "attention.attention.query",
             BLOCK + r"attn\.proj": LAYER + "attention.output.dense"}


def apart(state):
    "Queries, keys and values of their own where they were one"
    for key in [key for key in state if ".query." in key]:
        for part, value in zip(("query", "key", "value"), state.pop(key).chunk(3), strict=True):
            state[key.replace(".query.", f".{part}.")] = value.clone()
    return state


def transformers_vit(state):
    return apart(renamed(state, EMBEDDINGS | PATCHES | ATTENTION | {
        BLOCK + "norm1": LAYER + "layernorm_before", BLOCK + "norm2": LAYER + "layernorm_after",
        BLOCK + r"mlp\.fc1": LAYER + "intermediate.dense", BLOCK + r"mlp\.fc2": LAYER + "output.dense"}))


def transformers_vit_inside(state):
    return prefixed("vit.", transformers_vit(state), **{"classifier.weight": torch.ones(10, 48)})


def transformers_dinov2(state):
    return apart(renamed(dinov2(state), EMBEDDINGS | PATCHES | ATTENTION | {
        BLOCK + r"ls([12])\.gamma": LAYER + r"layer_scale\2.lambda1", BLOCK: LAYER}))


def transformers_dinov3(state):
    layer = r"layer.\1."
    kept = {key: value for key, value in dinov3(state).items() if "bias_mask" not in key and "rope" not in key}
    theirs = apart(renamed(kept, {
        "cls_token": "embeddings.cls_token", "mask_token": "embeddings.mask_token",
        "storage_tokens": "embeddings.register_tokens", r"patch_embed\.proj": "embeddings.patch_embeddings",
        BLOCK + r"attn\.qkv": layer + "attention.query", BLOCK + r"attn\.proj": layer + "attention.o_proj",
        BLOCK + r"mlp\.fc1": layer + "mlp.up_proj", BLOCK + r"mlp\.fc2": layer + "mlp.down_proj",
        BLOCK + r"ls([12])\.gamma": layer + r"layer_scale\2.lambda1", BLOCK: layer}))
    theirs = {re.sub(r"\.(query|key|value)\.", lambda m: f".{m[1][0]}_proj.", k): v for k, v in theirs.items()}
    return {key: value for key, value in theirs.items() if not key.endswith("k_proj.bias")}
