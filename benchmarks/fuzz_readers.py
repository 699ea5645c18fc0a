"""Bytes at random for everything that reads a file of somebody else: pictures, lists, manifests, weights, archives.

    pip install atheris # Linux and macOS, Python 3.11 to 3.13; `hypothesis` walks the same readers in tests/
    python benchmarks/fuzz_readers.py [--target picture ...] [--seconds 120] [--findings findings]

Each target is a process of its own: libFuzzer changes small valid files, guided by the branches that the readers'
Python code takes. A finding is an exception that is none of the documented errors, an error of more than one line or
one that names no file, a picture of another size than its header says, more than 2 GB of memory, or more than 10
seconds. Each is printed once with the place it comes from, and its bytes are kept in the folder of findings (in front
of those of a layout stands the number of the list they are of). A table of what was tried ends it.
"""
import argparse
import contextlib
import io
import json
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import traceback
import warnings
from functools import partial
from pathlib import Path

PICTURES = ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "TGA", "ICO", "PCX", "SGI", "DDS", "JPEG2000", "ICNS")
MODES = {"PNG": ("RGB", "RGBA", "L", "P", "1", "I;16"), "TIFF": ("RGB", "I;16", "F"), "GIF": ("P",)}
XML = """<annotation><filename>a.png</filename><size><width>50</width><height>40</height></size>
<object><name>dog</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>50</xmax><ymax>40</ymax></bndbox></object>
</annotation>"""
COCO = {
    "images": [{"id": 7, "file_name": "a.jpg", "width": 50, "height": 40}],
    "categories": [{"id": 3, "name": "dog"}],
    "annotations": [{"id": 1, "image_id": 7, "category_id": 3, "bbox": [2, 3, 10, 20], "iscrowd": 0}],
}
LAYOUTS = {
    "index": {"index.csv": "image,class,split,width,height,x0,y0,x1,y1,mask\n"
                           '"a, b.jpg",cat,test,50,40,1,2,30,20,m.png\n'},
    "cub": {
        "images.txt": "1 001.Albatross/a.jpg\n2 002.Auk/b.jpg\n",
        "image_class_labels.txt": "1 1\n2 2\n",
        "train_test_split.txt": "1 0\n2 1\n",
        "sizes.txt": "1 50 40\n2 50 40\n",
        "bounding_boxes.txt": "1 6.0 2.0 32.0 30.0\n2 5.0 6.0 46.0 30.0\n",
        "classes.txt": "1 001.Albatross\n2 002.Auk\n",
    },
    "wsolevaluation": {
        "test/image_ids.txt": "a/1.jpg\nb/2.jpg\n",
        "test/class_labels.txt": "a/1.jpg,0\nb/2.jpg,1\n",
        "test/image_sizes.txt": "a/1.jpg,50,40\nb/2.jpg,60,40\n",
        "test/localization.txt": "b/2.jpg,0,0,59,20\na/1.jpg,m.png,i.png\n",
    },
    "coco": {"annotations/instances_test.json": json.dumps(COCO)},
    "voc": {"ImageSets/Main/test.txt": "a\n", "ImageSets/Main/dog_test.txt": "a 1\n", "Annotations/a.xml": XML},
    "ilsvrc": {
        "LOC_val_solution.csv": "ImageId,PredictionString\nILSVRC2012_val_00000001,n02124075 1 1 50 40\n",
        "Annotations/CLS-LOC/val/ILSVRC2012_val_00000001.xml": XML.replace("dog", "n02124075"),
        "Data/CLS-LOC/val/ILSVRC2012_val_00000001.JPEG": "",
    },
    "devkit": {"data/meta.mat": None, "data/ILSVRC2012_validation_ground_truth.txt": "1\n2\n", "train/x": ""},
}


def import_readers():
    "The modules whose branches guide the search; numba's are left as they are"
    import atheris
    import torch  # noqa: F401
    wanted = ["PIL", "locloc.data", "locloc.files", "locloc.layouts", "locloc.stores", "locloc.fetch", "locloc.masks",
              "locloc.backbone"]
    with atheris.instrument_imports(include=wanted, exclude=["locloc.boxes", "locloc.grabcut"]):
        from locloc import backbone, data, fetch, masks, stores  # noqa: F401


def encoded(write):
    write(content := io.BytesIO())
    return content.getvalue()


