"""Where the time of a mask goes, one thread: decode, squash, attention, cut, write; and what decoding at a smaller
scale would save and change.

    python benchmarks/masks_speed.py [speed reduced] --data FOLDER [FOLDER ...] [--split train] [--count 100]
                                     [--size 500 375] [--attention lowlevel] [--rounds 1]

The pictures of FOLDERs (default: scenes) become JPEGs of quality 95 whose longer side is that of --size (500 x 375 is
the mean of ILSVRC's), as they are wide or high; a picture of the size it has is not touched with --size 0 0. Times are
of the processor, so that an otherwise busy machine matters less.

speed     ms a picture of each step: mean, median, largest
reduced   the same pictures decoded by Pillow at the smallest scale of 1, 1/2, 1/4, 1/8 whose sides are still enough
          for 224 px (`draft`), and by OpenCV (IMREAD_REDUCED_COLOR_*): ms, and IoU of masks and boxes with those of
          the whole decode
"""
import argparse
import io
import statistics
import tempfile
import time
from collections import defaultdict

import cv2
import numpy as np
import torch
from PIL import Image

from locloc.attention import load_attention
from locloc.boxes import box_iou, map_boxes
from locloc.data import Geometry, load_dataset, open_picture
from locloc.masks import grabcut_mask, source_preset
from locloc.metrics import mask_iou
from locloc.stores import MaskStore

SIDE = 224
SQUASH = Geometry(SIDE, squash=True)


def timed(times, step, work, *arguments):
    start = time.process_time()
    result = work(*arguments)
    times[step].append(1e3*(time.process_time() - start))
    return result


def as_jpeg(picture, size):
    "JPEG bytes of a picture whose longer and shorter side are these, 0: as it is"
    h, w = picture.shape[:2]
    if any(size):
        target = size if w >= h else size[::-1]
        how = cv2.INTER_AREA if target[0] < w else cv2.INTER_CUBIC
        picture = cv2.resize(picture, target, interpolation=how)
    Image.fromarray(picture).save(file := io.BytesIO(), "JPEG", quality=95)
    return file.getvalue()


def load_jpegs(args):
    for i, folder in enumerate(args.data):
        dataset = load_dataset(folder, args.split)
        for sample in dataset.subset(args.count//len(args.data) + (i < args.count % len(args.data))):
            yield sample.id, as_jpeg(sample.picture, args.size)


def print_times(times):
    print("| step | ms a picture, mean | median | largest |\n|---|---:|---:|---:|")
    for step, each in times.items():
        print(f"| {step} | {statistics.mean(each):.2f} | {statistics.median(each):.2f} | {max(each):.2f} |", flush=True)


def measure_speed(args, jpegs):
    source, times = load_attention(args.attention), defaultdict(list)
    params = source_preset(args.attention).params
    with tempfile.TemporaryDirectory() as folder:
        store = MaskStore(folder, {})
        for number in range(args.rounds + 1):
            if number == 1: # the first round warms up
                times.clear()
            for id, jpeg in jpegs:
                opened = timed(times, "decode", open_picture, jpeg)
                picture = timed(times, "squash", SQUASH.picture, opened)
                attention = timed(times, "attention", source, picture[None])[0]
                mask = timed(times, "cut", grabcut_mask, picture, attention, params)
                timed(times, "write", store.write, id, mask)
    steps = "decode", "squash", "attention", "cut"
    times["decode to cut"] = np.sum([times[step] for step in steps], 0).tolist()
    print_times(times)


def draft(jpeg):
    with Image.open(io.BytesIO(jpeg)) as picture:
        picture.draft("RGB", (SIDE, SIDE))
        return np.array(picture.convert("RGB"))


def reduce_by_opencv(jpeg):
    with Image.open(io.BytesIO(jpeg)) as picture:
        times = min(side//SIDE for side in picture.size)
    flags = ((8, cv2.IMREAD_REDUCED_COLOR_8), (4, cv2.IMREAD_REDUCED_COLOR_4), (2, cv2.IMREAD_REDUCED_COLOR_2))
    flag = next((flag for scale, flag in flags if times >= scale), cv2.IMREAD_COLOR)
    return cv2.cvtColor(cv2.imdecode(np.frombuffer(jpeg, np.uint8), flag), cv2.COLOR_BGR2RGB)


def measure_reduced(args, jpegs):
    source, params = load_attention(args.attention), source_preset(args.attention).params
    decoders, times = dict(whole=open_picture, draft=draft, opencv=reduce_by_opencv), defaultdict(list)
    masks, pixels = defaultdict(list), defaultdict(list)
    for _, jpeg in jpegs:
        inputs = {}
        for name, decode in decoders.items():
            opened = timed(times, f"decode, {name}", decode, jpeg)
            inputs[name] = timed(times, f"squash, {name}", SQUASH.picture, opened)
            masks[name].append(grabcut_mask(inputs[name], source(inputs[name][None])[0], params))
            pixels[name].append(np.abs(inputs[name].astype(int) - inputs["whole"]).mean())
    print_times(times)
    print("\n| decoded by | grey levels apart, mean | IoU of masks, mean | least | of boxes, mean | least "
          "| below .9 |\n|---|---:|---:|---:|---:|---:|---:|")
    for name in ("draft", "opencv"):
        pairs = list(zip(masks[name], masks["whole"], strict=True))
        whole = [mask_iou(one, other) for one, other in pairs]
        boxes = [box_iou(map_boxes(one), map_boxes(other)).item() for one, other in pairs if one.any() and other.any()]
        print(f"| {name} | {np.mean(pixels[name]):.2f} | {np.mean(whole):.4f} | {min(whole):.3f} "
              f"| {np.mean(boxes):.4f} | {min(boxes):.3f} | {np.mean(np.array(boxes) < .9):.0%} |", flush=True)


PARTS = dict(speed=measure_speed, reduced=measure_reduced)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", choices=[*PARTS, []], default=list(PARTS))
    parser.add_argument("--data", nargs="+", default=["scenes"])
    parser.add_argument("--split", default="train")
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--size", type=int, nargs=2, default=[500, 375])
    parser.add_argument("--attention", default="lowlevel")
    parser.add_argument("--rounds", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    jpegs = list(load_jpegs(args))
    print(f"{len(jpegs)} pictures, {np.mean([len(jpeg) for _, jpeg in jpegs])/1e3:.0f} kB each")
    for what in args.what:
        print(f"\n{what}", flush=True)
        PARTS[what](args, jpegs)


if __name__ == "__main__":
    main()
