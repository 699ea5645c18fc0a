"Tiny hand-made copies of each layout, broken ones, and the published lists where they are."
import json
import os
import shutil
import warnings
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from locloc import layouts
from locloc.boxes import box_iou
from locloc.data import PictureError, get_protocol, load_dataset, trivial_boxes
from locloc.metrics import PxAP

XML = """<annotation>
<size><width>50</width><height>40</height></size>
<object><name>dog</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>{x1}</xmax><ymax>40</ymax></bndbox></object>
<object><name>cat</name><bndbox><xmin>3</xmin><ymin>3</ymin><xmax>9</xmax><ymax>9</ymax></bndbox></object>
</annotation>
"""
CUB = {
    "images.txt": "1 001.Albatross/a.jpg\n2 002.Auk/b.jpg\n",
    "image_class_labels.txt": "1 1\n2 2\n",
    "train_test_split.txt": "1 0\n2 1\n",
    "sizes.txt": "1 50 40\n2 50 40\n",
    "bounding_boxes.txt": "1 6.0 2.0 32.0 30.0\n2 5.0 6.0 46.0 30.0\n",
    "classes.txt": "1 001.Albatross\n2 002.Auk\n",
}
WSOL = {
    "test/image_ids.txt": "a/1.jpg\nb/2.jpg\n",
    "test/class_labels.txt": "a/1.jpg,0\nb/2.jpg,1\n",
    "test/image_sizes.txt": "a/1.jpg,50,40\nb/2.jpg,60,40\n",
    "test/localization.txt": "b/2.jpg,0,0,59,20\na/1.jpg,5,6,20,30\nb/2.jpg,7,7,9,9\n",
}
VOC = {"ImageSets/Main/test.txt": "one\n", "Annotations/one.xml": XML.format(x1=50)}
CSV = {"index.csv": "image,class,split,width,height,x0,y0,x1,y1,mask\na.jpg,cat,test,50,40,1,2,30,20,\n"}
MARKS = {
    "images": [{"id": 7, "file_name": "a.jpg", "width": 50, "height": 40}],
    "categories": [{"id": 3, "name": "dog"}],
    "annotations": [
        {"id": 1, "image_id": 7, "category_id": 3, "bbox": [2, 3, 10, 20]},
        {"id": 2, "image_id": 7, "category_id": 3, "bbox": [0, 0, 50, 40], "iscrowd": 1},
    ],
}
COCO = {"annotations/instances_test.json": json.dumps(MARKS)}


def write(folder, files, end="\n", encoding="utf-8"):
    for name, text in files.items():
        (folder/name).parent.mkdir(parents=True, exist_ok=True)
        (folder/name).write_bytes(text.replace("\n", end).encode(encoding))
    return folder


def picture(path, size=(50, 40)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, "red").save(path)


def facts(data):
    return [(s.id, data.classes[s.label], s.size, s.boxes.tolist()) for s in data]


ALBATROSS = ("001.Albatross/a.jpg", "001.Albatross", (40, 50), [[6, 2, 38, 32]])
AUK = ("002.Auk/b.jpg", "002.Auk", (40, 50), [[5, 6, 50, 36]])
FIRST = ("a/1.jpg", "a", (40, 50), [[5, 6, 20, 30]])
SECOND = ("b/2.jpg", "b", (40, 60), [[0, 0, 59, 20], [7, 7, 9, 9]])
WHOLE = [
    (CUB, "train", [AUK]),
    (CUB, "test", [ALBATROSS]),
    (WSOL, "test", [FIRST, SECOND]),
    (VOC, "test", [("JPEGImages/one.jpg", "dog", (40, 50), [[0, 0, 50, 40]])]),
    (COCO, "test", [("a.jpg", "dog", (40, 50), [[2, 3, 12, 23]])]),
    (CSV, "test", [("a.jpg", "cat", (40, 50), [[1, 2, 30, 20]])]),
]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("files, split, wanted", WHOLE)
def test_layouts_open_without_pictures(tmp_path, files, split, wanted, end, encoding):
    assert facts(load_dataset(write(tmp_path, files, end, encoding), split)) == wanted


# files, the name of the one that is wrong, what stands in it (None: it is not there), what is said

