"""The authors' released model as functions of its three state dicts, and random weights under their names

An implementation of its own, after what is known of the released code: none of locloc's modules takes part.
"""
import cv2
import numpy as np
import torch
import torch.nn.functional as F

D, HEADS, DEPTH, CLASSES, PATCH, SIDE = 128, 2, 2, 5, 16, 14 # theirs: 384, 6, 12, 200, 16, 14
MEAN, STD = (.485, .456, .406), (.229, .224, .225)


def linear(name, inside, outside):
    return {f"{name}.weight": (outside, inside), f"{name}.bias": (outside,)}


def norm(name, channels=D):
    return {f"{name}.weight": (channels,), f"{name}.bias": (channels,)}


def batch_norm(name, channels):
    return norm(name, channels) | {f"{name}.running_mean": (channels,), f"{name}.running_var": (channels,),
                                   f"{name}.num_batches_tracked": ()}


def block_shapes(name):
    return {**norm(f"{name}.norm1"), **linear(f"{name}.attn.qkv", D, 3 * D), **linear(f"{name}.attn.proj", D, D),
            **norm(f"{name}.norm2"), **linear(f"{name}.mlp.fc1", D, 4 * D), **linear(f"{name}.mlp.fc2", 4 * D, D)}


def double_conv_shapes(name, inside, outside):
    return {f"{name}.UConv.0.weight": (outside, inside, 3, 3), **batch_norm(f"{name}.UConv.1", outside),
            f"{name}.UConv.3.weight": (outside, outside, 3, 3), **batch_norm(f"{name}.UConv.4", outside)}


def deit_shapes():
    shapes = {"cls_token": (1, 1, D), "pos_embed": (1, 1 + SIDE**2, D), "patch_embed.proj.weight": (D, 3, PATCH, PATCH),
              "patch_embed.proj.bias": (D,), **norm("norm"), **linear("head", D, 1000)}
    for i in range(DEPTH):
        shapes |= block_shapes(f"blocks.{i}")
    return shapes


def generator_shapes():
    down, up = [(D, 8), (8, 16), (16, 32)], [(48, 16), (24, 12), (D + 12, CLASSES)]
    shapes = {"att_conv2.weight": (1, 256, 3, 3), **batch_norm("bn_att2", 1)}
    for i in range(3):
        shapes |= double_conv_shapes(f"att_layer4.down_{i + 1}.1", *down[i])
        shapes |= double_conv_shapes(f"att_layer4.up_{i + 1}.conv", *up[i])
        shapes |= {f"up{i + 1}.weight": (256 if i else CLASSES, 256, 4, 4), **batch_norm(f"bn{i + 1}", 256)}
    return shapes


def classifier_shapes():
    shapes = {**norm("norm_mini"), "conv.weight": (D, D, 3, 3), "conv.bias": (D,),
              "classifier.0.weight": (CLASSES, D, 3, 3), **batch_norm("classifier.1", CLASSES)}
    for i in range(DEPTH):
        shapes |= block_shapes(f"blocks_mini.{i}")
    return shapes


def drawn(shapes, seed):
    "Random tensors that keep the size of what goes through them"
    torch.manual_seed(seed)
    state = {}
    for name, shape in shapes.items():
        values = torch.randn(shape)
        if name.endswith("num_batches_tracked"):
            values = torch.tensor(0)
        elif name.endswith("running_var"):
            values = .4 + .4 * values.abs()
        elif len(shape) == 1:
            values = .1 * values + name.endswith("weight")
        elif len(shape) > 1 and name.endswith("weight"):
            values *= (2 / values[0].numel())**.5
        state[name] = values
    return state


def block(state, name, x):
    def normed(x, name):
        return F.layer_norm(x, (D,), state[f"{name}.weight"], state[f"{name}.bias"], 1e-6)
    def mapped(x, name):
        return F.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])
    q, k, v = (part.unflatten(2, (HEADS, -1)).transpose(1, 2)
               for part in mapped(normed(x, f"{name}.norm1"), f"{name}.attn.qkv").chunk(3, 2))
    attention = (q @ k.mT / (D // HEADS)**.5).softmax(-1)
    x = x + mapped((attention @ v).transpose(1, 2).flatten(2), f"{name}.attn.proj")
    return x + mapped(F.gelu(mapped(normed(x, f"{name}.norm2"), f"{name}.mlp.fc1")), f"{name}.mlp.fc2")


def batch_normed(state, name, x):
    return F.batch_norm(x, *(state[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")))


def double_conv(state, name, x):
    for conv, bn in ((0, 1), (3, 4)):
        x = F.conv2d(x, state[f"{name}.UConv.{conv}.weight"], padding=1)
        x = F.leaky_relu(batch_normed(state, f"{name}.UConv.{bn}", x))
    return x


def frozen_vit(state, images):
    "(B, 3, 224, 224) -> tokens before the blocks (B, 1+N, D); patches after the last, without its norm (B, D, 14, 14)"
    patches = F.conv2d(images, state["patch_embed.proj.weight"], state["patch_embed.proj.bias"], PATCH).flatten(2).mT
    embedding = torch.cat([state["cls_token"].expand(len(images), -1, -1), patches], 1) + state["pos_embed"]
    x = embedding
    for i in range(DEPTH):
        x = block(state, f"blocks.{i}", x)
    return embedding, x[:, 1:].mT.reshape(len(images), D, SIDE, SIDE)


def generator(state, patches):
    "(B, D, 14, 14) -> (B, 1, 112, 112); the second step up begins with the encoder's map, as released"
    def up(i, coarse, fine):
        x = F.interpolate(coarse, fine.shape[-2:], mode="bilinear")
        return double_conv(state, f"att_layer4.up_{i}.conv", torch.cat([fine, x], 1))
    one = double_conv(state, "att_layer4.down_1.1", F.max_pool2d(patches, 2)) # (B, 8, 7, 7)
    two = double_conv(state, "att_layer4.down_2.1", F.max_pool2d(one, 2)) # (B, 16, 3, 3)
    x = up(3, up(2, two, one), patches)
    for i in (1, 2, 3):
        x = F.conv_transpose2d(x, state[f"up{i}.weight"], stride=2, padding=1)
        x = F.relu(batch_normed(state, f"bn{i}", x))
    return batch_normed(state, "bn_att2", F.conv2d(x, state["att_conv2.weight"], padding=1)).sigmoid()


def classifier(state, embedding):
    "(B, 1+N, D) -> (B, C)"
    x = embedding
    for i in range(DEPTH):
        x = block(state, f"blocks_mini.{i}", x)
    x = F.layer_norm(x, (D,), state["norm_mini.weight"], state["norm_mini.bias"], 1e-6)
    x = x[:, 1:].mT.reshape(len(x), D, SIDE, SIDE)
    x = F.relu(F.conv2d(x, state["conv.weight"], state["conv.bias"], padding=1))
    x = F.relu(batch_normed(state, "classifier.1", F.conv2d(x, state["classifier.0.weight"], padding=1)))
    return F.avg_pool2d(x, 3, 1, 1).mean((2, 3))


def box(activation, threshold=.5):
    "(112, 112) map -> x0 y0 x1 y1 of its largest piece, in pixels of the input of 224 px"
    score = cv2.resize(activation, (224, 224))
    score = (255 * (score - score.min()) / (score.max() - score.min())).astype(np.uint8)
    _, cut = cv2.threshold(score, int(threshold * score.max()), 255, cv2.THRESH_TOZERO)
    contours, _ = cv2.findContours(cut, cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)
    x, y, w, h = cv2.boundingRect(max(contours, key=cv2.contourArea))
    return [x, y, x + w, y + h]