def pictures():
    import numpy as np
    from PIL import Image
    pixels = Image.fromarray(np.random.default_rng(0).integers(0, 255, (16, 16, 3), np.uint8))
    exif = Image.Exif()
    exif[0x112] = 6
    for format in PICTURES:
        for mode in MODES.get(format, ("RGB",)):
            picture = pixels.convert("L").convert("I").convert(mode) if mode == "I;16" else pixels.convert(mode)
            more = {"exif": exif} if format in ("JPEG", "PNG", "TIFF", "WEBP") and mode == "RGB" else {}
            with contextlib.suppress(OSError, KeyError): # this Pillow does not write it
                yield encoded(partial(picture.save, format=format, **more))
    yield from (b"<svg/>", b"<!-- a --><svg/>", b"%PDF-1.4", b"PK\3\4", b"plain text", b"{}", b"\0" * 32)


def mask_files():
    import numpy as np
    from PIL import Image
    yield encoded(lambda file: Image.fromarray(np.eye(9, 13) > 0).save(file, "PNG"))


def weight_files():
    import torch
    from safetensors.torch import save
    state = {"cls_token": torch.zeros(1, 1, 4), "blocks.0.attn.qkv.weight": torch.ones(2, 2)}
    apart = [f"encoder.layer.0.attention.attention.{part}.weight" for part in ("query", "key", "value")]
    yield save(state | {name: torch.ones(2, 2) for name in apart})
    nested = {"teacher": {"module." + key: value for key, value in state.items()}, "epoch": 3}
    for old in (False, True):
        yield encoded(lambda file, old=old: torch.save(nested, file, _use_new_zipfile_serialization=not old))


def archives():
    for mode in ("w", "w:gz", "w:bz2", "w:xz"):
        def write(file, mode=mode):
            with tarfile.open(fileobj=file, mode=mode) as archive:
                archive.addfile(tarfile.TarInfo("birds/a.txt"), io.BytesIO())
                member = tarfile.TarInfo("birds/b.txt")
                member.size = 5
                archive.addfile(member, io.BytesIO(b"hello"))
        yield encoded(write)


def meta_mat():
    import numpy as np
    from scipy.io import savemat
    synsets = np.array([(1, "n00000001"), (2, "n00000002")], dtype=[("ILSVRC2012_ID", "i4"), ("WNID", "O")])
    return encoded(lambda file: savemat(file, {"synsets": synsets}))


class OneFile:
    "A target that reads one file; `read` gets its path"
    def __init__(self, name, read, seeds):
        self.name, self.read, self.seeds = name, read, seeds

    def prepare(self, folder):
        self.path = folder/self.name
        self.path.parent.mkdir(parents=True, exist_ok=True)
        return [*self.seeds()]

    def run(self, content):
        self.path.write_bytes(content)
        self.read(self.path)


class OneLayout:
    "A target that reads a data set in which one list, told by the first byte, is made of the others"
    def __init__(self, files):
        self.files = files

    def prepare(self, folder):
        self.folder, seeds = folder/"set", []
        self.lists = [(self.folder/name, meta_mat() if text is None else text.encode())
                      for name, text in self.files.items()]
        for i, (path, content) in enumerate(self.lists):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            seeds.append(bytes([i]) + content)
        return seeds

    def run(self, content):
        from locloc.data import load_dataset
        if not content:
            return
        path, valid = self.lists[content[0] % len(self.lists)]
        path.write_bytes(content[1:])
        try:
            data = load_dataset(self.folder, "test")
            for i in range(min(len(data), 3)):
                data[i]
        finally:
            path.write_bytes(valid)


def read_picture(path):
    from locloc.data import PictureError, _header_size, open_picture
    try:
        size = _header_size(path)
    except PictureError:
        size = None
    shape = open_picture(path).shape
    assert shape[:2] == size, f"its header says {size}, it is {shape}"


def read_header(path):
    from locloc.data import _header_size, _turned_words
    _header_size(path)
    _header_size(path, turned=False)
    _turned_words(path)


def read_mask(path):
    from locloc.data import _open_masks
    from locloc.stores import MaskStore
    (path.parent/"manifest.json").write_text("{}")
    _open_masks([path], None)
    MaskStore(path.parent).read(path.stem)


def read_manifest(path):
    from locloc.data import load_dataset
    from locloc.stores import MaskStore, check_masks, pseudo_truth
    scenes = load_dataset("scenes", count=2, size=8)
    store = MaskStore(path.parent)
    pseudo_truth(scenes, store)
    MaskStore(path.parent, {"dataset": "scenes", "size": [8, 8]})
    check_masks(scenes, path.parent, progress=False)


def read_weights_file(path):
    from locloc.backbone import read_weights
    read_weights(path)


def read_params(path):
    from locloc.masks import GrabCutParams
    params = GrabCutParams.from_json(path.read_text(encoding="utf-8"))
    assert GrabCutParams.from_json(params.to_json()) == params