BAD_SIZE = "width, height must be positive whole numbers below 2147483648"
BROKEN = []
BROKEN += [(CUB, f"{name}.txt", text, why) for name, text, why in (
    ("images", "1 a.jpg\n1 b.jpg\n", "images.txt, line 2: picture 1 is there twice"),
    ("images", "1 a.jpg\n2 a.jpg\n", "images.txt, line 2: images/a.jpg is there twice"),
    ("images", "1 a.jpg\n2 ../b.jpg\n", "images.txt, line 2: the path"),
    ("images", "1 a.jpg\n2 b.jpg x\n", "images.txt, line 2: expected 2 values, got 3"),
    ("images", None, "images.txt: no such file"),
    ("image_class_labels", "1 0\n2 1\n", "image_class_labels.txt, line 1: class 0 is outside 1 to 2"),
    ("image_class_labels", "1 1\n2 3\n", "image_class_labels.txt, line 2: class 3 is outside 1 to 2"),
    ("image_class_labels", "1 1\n3 2\n",
     "image_class_labels.txt, line 2: picture 3 is not in the list of pictures"),
    ("image_class_labels", "1 1\n", "image_class_labels.txt: does not name every picture"),
    ("image_class_labels", "1 1\n1 2\n2 2\n", "image_class_labels.txt, line 2: picture 1 is there twice"),
    ("train_test_split", "1 0\n2 2\n", "train_test_split.txt, line 2: expected 1 (train) or 0 (test), got 2"),
    ("train_test_split", "1 0\n1 1\n2 1\n", "train_test_split.txt, line 2: picture 1 is there twice"),
    ("bounding_boxes", "1 6 2 32 30\n2 5 6 57 30\n", "bounding_boxes.txt, line 2: the box 5, 6, 62, 36"),
    ("bounding_boxes", "1 6 2 nan 30\n", "bounding_boxes.txt, line 1: the box"),
    ("bounding_boxes", "1 6 2 wide 30\n",
     "bounding_boxes.txt, line 1: x, y, width, height must be numbers, got 6, 2, wide, 30"),
    ("bounding_boxes", None, "bounding_boxes.txt: no such file"),
    ("bounding_boxes", "1 6 2 32 30\n", "bounding_boxes.txt: does not name every picture, 1 of 2 are missing"),
    ("bounding_boxes", "1 6 2 32 30\n1 6 2 32 30\n", "bounding_boxes.txt, line 2: picture 1 is there twice"),
    ("classes", "2 002.Auk\n1 001.Albatross\n", "classes.txt, line 1: expected class 1, got 2"),
    ("classes", "1 001.Albatross\n3 002.Auk\n", "classes.txt, line 2: expected class 2, got 3"),
    ("sizes", "1 50 40\n2 -50 40\n", f"sizes.txt, line 2: {BAD_SIZE}, got -50, 40"),
    ("sizes", "1 0 0\n2 50 40\n", "sizes.txt, line 1: width, height must be positive"),
    ("sizes", "1 5000000000 40\n2 50 40\n", f"sizes.txt, line 1: {BAD_SIZE}, got 5000000000, 40"),
    ("sizes", "2 50 40\n", "sizes.txt: does not name every picture"),
)]
BROKEN += [(CSV, "index.csv", CSV["index.csv"].replace("50,", "5000000000,"), f"index.csv, line 2: {BAD_SIZE}")]
BROKEN += [(CSV, "index.csv", CSV["index.csv"].replace(old, "x"*4097), f"index.csv{where}: the {what} 'xxx")
           for old, where, what in (("a.jpg", ", line 2", "path"), ("cat", "", "class"))]
BROKEN += [(WSOL, f"test/{name}.txt", text, why) for name, text, why in (
    ("image_ids", "a/1.jpg\na/1.jpg\n", "image_ids.txt, line 2: a/1.jpg is there twice"),
    ("class_labels", "a/1.jpg,0\nb/2.jpg,1\na/1.jpg,1\n", "class_labels.txt, line 3: picture a/1.jpg is there twice"),
    ("class_labels", "a/1.jpg,0\nb/2.jpg,-1\n", "class_labels.txt, line 2: class -1 is outside"),
    ("class_labels", "a/1.jpg,0\nb/2.jpg,1,1\n", "class_labels.txt, line 2: expected 2 values, got 3"),
    ("class_labels", None, "class_labels.txt: no such file"),
    ("image_sizes", "a/1.jpg,50,40\n", "image_sizes.txt: does not name every picture"),
    ("image_sizes", "a/1.jpg,50,forty\n", "image_sizes.txt, line 1: width, height must be whole numbers"),
    ("localization", "b/2.jpg,0,0,59,20\n", "localization.txt: does not name every picture, 1 of 2 are missing"),
    ("localization", "a/1.jpg,m.png,i.png\na/1.jpg,n.png,j.png\n",
     "localization.txt, line 2: a second ignore region"),
    ("localization", "a/1.jpg,5,6,56,30\n", "localization.txt, line 1: the box 5, 6, 56, 30"),
    ("localization", "c/1.jpg,5,6,51,30\n",
     "localization.txt, line 1: picture c/1.jpg is not in the list of pictures"),
    ("localization", None, "localization.txt: no such file"),
)]
BROKEN += [(VOC, "ImageSets/Main/test.txt", text, f"test.txt, line 2: picture {why}") for text, why in (
    ("one\none\n", "one is there twice"),
    ("one\n./one\n", "one is there twice"),
    ("one\n.one\n", ".one can't lie in JPEGImages"),
)]
BROKEN += [(VOC, "Annotations/one.xml", text, why) for text, why in (
    (XML.format(x1=56), "one.xml, line 3: the box 0, 0, 56, 40"),
    ("<annotation>\n<size>", "one.xml, line 2: not XML"),
    (None, "one.xml: no such file"),
    (XML.format(x1=60).replace("<object><name>dog", "<!-- <object> -->\n<object><name>dog"),
     "one.xml, line 4: the box 0, 0, 60, 40"),
    (XML.format(x1=50).replace("<name>cat</name>", ""), "one.xml, line 4: the object has no name"),
    (XML.format(x1=50).replace(">50</width>", ">-5</width>"), "one.xml: width, height must be positive"),
    ("<?xml version='1.0' encoding='nonsense'?><annotation/>", "one.xml, line 1: not XML"),
)]
NOT_COCO = "instances_test.json: not COCO"
NO_ANNOTATIONS = {key: rows for key, rows in MARKS.items() if key != "annotations"}
TWO_OF_A_NAME = [*MARKS["images"], MARKS["images"][0] | {"id": 8}]
BROKEN += [(COCO, "annotations/instances_test.json", text, why) for text, why in (
    ('{"images": [],\n 3}', "instances_test.json, line 2: not JSON"),
    ('{"images": []}', NOT_COCO),
    ("["*100_000, NOT_COCO),
    (json.dumps(MARKS | {"annotations": None}), f"{NOT_COCO}, 'annotations' must be a list of objects"),
    (json.dumps(MARKS | {"annotations": ["x"]}), f"{NOT_COCO}, 'annotations' must be a list of objects"),
    (json.dumps(NO_ANNOTATIONS), f"{NOT_COCO}, 'annotations'"),
    (json.dumps(MARKS | {"images": MARKS["images"]*2}),
     "instances_test.json, image 2 (id 7): another has the same id"),
    (json.dumps(MARKS | {"images": TWO_OF_A_NAME}), "instances_test.json, image 2 (id 8): a.jpg is there twice"),
    (json.dumps(MARKS | {"categories": MARKS["categories"]*2}),
     "instances_test.json, category 2 (id 3): another has the same id"),
)]
BROKEN += [(COCO, "annotations/instances_test.json", json.dumps(MARKS).replace(old, new), why) for old, new, why in (
    ("[2,", "[48,", "annotation 1 (id 1): the box 48, 3, 58, 23"),
    ('"image_id": 7', '"image_id": 8', "annotation 1 (id 1): picture 8 is not among"),
    ('"category_id": 3', '"category_id": 4', "annotation 1 (id 1): category 4 is not among"),
    ("[2, 3, 10, 20]", "null", "instances_test.json, annotation 1 (id 1): bbox must be a list, got null"),
    ("[2, 3, 10, 20]", "[]", "annotation 1 (id 1): bbox must be 4 numbers, got []"),
    ("[2, 3, 10, 20]", '["2", 3, 10, 20]', "annotation 1 (id 1): bbox must be 4 numbers"),
    ("[2,", f"[{10**400},", "instances_test.json, annotation 1 (id 1): "),
    ('"width": 50', '"width": "w"', 'instances_test.json, image 1 (id 7): width must be a number, got "w"'),
    ('"a.jpg"', '"../a.jpg"', "instances_test.json, image 1 (id 7): the path '../a.jpg'"),
)]


@pytest.mark.parametrize("files, name, text, why", BROKEN)
def test_broken_layouts_say_where(tmp_path, files, name, text, why):
    write(tmp_path, files)
    if text is None:
        (tmp_path/name).unlink()
    else:
        (tmp_path/name).write_text(text)
    with pytest.raises(ValueError) as caught:
        load_dataset(tmp_path, "test")
    said = str(caught.value)
    assert why in said and str(tmp_path) in said and "\n" not in said


@pytest.mark.parametrize("files", [CUB, WSOL, VOC, COCO, CSV])
def test_a_split_that_is_not_there(tmp_path, files):
    with pytest.raises(ValueError, match="no pictures of the split 'nope'; it has .*test"):
        load_dataset(write(tmp_path, files), "nope")


def test_json_that_is_not_utf8(tmp_path):
    write(tmp_path, COCO)
    (tmp_path/"annotations/instances_test.json").write_bytes(b'{\n"images": "\xe9"}')
    with pytest.raises(ValueError, match="instances_test.json, line 2: not UTF-8"):
        load_dataset(tmp_path, "test")


def test_xml_in_the_encoding_it_names(tmp_path):
    write(tmp_path, VOC)
    text = XML.format(x1=50).replace("<name>dog</name>", "<name> perché\n</name>")
    text = f"<?xml version='1.0' encoding='ISO-8859-1'?>\n{text}"
    (tmp_path/"Annotations/one.xml").write_bytes(text.encode("latin-1"))
    data = load_dataset(tmp_path, "test")
    assert data.classes[data[0].label] == "perché"


def test_voc_classes_are_those_of_all_splits(tmp_path):
    dogs = XML.format(x1=50).replace("cat", "dog")
    cats = dogs.replace("dog", "cat")
    write(tmp_path, {
        "ImageSets/Main/train.txt": "one\ntwo\n",
        "ImageSets/Main/test.txt": "three\n",
        "ImageSets/Main/ape_train.txt": "one -1\n",
        "Annotations/one.xml": dogs,
        "Annotations/two.xml": cats,
        "Annotations/three.xml": dogs,
    })
    train, test = (load_dataset(tmp_path, split) for split in ("train", "test"))
    assert train.classes == test.classes == ("ape", "cat", "dog")
    assert train.labels.tolist() == [2, 1] and test.labels.tolist() == [2]


def test_voc_pictures_have_the_suffix_that_their_annotation_names(tmp_path):
    for file, wanted in (("one.PNG", "one.PNG"), ("other.png", "one.jpg"), ("one", "one.jpg")):
        text = XML.format(x1=50).replace("<size>", f"<filename>{file}</filename><size>")
        write(tmp_path, VOC | {"Annotations/one.xml": text})
        assert load_dataset(tmp_path, "test")[0].id == f"JPEGImages/{wanted}"


@pytest.mark.parametrize("file", ["one.png", r"C:\pictures\one.png", "/home/me/one.png"])
def test_voc_annotations_name_files_of_anybodys_disk(tmp_path, file):
    text = XML.format(x1=50).replace("<size>", f"<filename>{file}</filename><size>")
    write(tmp_path, VOC | {"Annotations/one.xml": text})
    assert load_dataset(tmp_path, "test")[0].id == "JPEGImages/one.png"


def test_voc_is_found_in_its_devkit(tmp_path):
    write(tmp_path/"VOCdevkit/VOC2007", VOC)
    assert len(load_dataset(tmp_path, "test")) == len(load_dataset(tmp_path/"VOCdevkit", "test")) == 1
    write(tmp_path/"VOCdevkit/VOC2012", VOC)
    with pytest.raises(ValueError, match="several data sets, name one: .*VOC2007, .*VOC2012"):
        load_dataset(tmp_path, "test")


def test_official_coco_folder(tmp_path):
    captions = MARKS | {"annotations": [{"id": 1, "image_id": 7, "caption": "a dog"}]}
    for split in ("train", "val"):
        write(tmp_path, {
            f"annotations/captions_{split}2017.json": json.dumps(captions),
            f"annotations/instances_{split}2017.json": json.dumps(MARKS),
            f"annotations/person_keypoints_{split}2017.json": json.dumps(MARKS),
        })
    for name in ("val", "val2017"):
        assert facts(load_dataset(tmp_path, name)) == [("a.jpg", "dog", (40, 50), [[2, 3, 12, 23]])]
    write(tmp_path, {"annotations/image_info_test2017.json": json.dumps(NO_ANNOTATIONS)})
    with pytest.raises(ValueError, match="image_info_test2017.json: not COCO, 'annotations'"):
        load_dataset(tmp_path, "test")
    layout, place = layouts.find_layout(tmp_path)
    assert layout.splits(place) == {"train", "val"}