def unpack_archive(path):
    import shutil

    from locloc.fetch import unpack
    try:
        unpack(path, path.parent/"out", "birds")
    finally:
        shutil.rmtree(path.parent/"out", ignore_errors=True)


MANIFEST = {"dataset": "scenes", "split": "train", "size": [8, 8], "params": {"delta0": .1}, "damaged": {"a": "why"}}
TARGETS = {
    "picture": OneFile("x/picture", read_picture, pictures),
    "header": OneFile("x/picture", read_header, pictures),
    "mask": OneFile("x/mask.png", read_mask, mask_files),
    **{name: OneLayout(files) for name, files in LAYOUTS.items()},
    "manifest": OneFile("store/manifest.json", read_manifest, lambda: [json.dumps(MANIFEST).encode()]),
    "weights": OneFile("x/weights", read_weights_file, weight_files),
    "params": OneFile("x/params.json", read_params, lambda: [
        b'{"delta0": 0.02, "delta1": 0.75, "split": null, "iterations": 1, "seed": 0, "kernel": "grid"}']),
    "archive": OneFile("x/birds.tgz", unpack_archive, archives),
}
NAMELESS = "params" # texts whose errors the caller gives a name


def finding(name, target, content):
    "(what is wrong, exception), None where nothing is"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            target.run(content)
    except (ValueError, OSError) as error:
        said = str(error)
        if len(said.splitlines()) > 1:
            return "more than one line", error
        if name not in NAMELESS and "/" not in said:
            return "names no file", error
    except Exception as error:
        return "another error", error
    return None


class Findings:
    "Runs a target, prints each kind of finding once and keeps its bytes"
    def __init__(self, name, target, folder):
        self.name, self.target, self.folder, self.seen = name, target, folder, set()

    def __call__(self, content):
        found = finding(self.name, self.target, content)
        if found:
            self.tell(content, *found)

    def tell(self, content, what, error):
        places = [f"{Path(place.filename).name}:{place.lineno}" for place in traceback.extract_tb(error.__traceback__)]
        ours = [place for place in places if re.match("(layouts|data|stores|backbone|masks|fetch|files).py", place)]
        kind = what, type(error).__name__, (ours or places)[-1]
        if kind in self.seen:
            return
        self.seen.add(kind)
        file = self.folder/f"{self.name}-{len(self.seen)}"
        file.write_bytes(content)
        print(f"FOUND {self.name}: {what}: {type(error).__name__} {str(error)[:160]!r} at {' '.join(ours[-3:])} "
              f"{places[-1]}, kept in {file}", flush=True)


def fuzz(name, seconds, findings):
    import atheris
    import_readers()
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as folder:
        os.environ["LOCLOC_CACHE"] = f"{folder}/cache"
        corpus, target = Path(folder)/"corpus", TARGETS[name]
        corpus.mkdir()
        for i, content in enumerate(target.prepare(Path(folder))):
            (corpus/f"seed{i}").write_bytes(content)
        options = [f"-max_total_time={seconds}", "-timeout=10", "-rss_limit_mb=2048", "-max_len=8192",
                   "-print_final_stats=1", f"-artifact_prefix={findings}/{name}-", str(corpus)]
        atheris.Setup([sys.argv[0], *options], Findings(name, target, findings))
        atheris.Fuzz()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", nargs="*", choices=list(TARGETS), default=list(TARGETS))
    parser.add_argument("--seconds", type=int, default=120)
    parser.add_argument("--findings", type=Path, default=Path("findings"))
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.findings.mkdir(parents=True, exist_ok=True)
    if args.inside:
        return fuzz(args.target[0], args.seconds, args.findings)
    lines = []
    for name in args.target:
        command = [sys.executable, __file__, "--inside", "--target", name, "--seconds", str(args.seconds),
                   "--findings", str(args.findings)]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
        found = [line for line in done.stdout.splitlines() if re.match("FOUND|SUMMARY|==.*ERROR", line)]
        print(*found, sep="\n" if found else "", flush=True)
        counts = [re.search(rf"{stat}:\s*(\d+)", done.stdout) for stat in ("number_of_executed_units", "peak_rss_mb")]
        runs, peak = (int(count[1]) if count else "?" for count in counts)
        lines.append((name, runs, peak, len(found)))
        if not counts[0]:
            print(done.stdout[-2000:])
    print(f"{'target':<16}{'executions':>12}{'peak, MB':>10}{'findings':>10}")
    for name, runs, peak, found in lines:
        print(f"{name:<16}{runs:>12}{peak:>10}{found:>10}")


if __name__ == "__main__":
    main()