def test_coco_boxes_without_area_are_left_out_and_counted(tmp_path):
    marks = MARKS | {
        "images": [*MARKS["images"], {"id": 8, "file_name": "b.jpg", "width": 50, "height": 40}],
        "annotations": [
            *MARKS["annotations"],
            {"id": 3, "image_id": 7, "category_id": 3, "bbox": [1, 1, 5, 0]},
            {"id": 4, "image_id": 8, "category_id": 3, "bbox": [1, 1, 0, 5]},
        ],
    }
    with pytest.warns(UserWarning) as warned:
        data = load_dataset(write(tmp_path, {"annotations/instances_test.json": json.dumps(marks)}), "test")
    assert facts(data) == [("a.jpg", "dog", (40, 50), [[2, 3, 12, 23]])]
    said = " ".join(str(w.message) for w in warned)
    assert "boxes without area are left out: 2 of 4" in said
    assert "pictures without a box are left out: 1 of 2" in said


def roboflow(folder, *splits, name="_annotations.coco.json"):
    for split in splits:
        write(folder, {f"{split}/{name}": json.dumps(MARKS)})
        picture(folder/split/"a.jpg")
    return folder


def test_coco_in_the_folders_of_its_splits(tmp_path):
    roboflow(tmp_path, "train", "valid", "Test")
    for split in ("train", "val", "valid", "test"):
        data = load_dataset(tmp_path, split)
        assert facts(data) == [("a.jpg", "dog", (40, 50), [[2, 3, 12, 23]])] and data[0].picture.shape == (40, 50, 3)
    layout, place = layouts.find_layout(tmp_path)
    assert layout.name == "COCO" and layout.splits(place) == {"train", "val", "test"}
    with pytest.raises(ValueError, match="no pictures of the split 'extra'; it has test, train, val"):
        load_dataset(tmp_path, "extra")


@pytest.mark.parametrize("inside", ["train", "valid", "Test"])
def test_one_split_of_coco_in_its_folder(tmp_path, inside):
    folder = roboflow(tmp_path, inside)/inside
    assert load_dataset(folder, inside)[0].picture.shape == (40, 50, 3)
    with pytest.raises(ValueError, match="no pictures of the split 'other'; it has "):
        load_dataset(folder, "other")


def test_two_coco_files_of_one_split(tmp_path):
    roboflow(tmp_path, "val", "valid")
    with pytest.raises(ValueError, match="val/_annotations.coco.json, valid/_annotations.coco.json are all of"):
        load_dataset(tmp_path, "val")


def test_coco_names_that_cannot_be_written(tmp_path):
    for old, new, why in (
        ('"dog"', r'"d\udce9g"', r"instances_test.json: the class 'd\udce9g' is not UTF-8"),
        ('"a.jpg"', r'"\ud800.jpg"', r"image 1 (id 7): the path '\ud800.jpg' is not UTF-8"),
        ('"a.jpg"', r'"a\u0000.jpg"', r"image 1 (id 7): the path 'a\x00.jpg' holds a NUL"),
    ):
        write(tmp_path, {"annotations/instances_test.json": json.dumps(MARKS).replace(old, new)})
        with pytest.raises(ValueError) as caught:
            load_dataset(tmp_path, "test")
        assert why in str(caught.value)


def test_other_json_does_not_make_a_folder_coco(tmp_path):
    picture(tmp_path/"test/cat/a.jpg")
    write(tmp_path, {"params.json": '{"delta0": 0.1}'})
    assert [s.id for s in load_dataset(tmp_path, "test")] == ["test/cat/a.jpg"]
    write(tmp_path, {"test.json": json.dumps(MARKS)})
    assert [s.id for s in load_dataset(tmp_path, "test")] == ["a.jpg"]


def lists(split, *rows): # of (path, class) in wsolevaluation's way
    return {
        f"{split}/image_ids.txt": "".join(f"{path}\n" for path, _ in rows),
        f"{split}/class_labels.txt": "".join(f"{path},{label}\n" for path, label in rows),
        f"{split}/image_sizes.txt": "".join(f"{path},50,40\n" for path, _ in rows),
        f"{split}/localization.txt": "".join(f"{path},1,1,9,9\n" for path, _ in rows),
    }


def test_cub_without_its_list_of_classes_takes_the_names_of_folders(tmp_path):
    write(tmp_path, {name: text for name, text in CUB.items() if name != "classes.txt"})
    assert load_dataset(tmp_path, "test").classes == ("001.Albatross", "002.Auk")


def test_class_names_are_the_same_in_every_split(tmp_path):
    write(tmp_path, lists("test", ("val/a.JPEG", 0), ("val/b.JPEG", 1)))
    write(tmp_path, lists("val", ("val2/0/0.jpeg", 0), ("val2/1/0.jpeg", 1)))
    for split in ("test", "val"):
        assert load_dataset(tmp_path, split).classes == ("class 0", "class 1")
    write(tmp_path, lists("train", ("train/n01440764/a.JPEG", 0), ("train/n01443537/b.JPEG", 1)))
    for split in ("train", "test", "val"):
        assert load_dataset(tmp_path, split).classes == ("n01440764", "n01443537")


def test_classes_of_pictures_without_folders_are_numbers(tmp_path):
    write(tmp_path, lists("test", ("a.jpg", 0)))
    assert load_dataset(tmp_path, "test").classes == ("class 0",)


def test_what_was_looked_for(tmp_path):
    wanted = r"CUB-200-2011 \(images.txt and train_test_split.txt\); wsolevaluation .*; COCO .*; VOC .*; ILSVRC-2012"
    with pytest.raises(ValueError, match=wanted):
        load_dataset(tmp_path)


def test_names_beyond_ascii_and_pictures_elsewhere(tmp_path):
    name = "zoö/пингвин 企鹅.png"
    files = {file: text.replace("a/1.jpg", name) for file, text in WSOL.items()}
    picture(tmp_path/"there"/name)
    sample = load_dataset(write(tmp_path/"lists", files), "test", pictures=tmp_path/"there")[0]
    assert sample.id == name and sample.picture.shape == (40, 50, 3)


CLIPPED = [
    (CUB, "bounding_boxes.txt", "6.0 2.0 32.0 30.0", "-1 -2 52 43", [0, 0, 50, 40]),
    (WSOL, "test/localization.txt", "5,6,20,30", "-1,-2,51,41", [0, 0, 50, 40]),
    (VOC, "Annotations/one.xml", "<xmin>1</xmin><ymin>1", "<xmin>0</xmin><ymin>-1", [0, 0, 50, 40]),
    (VOC, "Annotations/one.xml", "<xmax>50</xmax><ymax>40", "<xmax>51</xmax><ymax>41", [0, 0, 50, 40]),
    (COCO, "annotations/instances_test.json", "[2, 3, 10, 20]", "[-0.5, -1, 51, 42]", [0, 0, 50, 40]),
    (CSV, "index.csv", "1,2,30,20", "-1,-1,51,41", [0, 0, 50, 40]),
]


@pytest.mark.parametrize("files, name, old, new, box", CLIPPED)
def test_boxes_a_little_outside_are_clipped_in_every_layout(tmp_path, files, name, old, new, box):
    write(tmp_path, files | {name: files[name].replace(old, new)})
    with pytest.warns(UserWarning, match="1 of . boxes end outside their picture and are clipped"):
        assert load_dataset(tmp_path, "test")[0].boxes[0].tolist() == box


def test_clipped_boxes_are_counted_in_the_split_that_was_asked_for(tmp_path):
    write(tmp_path, CUB | {"bounding_boxes.txt": "1 -1 2 9 9\n2 5 6 45 30\n"})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_dataset(tmp_path, "train")
        with pytest.raises(UserWarning, match="1 of 1 boxes"):
            load_dataset(tmp_path, "test")


def test_a_box_left_of_a_picture_of_unknown_size(tmp_path):
    lists = {name: text for name, text in CUB.items() if name != "sizes.txt"}
    picture(tmp_path/"images/001.Albatross/a.jpg")
    write(tmp_path, lists | {"bounding_boxes.txt": "1 -1 2 30 30\n2 5 6 45 30\n"})
    with pytest.warns(UserWarning, match="1 of 1 boxes"):
        assert load_dataset(tmp_path, "test")[0].boxes.tolist() == [[0, 2, 29, 32]]
    write(tmp_path, {"bounding_boxes.txt": "1 -9 2 30 30\n2 5 6 45 30\n"})
    with pytest.raises(ValueError, match="bounding_boxes.txt, line 1: the box -9, 2, 21, 32"):
        load_dataset(tmp_path, "test")


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_the_line_of_a_byte_that_is_not_utf8(tmp_path, end):
    lines = [f"{k} 001.Albatross/{k}.jpg" for k in range(1, 3000)]
    write(tmp_path, CUB, end)
    (tmp_path/"images.txt").write_bytes(end.join(lines).encode().replace(b"/2500.jpg", b"/\xe9.jpg"))
    with pytest.raises(ValueError, match="images.txt, line 2500: not UTF-8"):
        load_dataset(tmp_path, "test")
    (tmp_path/"images.txt").write_bytes(end.join(lines).encode("utf-16"))
    with pytest.raises(ValueError, match="images.txt, line 1: UTF-16, expected UTF-8"):
        load_dataset(tmp_path, "test")


def test_lists_written_on_windows(tmp_path):
    files = {name: text.replace("/", "\\") for name, text in WSOL.items()}
    assert facts(load_dataset(write(tmp_path, files, "\r\n"), "test")) == [FIRST, SECOND]


def test_numbers_of_a_spreadsheet(tmp_path):
    files = WSOL | {"test/class_labels.txt": "a/1.jpg,0.0\nb/2.jpg,1.0\n"}
    files["test/image_sizes.txt"] = "a/1.jpg,50.0,40.0\nb/2.jpg,60,40.0\n"
    assert facts(load_dataset(write(tmp_path, files), "test")) == [FIRST, SECOND]
    write(tmp_path, {"test/class_labels.txt": "a/1.jpg,0.5\nb/2.jpg,1\n"})
    with pytest.raises(ValueError, match="class_labels.txt, line 1: the class must be whole numbers, got 0.5"):
        load_dataset(tmp_path, "test")


def test_hidden_files_are_no_lists(tmp_path):
    for files, hidden in (
        (VOC, ["Annotations/._one.xml", "ImageSets/Main/._test.txt", "ImageSets/Main/._dog_test.txt"]),
        (COCO, ["annotations/._instances_test.json"]),
        (WSOL, ["test/._image_ids.txt", "__MACOSX/image_ids.txt"]),
    ):
        folder = tmp_path/str(len(hidden))
        write(folder, files | dict.fromkeys(hidden, "Mac OS X \0"))
        assert [c for c in load_dataset(folder, "test").classes if c not in ("cat", "dog", "a", "b")] == []
        layout, place = layouts.find_layout(folder)
        assert set(layout.splits(place)) == {"test"}


def test_pictures_of_wsolevaluation_are_not_turned(tmp_path, monkeypatch):
    monkeypatch.setattr(layouts, "_LARGE", 1)
    monkeypatch.setenv("LOCLOC_CACHE", str(tmp_path/"cache"))
    exif = Image.Exif()
    exif[0x112] = 6
    write(tmp_path, {
        "val/image_ids.txt": "v/a.png\n",
        "val/class_labels.txt": "v/a.png,0\n",
        "val/image_sizes.txt": "",
        "val/localization.txt": "v/a.png,v/m.png,\n",
    })
    grey = np.zeros((40, 50), np.uint8)
    grey[:9] = 255
    (tmp_path/"v").mkdir()
    Image.fromarray(np.stack([grey]*3, -1)).save(tmp_path/"v/a.png", exif=exif)
    Image.fromarray(grey).save(tmp_path/"v/m.png")
    for _ in ("read", "as it was kept"):
        (sample,) = load_dataset(tmp_path, "val")
        assert sample.size == (40, 50)
        np.testing.assert_array_equal(sample.picture[..., 0] > 0, sample.mask)


def test_lists_that_are_not_utf8(tmp_path):
    write(tmp_path/"latin", WSOL)
    (tmp_path/"latin/test/image_ids.txt").write_bytes("é.jpg\n".encode("latin-1"))
    with pytest.raises(ValueError, match="image_ids.txt, line 1: not UTF-8"):
        load_dataset(tmp_path/"latin", "test")


def test_pictures_lie_where_wsolevaluation_wants_them(tmp_path):
    picture(tmp_path/"dataset/CUB/a/1.jpg")
    sample = load_dataset(write(tmp_path/"metadata/CUB", WSOL), "test")[0]
    assert sample.picture.shape == (40, 50, 3)


@pytest.mark.parametrize("files, where, at", [
    (WSOL, "metadata/CUB", "dataset/CUB/a/1.jpg"),
    (COCO, "coco", "coco/images/a.jpg"),
    (COCO, "coco", "coco/test/a.jpg"),
])
def test_pictures_that_come_after_the_index_was_kept(tmp_path, monkeypatch, files, where, at):
    monkeypatch.setattr(layouts, "_LARGE", 1)
    monkeypatch.setenv("LOCLOC_CACHE", str(tmp_path/"cache"))
    folder = write(tmp_path/where, files)
    load_dataset(folder, "test")
    picture(tmp_path/at)
    assert load_dataset(folder, "test")[0].picture.shape == (40, 50, 3)
    assert len(list((tmp_path/"cache").iterdir())) == 1


def opened(sample):
    return sample.picture


def test_picture_faults(tmp_path):
    data = load_dataset(write(tmp_path, CUB), "train")
    path = tmp_path/"images/002.Auk/b.jpg"
    with pytest.raises(PictureError, match="no such file"):
        opened(data[0])
    path.parent.mkdir(parents=True)
    path.touch()
    with pytest.raises(PictureError, match="b.jpg: the file is empty"):
        opened(data[0])
    picture(path, (51, 40))
    with pytest.raises(PictureError, match="is 51 x 40, but .*sizes.txt says 50 x 40"):
        opened(data[0])


def test_cub_without_sizes_reads_headers_and_finds_its_folder(tmp_path):
    write(tmp_path/"CUB_200_2011", {k: v for k, v in CUB.items() if k != "sizes.txt"})
    picture(tmp_path/"CUB_200_2011/images/001.Albatross/a.jpg", (60, 45))
    assert load_dataset(tmp_path, "test")[0].size == (45, 60)


def test_masks_and_ignore_regions(tmp_path):
    write(tmp_path, {
        "val/image_ids.txt": "v/a.png\n",
        "val/class_labels.txt": "v/a.png,0\n",
        "val/image_sizes.txt": "",
        "val/localization.txt": "v/a.png,v/m1.png,v/i.png\nv/a.png,v/m2.png,\n",
    })
    picture(tmp_path/"v/a.png", (8, 8))
    for name, columns, value in (("m1", slice(0, 2), 255), ("m2", slice(2, 4), 1), ("i", slice(3, 6), 255)):
        grey = np.zeros((8, 8), np.uint8)
        grey[:, columns] = value
        Image.fromarray(grey).save(tmp_path/f"v/{name}.png")
    (sample,) = load_dataset(tmp_path, "val")
    regions = get_protocol("wsoleval").regions(sample.mask, sample.ignore)
    assert regions[0, ::28].tolist() == [1, 1, 1, 1, 255, 255, 0, 0] and regions.shape == (224, 224)
    metric = PxAP()
    metric.update(sample.mask.astype(float).repeat(28, 0).repeat(28, 1), regions)
    assert metric.compute() == 100 and sample.boxes is None


def test_masks_lie_with_the_pictures_unless_they_have_a_folder(tmp_path):
    files = {
        "val/image_ids.txt": "v/a.png\n",
        "val/class_labels.txt": "v/a.png,0\n",
        "val/image_sizes.txt": "",
        "val/localization.txt": "v/a.png,v/m.png,v/i.png\n",
    }
    for name in ("a", "m", "i"):
        picture(tmp_path/f"there/v/{name}.png")
    (sample,) = load_dataset(write(tmp_path/"lists", files), "val", pictures=tmp_path/"there")
    assert sample.mask.shape == sample.ignore.shape == (40, 50)
    for name in ("m", "i"):
        picture(tmp_path/f"masks/v/{name}.png", (8, 8))
    (sample,) = load_dataset(tmp_path/"lists", "val", pictures=tmp_path/"there")
    assert sample.mask.shape == sample.ignore.shape == (8, 8)


def ilsvrc(folder):
    devkit = folder/"ILSVRC2012_devkit_t12/data"
    devkit.mkdir(parents=True)
    dtype = [("ILSVRC2012_ID", "O"), ("WNID", "O")]
    synsets = np.array([(1, "n02119789"), (2, "n01440764"), (1001, "n00000001")], dtype=dtype)
    savemat(devkit/"meta.mat", {"synsets": synsets})
    return write(folder, {
        "ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt": "2\n1\n",
        "bbox/val/ILSVRC2012_val_00000001.xml": XML.format(x1=50),
        "bbox/val/ILSVRC2012_val_00000002.xml": XML.format(x1=49),
        "train/n01440764/n01440764_1.JPEG": "",
        "train/n02119789/n02119789_2.JPEG": "",
    })


def test_ilsvrc_official(tmp_path):
    ilsvrc(tmp_path)
    train, test = (load_dataset(tmp_path, split) for split in ("train", "test"))
    assert train.classes == test.classes == ("n01440764", "n02119789")
    assert train.labels.tolist() == test.labels.tolist() == [0, 1]
    boxes = [[1, 1, 50, 40], [3, 3, 9, 9]]
    assert facts(test)[0] == ("val/ILSVRC2012_val_00000001.JPEG", "n01440764", (40, 50), boxes)
    with pytest.raises(ValueError, match="ImageNetV2"):
        load_dataset(tmp_path, "val")
    (tmp_path/"ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt").write_text("2\n3\n")
    with pytest.raises(ValueError, match="ground_truth.txt, line 2: class 3 is outside 1 to 2"):
        load_dataset(tmp_path, "test")


def kaggle(folder):
    boxes = "<object><name>{}</name><bndbox><xmin>5</xmin><ymin>5</ymin><xmax>9</xmax><ymax>9</ymax></bndbox></object>"
    size = "<size><width>50</width><height>40</height></size>"
    for k, wnid in ((1, "n02119789"), (2, "n01440764")):
        name = f"ILSVRC2012_val_0000000{k}"
        picture(folder/f"ILSVRC/Data/CLS-LOC/val/{name}.JPEG")
        picture(folder/f"ILSVRC/Data/CLS-LOC/train/{wnid}/{wnid}_{k}.JPEG")
        write(folder, {f"ILSVRC/Annotations/CLS-LOC/val/{name}.xml":
                       f"<annotation>{size}{boxes.format(wnid)}</annotation>"})
    return write(folder, {"LOC_val_solution.csv": "ImageId,PredictionString\n"
                          "ILSVRC2012_val_00000002,n01440764 5 5 9 9 \nILSVRC2012_val_00000001,n02119789 5 5 9 9 \n"})


KAGGLE = [
    ("val/ILSVRC2012_val_00000001.JPEG", "n02119789", (40, 50), [[5, 5, 9, 9]]),
    ("val/ILSVRC2012_val_00000002.JPEG", "n01440764", (40, 50), [[5, 5, 9, 9]]),
]


@pytest.mark.parametrize("name", ["", "ILSVRC"])
def test_ilsvrc_of_kaggle(tmp_path, name):
    kaggle(tmp_path)
    train, test = (load_dataset(tmp_path/name, split) for split in ("train", "test"))
    assert facts(test) == KAGGLE and test[0].picture.shape == (40, 50, 3)
    assert train.classes == test.classes == ("n01440764", "n02119789")
    (tmp_path/"LOC_val_solution.csv").unlink() # then the annotations say it
    assert facts(load_dataset(tmp_path/name, "test")) == KAGGLE


def test_ilsvrc_of_kaggle_without_what_says_the_classes(tmp_path):
    kaggle(tmp_path)
    (tmp_path/"LOC_val_solution.csv").write_text("ImageId,PredictionString\nILSVRC2012_val_00000001,n02119789 5 5 9 9")
    with pytest.raises(ValueError, match="LOC_val_solution.csv: does not name .*00000002.JPEG"):
        load_dataset(tmp_path, "test")
    (tmp_path/"LOC_val_solution.csv").write_text("ImageId,PredictionString\nILSVRC2012_val_00000001,5 5 9 9\n")
    with pytest.raises(ValueError, match="LOC_val_solution.csv, line 2: expected a WordNet number"):
        load_dataset(tmp_path, "test")
    (tmp_path/"LOC_val_solution.csv").unlink()
    shutil.rmtree(tmp_path/"ILSVRC/Annotations")
    with pytest.raises(ValueError, match="no class folders .*meta.mat, Kaggle's LOC_val_solution.csv"):
        load_dataset(tmp_path, "test")
    assert len(load_dataset(tmp_path, "train")) == 2


def test_a_picture_of_ilsvrc_whose_name_is_not_utf8(tmp_path):
    write(tmp_path, {os.fsdecode(b"train/n01440764/caf\xe9.JPEG"): ""})
    with pytest.raises(ValueError, match=r"the name 'train/n01440764/caf\\udce9.JPEG' is not UTF-8"):
        load_dataset(tmp_path)


def test_an_annotation_edited_in_place_is_read_again(tmp_path, monkeypatch):
    monkeypatch.setattr(layouts, "_LARGE", 1)
    monkeypatch.setenv("LOCLOC_CACHE", str(tmp_path/"cache"))
    ilsvrc(tmp_path/"it")
    assert load_dataset(tmp_path/"it", "test")[0].boxes[0].tolist() == [1, 1, 50, 40]
    assert len(list((tmp_path/"cache").iterdir())) == 1
    (tmp_path/"it/bbox/val/ILSVRC2012_val_00000001.xml").write_text(XML.format(x1=7))
    assert load_dataset(tmp_path/"it", "test")[0].boxes[0].tolist() == [1, 1, 7, 40]


def test_a_large_index_is_kept_and_made_anew_when_a_list_changes(tmp_path, monkeypatch):
    monkeypatch.setattr(layouts, "_LARGE", 1)
    monkeypatch.setenv("LOCLOC_CACHE", str(tmp_path/"cache"))
    folder = write(tmp_path/"lists", WSOL)
    first = facts(load_dataset(folder, "test"))
    (kept,) = (tmp_path/"cache").iterdir()
    reads = []
    monkeypatch.setattr(layouts._Builder, "__init__", lambda self: reads.append(1))
    assert facts(load_dataset(folder, "test")) == first and not reads
    monkeypatch.undo()
    monkeypatch.setattr(layouts, "_LARGE", 1)
    monkeypatch.setenv("LOCLOC_CACHE", str(tmp_path/"cache"))
    write(folder, {"test/localization.txt": "a/1.jpg,5,6,21,31\nb/2.jpg,0,0,59,21\n"})
    assert facts(load_dataset(folder, "test"))[0][3] == [[5, 6, 21, 31]]
    for broken in (b"cut off", kept.read_bytes()[:99]):
        for path in (tmp_path/"cache").iterdir():
            path.write_bytes(broken)
        assert facts(load_dataset(folder, "test"))[0][3] == [[5, 6, 21, 31]]


def test_an_index_with_large_lists_is_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("LOCLOC_CACHE", str(tmp_path/"cache"))
    monkeypatch.setattr(layouts, "_LARGE_LISTS", 300)
    load_dataset(write(tmp_path/"lists", WSOL), "test")
    assert not (tmp_path/"cache").exists()
    rows = [(f"a/{k}.jpg", 0) for k in range(99)]
    write(tmp_path/"lists", lists("train", *rows, ("b/1.jpg", 1)))
    load_dataset(tmp_path/"lists", "test")
    assert len(list((tmp_path/"cache").iterdir())) == 1


# the published lists

def published(*parts):
    root = Path(os.environ.get("LOCLOC_ANNOTATIONS", ""))/Path(*parts)
    if not os.environ.get("LOCLOC_ANNOTATIONS") or not root.is_dir():
        pytest.skip(f"LOCLOC_ANNOTATIONS does not name a folder with {Path(*parts)}")
    return root


def test_counts_of_the_published_lists():
    cub, wsol = published("CUB_200_2011"), published("wsolevaluation")
    assert [len(load_dataset(cub, s)) for s in ("train", "test", "all")] == [5994, 5794, 11788]
    for name, split, pictures, boxes in (
        ("ILSVRC", "test", 50000, 80477),
        ("ILSVRC", "val", 10000, 18532),
        ("CUB", "val", 1000, 1000),
    ):
        index = load_dataset(wsol/name, split).samples.make.args[0]
        assert (len(index), len(index.boxes)) == (pictures, boxes)


def test_official_and_wsolevaluation_cub_are_the_same():
    ours = load_dataset(published("CUB_200_2011"), "test")
    theirs = load_dataset(published("wsolevaluation", "CUB"), "test")
    boxes = {s.id: s.boxes.tolist() for s in theirs}
    assert ours.labels.tolist() == theirs.labels.tolist() and len(boxes) == 5794
    assert np.mean([boxes[s.id] == np.floor(s.boxes).tolist() for s in ours]) > .99


CUB_LISTS, WSOL_CUB, WSOL_ILSVRC = ("CUB_200_2011",), ("wsolevaluation", "CUB"), ("wsolevaluation", "ILSVRC")


@pytest.mark.parametrize("parts, protocol, whole, centred", [
    (CUB_LISTS, "wsoleval", 19.0, 59.6),
    (CUB_LISTS, "bas", 34.8, 62.5),
    (CUB_LISTS, "locloc", 50.4, 69.7),
    (CUB_LISTS, "locloc_first_box", 50.4, 69.7),
    (WSOL_CUB, "wsoleval", 19.0, 59.6),
    (WSOL_CUB, "bas", 34.8, 62.5),
    (WSOL_CUB, "locloc", 50.4, 69.7),
    (WSOL_ILSVRC, "wsoleval", 41.1, 54.0),
    (WSOL_ILSVRC, "bas", 50.6, 56.9),
    (WSOL_ILSVRC, "locloc_first_box", 55.1, 58.4),
])
def test_trivial_rows_of_the_published_lists(parts, protocol, whole, centred):
    data, protocol = load_dataset(published(*parts), "test"), get_protocol(protocol)
    answers = trivial_boxes(protocol, np.arange(1, 15)/14) # sides of 16, 32, ... 224 px
    ious = []
    for sample in data:
        boxes = protocol.boxes(sample.boxes, sample.size, protocol.inclusive)
        ious.append(box_iou(answers, boxes, protocol.end_pixels).max(1))
    shares = 100*(np.array(ious) >= protocol.least_iou).mean(0)
    assert abs(shares[-1] - whole) <= .1 and abs(shares.max() - centred) <= .1


def merged(paths): # masks as the protocol squashes them, any of them
    masks = [cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) for path in paths]
    return np.any([cv2.resize(mask, (224, 224), interpolation=cv2.INTER_NEAREST) > 0 for mask in masks], axis=0)


def test_published_masks_of_open_images():
    lists, masks = published("wsolevaluation", "OpenImages"), published("wsolevaluation", "masks")
    data = load_dataset(lists, "val")
    there = {path.name.split("_")[0] for path in masks.rglob("*_ignore.png")}
    found = [i for i, path in enumerate(data.samples.make.args[0].paths) if Path(path.decode()).stem in there]
    assert (len(data), len(data.classes), len(found)) == (2500, 100, 5)
    metric = PxAP()
    for i in found:
        sample = data[i]
        stem = Path(sample.id).stem
        regions = get_protocol("wsoleval").regions(sample.mask, sample.ignore)
        wanted = merged(masks.rglob(f"{stem}_m*.png")).astype(np.uint8)
        wanted[merged(masks.rglob(f"{stem}_ignore*.png")) & (wanted == 0)] = 255
        np.testing.assert_array_equal(regions, wanted)
        metric.update((regions == 1).astype(float), regions)
    assert metric.compute() == 100
