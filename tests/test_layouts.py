"Tiny hand-made copies of each layout, broken ones, and the published lists where they are."
import json
import os
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
CUB = {"images.txt": "1 001.Albatross/a.jpg\n2 002.Auk/b.jpg\n", "image_class_labels.txt": "1 1\n2 2\n", "train_test_split.txt": "1 0\n2 1\n",
       "sizes.txt": "1 50 40\n2 50 40\n", "bounding_boxes.txt": "1 6.0 2.0 32.0 30.0\n2 5.0 6.0 46.0 30.0\n", "classes.txt": "1 001.Albatross\n2 002.Auk\n"}
WSOL = {"test/image_ids.txt": "a/1.jpg\nb/2.jpg\n", "test/class_labels.txt": "a/1.jpg,0\nb/2.jpg,1\n", "test/image_sizes.txt": "a/1.jpg,50,40\nb/2.jpg,60,40\n",
        "test/localization.txt": "b/2.jpg,0,0,59,20\na/1.jpg,5,6,20,30\nb/2.jpg,7,7,9,9\n"}
VOC = {"ImageSets/Main/test.txt": "one\n", "Annotations/one.xml": XML.format(x1=50)}
CSV = {"index.csv": "image,class,split,width,height,x0,y0,x1,y1,mask\na.jpg,cat,test,50,40,1,2,30,20,\n"}
MARKS = {"images": [{"id": 7, "file_name": "a.jpg", "width": 50, "height": 40}], "categories": [{"id": 3, "name": "dog"}],
         "annotations": [{"id": 1, "image_id": 7, "category_id": 3, "bbox": [2, 3, 10, 20]}, {"id": 2, "image_id": 7, "category_id": 3, "bbox": [0, 0, 50, 40], "iscrowd": 1}]}
COCO = {"annotations/instances_test.json": json.dumps(MARKS)}


def write(folder, files, end="\n", encoding="utf-8"):
    for name, text in files.items():
        (folder/name).parent.mkdir(parents=True, exist_ok=True)
        (folder/name).write_bytes(text.replace("\n", end).encode(encoding))
    return folder


def picture(path, size=(50, 40)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, "red").save(path)


def facts(data): return [(s.id, data.classes[s.label], s.size, s.boxes.tolist()) for s in data]


WHOLE = [(CUB, "train", [("002.Auk/b.jpg", "002.Auk", (40, 50), [[5, 6, 50, 36]])]),
         (CUB, "test", [("001.Albatross/a.jpg", "001.Albatross", (40, 50), [[6, 2, 38, 32]])]),
         (WSOL, "test", [("a/1.jpg", "a", (40, 50), [[5, 6, 20, 30]]), ("b/2.jpg", "b", (40, 60), [[0, 0, 59, 20], [7, 7, 9, 9]])]),
         (VOC, "test", [("JPEGImages/one.jpg", "dog", (40, 50), [[0, 0, 50, 40]])]),
         (COCO, "test", [("a.jpg", "dog", (40, 50), [[2, 3, 12, 23]])]),
         (CSV, "test", [("a.jpg", "cat", (40, 50), [[1, 2, 30, 20]])])]


@pytest.mark.parametrize("options", [{}, {"end": "\r\n"}, {"encoding": "utf-8-sig"}, {"end": "\r\n", "encoding": "utf-8-sig"}])
@pytest.mark.parametrize("files, split, wanted", WHOLE)
def test_layouts_open_without_pictures(tmp_path, files, split, wanted, options):
    assert facts(load_dataset(write(tmp_path, files, **options), split)) == wanted


@pytest.mark.parametrize("files, name, text, why", [
    (CUB, "images.txt", "1 a.jpg\n1 b.jpg\n", "images.txt, line 2: picture 1 is there twice"),
    (CUB, "images.txt", "1 a.jpg\n2 a.jpg\n", "images.txt, line 2: images/a.jpg is there twice"),
    (CUB, "images.txt", "1 a.jpg\n2 ../b.jpg\n", "images.txt, line 2: the path"),
    (CUB, "images.txt", "1 a.jpg\n2 b.jpg x\n", "images.txt, line 2: expected 2 values, got 3"),
    (CUB, "image_class_labels.txt", "1 0\n2 1\n", "image_class_labels.txt, line 1: class 0 is outside 1 to 2"),
    (CUB, "image_class_labels.txt", "1 1\n2 3\n", "image_class_labels.txt, line 2: class 3 is outside 1 to 2"),
    (CUB, "image_class_labels.txt", "1 1\n3 2\n", "image_class_labels.txt, line 2: picture 3 is not in the list of pictures"),
    (CUB, "image_class_labels.txt", "1 1\n", "image_class_labels.txt: does not name every picture"),
    (CUB, "train_test_split.txt", "1 0\n2 2\n", "train_test_split.txt, line 2: expected 1 (train) or 0 (test), got 2"),
    (CUB, "bounding_boxes.txt", "1 6 2 32 30\n2 5 6 57 30\n", "bounding_boxes.txt, line 2: the box 5, 6, 62, 36"),
    (CUB, "bounding_boxes.txt", "1 6 2 nan 30\n", "bounding_boxes.txt, line 1: the box"),
    (CUB, "bounding_boxes.txt", "1 6 2 wide 30\n", "bounding_boxes.txt, line 1: x, y, width, height must be numbers, got 6, 2, wide, 30"),
    (CUB, "bounding_boxes.txt", None, "bounding_boxes.txt: no such file"),
    (CUB, "images.txt", None, "images.txt: no such file"),
    (CUB, "bounding_boxes.txt", "1 6 2 32 30\n", "bounding_boxes.txt: does not name every picture, 1 of 2 are missing"),
    (CUB, "bounding_boxes.txt", "1 6 2 32 30\n1 6 2 32 30\n", "bounding_boxes.txt, line 2: picture 1 is there twice"),
    (CUB, "image_class_labels.txt", "1 1\n1 2\n2 2\n", "image_class_labels.txt, line 2: picture 1 is there twice"),
    (CUB, "train_test_split.txt", "1 0\n1 1\n2 1\n", "train_test_split.txt, line 2: picture 1 is there twice"),
    (CUB, "classes.txt", "2 002.Auk\n1 001.Albatross\n", "classes.txt, line 1: expected class 1, got 2"),
    (CUB, "classes.txt", "1 001.Albatross\n3 002.Auk\n", "classes.txt, line 2: expected class 2, got 3"),
    (CUB, "sizes.txt", "1 50 40\n2 -50 40\n", "sizes.txt, line 2: width, height must be positive whole numbers below 2147483648, got -50, 40"),
    (CUB, "sizes.txt", "1 0 0\n2 50 40\n", "sizes.txt, line 1: width, height must be positive"),
    (CUB, "sizes.txt", "1 5000000000 40\n2 50 40\n", "sizes.txt, line 1: width, height must be positive whole numbers below 2147483648, got 5000000000, 40"),
    (CUB, "sizes.txt", "2 50 40\n", "sizes.txt: does not name every picture"),
    (CSV, "index.csv", CSV["index.csv"].replace("50,", "5000000000,"), "index.csv, line 2: width, height must be positive whole numbers below 2147483648"),
    (WSOL, "test/localization.txt", "b/2.jpg,0,0,59,20\n", "localization.txt: does not name every picture, 1 of 2 are missing"),
    (WSOL, "test/class_labels.txt", "a/1.jpg,0\nb/2.jpg,1\na/1.jpg,1\n", "class_labels.txt, line 3: picture a/1.jpg is there twice"),
    (WSOL, "test/image_sizes.txt", "a/1.jpg,50,40\n", "image_sizes.txt: does not name every picture"),
    (WSOL, "test/localization.txt", "a/1.jpg,m.png,i.png\na/1.jpg,n.png,j.png\n", "localization.txt, line 2: a second ignore region"),
    (WSOL, "test/image_ids.txt", "a/1.jpg\na/1.jpg\n", "image_ids.txt, line 2: a/1.jpg is there twice"),
    (WSOL, "test/class_labels.txt", "a/1.jpg,0\nb/2.jpg,-1\n", "class_labels.txt, line 2: class -1 is outside"),
    (WSOL, "test/class_labels.txt", "a/1.jpg,0\nb/2.jpg,1,1\n", "class_labels.txt, line 2: expected 2 values, got 3"),
    (WSOL, "test/class_labels.txt", None, "class_labels.txt: no such file"),
    (WSOL, "test/image_sizes.txt", "a/1.jpg,50,forty\n", "image_sizes.txt, line 1: width, height must be whole numbers"),
    (WSOL, "test/localization.txt", "a/1.jpg,5,6,51,30\n", "localization.txt, line 1: the box 5, 6, 51, 30"),
    (WSOL, "test/localization.txt", "c/1.jpg,5,6,51,30\n", "localization.txt, line 1: picture c/1.jpg is not in the list of pictures"),
    (WSOL, "test/localization.txt", None, "localization.txt: no such file"),
    (VOC, "Annotations/one.xml", XML.format(x1=51), "one.xml, line 3: the box 0, 0, 51, 40"),
    (VOC, "Annotations/one.xml", "<annotation>\n<size>", "one.xml, line 2: not XML"),
    (VOC, "Annotations/one.xml", None, "one.xml: no such file"),
    (VOC, "ImageSets/Main/test.txt", "one\none\n", "test.txt, line 2: picture one is there twice"),
    (VOC, "Annotations/one.xml", XML.format(x1=60).replace("<object><name>dog", "<!-- <object> -->\n<object><name>dog"), "one.xml, line 4: the box 0, 0, 60, 40"),
    (VOC, "Annotations/one.xml", XML.format(x1=50).replace("<name>cat</name>", ""), "one.xml, line 4: the object has no name"),
    (VOC, "Annotations/one.xml", XML.format(x1=50).replace(">50</width>", ">-5</width>"), "one.xml: width, height must be positive"),
    (VOC, "Annotations/one.xml", "<?xml version='1.0' encoding='nonsense'?><annotation/>", "one.xml, line 1: not XML"),
    (COCO, "annotations/instances_test.json", '{"images": [],\n 3}', "instances_test.json, line 2: not JSON"),
    (COCO, "annotations/instances_test.json", '{"images": []}', "instances_test.json: not COCO"),
    (COCO, "annotations/instances_test.json", json.dumps(MARKS).replace("[2,", "[48,"), "annotation 1 (id 1): the box 48, 3, 58, 23"),
    (COCO, "annotations/instances_test.json", json.dumps(MARKS).replace('"image_id": 7', '"image_id": 8'), "annotation 1 (id 1): picture 8 is not among"),
    (COCO, "annotations/instances_test.json", json.dumps(MARKS | {"annotations": None}), "instances_test.json: not COCO, 'annotations' must be a list of objects"),
    (COCO, "annotations/instances_test.json", json.dumps(MARKS | {"annotations": ["x"]}), "instances_test.json: not COCO, 'annotations' must be a list of objects"),
    (COCO, "annotations/instances_test.json", json.dumps({k: v for k, v in MARKS.items() if k != "annotations"}), "instances_test.json: not COCO, 'annotations'"),
    (COCO, "annotations/instances_test.json", "["*100_000, "instances_test.json: not COCO"),
    (COCO, "annotations/instances_test.json", json.dumps(MARKS).replace("[2, 3, 10, 20]", "null"), "instances_test.json, annotation 1 (id 1): bbox must be a list, got null"),
    (COCO, "annotations/instances_test.json", json.dumps(MARKS).replace("[2, 3, 10, 20]", "[]"), "annotation 1 (id 1): bbox must be 4 numbers, got []"),
    (COCO, "annotations/instances_test.json", json.dumps(MARKS).replace("[2, 3, 10, 20]", '["2", 3, 10, 20]'), "annotation 1 (id 1): bbox must be 4 numbers"),
    (COCO, "annotations/instances_test.json", json.dumps(MARKS).replace("[2,", f"[{10**400},"), "instances_test.json, annotation 1 (id 1): "),
    (COCO, "annotations/instances_test.json", json.dumps(MARKS).replace('"category_id": 3', '"category_id": 4'), "annotation 1 (id 1): category 4 is not among"),
    (COCO, "annotations/instances_test.json", json.dumps(MARKS).replace('"width": 50', '"width": "w"'), 'instances_test.json, image 1 (id 7): width must be a number, got "w"'),
    (COCO, "annotations/instances_test.json", json.dumps(MARKS).replace('"a.jpg"', '"../a.jpg"'), "instances_test.json, image 1 (id 7): the path '../a.jpg'"),
    (COCO, "annotations/instances_test.json", json.dumps(MARKS | {"images": MARKS["images"]*2}), "instances_test.json, image 2 (id 7): another has the same id"),
    (COCO, "annotations/instances_test.json", json.dumps(MARKS | {"images": [*MARKS["images"], MARKS["images"][0] | {"id": 8}]}), "instances_test.json, image 2 (id 8): a.jpg is there twice"),
    (COCO, "annotations/instances_test.json", json.dumps(MARKS | {"categories": MARKS["categories"]*2}), "instances_test.json, category 2 (id 3): another has the same id"),
])
def test_broken_layouts_say_where(tmp_path, files, name, text, why):
    write(tmp_path, files)
    (tmp_path/name).unlink() if text is None else (tmp_path/name).write_text(text)
    with pytest.raises(ValueError) as caught:
        load_dataset(tmp_path, "test")
    assert why in str(caught.value) and str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("files", [CUB, WSOL, VOC, COCO, CSV])
def test_a_split_that_is_not_there(tmp_path, files):
    with pytest.raises(ValueError, match="no pictures of the split 'nope'; it has .*test"):
        load_dataset(write(tmp_path, files), "nope")


def test_json_that_is_not_utf8(tmp_path):
    write(tmp_path, COCO)
    (tmp_path/"annotations/instances_test.json").write_bytes(b'{"images": "\xe9"}')
    with pytest.raises(ValueError, match="instances_test.json: not UTF-8"):
        load_dataset(tmp_path, "test")


def test_xml_in_the_encoding_it_names(tmp_path):
    write(tmp_path, VOC)
    text = "<?xml version='1.0' encoding='ISO-8859-1'?>\n" + XML.format(x1=50).replace("<name>dog</name>", "<name> perché\n</name>")
    (tmp_path/"Annotations/one.xml").write_bytes(text.encode("latin-1"))
    data = load_dataset(tmp_path, "test")
    assert data.classes[data[0].label] == "perché"


def test_voc_classes_are_those_of_all_splits(tmp_path):
    one, two = (XML.format(x1=50).replace("cat", "dog").replace("dog", kind) for kind in ("dog", "cat"))
    files = {"ImageSets/Main/train.txt": "one\ntwo\n", "ImageSets/Main/test.txt": "three\n", "ImageSets/Main/ape_train.txt": "one -1\n",
             "Annotations/one.xml": one, "Annotations/two.xml": two, "Annotations/three.xml": one}
    train, test = (load_dataset(write(tmp_path, files), split) for split in ("train", "test"))
    assert train.classes == test.classes == ("ape", "cat", "dog") and train.labels.tolist() == [2, 1] and test.labels.tolist() == [2]


def test_voc_pictures_have_the_suffix_that_their_annotation_names(tmp_path):
    named = lambda file: VOC | {"Annotations/one.xml": XML.format(x1=50).replace("<size>", f"<filename>{file}</filename><size>")}
    for file, wanted in (("one.PNG", "one.PNG"), ("other.png", "one.jpg"), ("one", "one.jpg")):
        assert load_dataset(write(tmp_path, named(file)), "test")[0].id == f"JPEGImages/{wanted}"


def test_voc_is_found_in_its_devkit(tmp_path):
    write(tmp_path/"VOCdevkit/VOC2007", VOC)
    assert len(load_dataset(tmp_path, "test")) == len(load_dataset(tmp_path/"VOCdevkit", "test")) == 1
    write(tmp_path/"VOCdevkit/VOC2012", VOC)
    with pytest.raises(ValueError, match="several data sets, name one: .*VOC2007, .*VOC2012"):
        load_dataset(tmp_path, "test")


def test_official_coco_folder(tmp_path):
    captions = json.dumps(MARKS | {"annotations": [{"id": 1, "image_id": 7, "caption": "a dog"}]})
    write(tmp_path, {f"annotations/{kind}_{split}2017.json": captions if kind == "captions" else json.dumps(MARKS) for kind in ("captions", "instances", "person_keypoints") for split in ("train", "val")})
    assert facts(load_dataset(tmp_path, "val")) == facts(load_dataset(tmp_path, "val2017")) == [("a.jpg", "dog", (40, 50), [[2, 3, 12, 23]])]
    write(tmp_path, {"annotations/image_info_test2017.json": json.dumps({k: v for k, v in MARKS.items() if k != "annotations"})})
    with pytest.raises(ValueError, match="image_info_test2017.json: not COCO, 'annotations'"):
        load_dataset(tmp_path, "test")
    layout, place = layouts.find_layout(tmp_path)
    assert layout.splits(place) == {"train", "val"}


def test_coco_boxes_without_area_are_left_out_and_counted(tmp_path):
    marks = MARKS | {"images": [*MARKS["images"], {"id": 8, "file_name": "b.jpg", "width": 50, "height": 40}],
                     "annotations": [*MARKS["annotations"], {"id": 3, "image_id": 7, "category_id": 3, "bbox": [1, 1, 5, 0]}, {"id": 4, "image_id": 8, "category_id": 3, "bbox": [1, 1, 0, 5]}]}
    with pytest.warns(UserWarning) as warned:
        data = load_dataset(write(tmp_path, {"annotations/instances_test.json": json.dumps(marks)}), "test")
    assert facts(data) == [("a.jpg", "dog", (40, 50), [[2, 3, 12, 23]])]
    said = " ".join(str(w.message) for w in warned)
    assert "boxes without area are left out: 2 of 4" in said and "pictures without a box are left out: 1 of 2" in said


def test_other_json_does_not_make_a_folder_coco(tmp_path):
    picture(tmp_path/"test/cat/a.jpg")
    write(tmp_path, {"params.json": '{"delta0": 0.1}'})
    assert [s.id for s in load_dataset(tmp_path, "test")] == ["test/cat/a.jpg"]
    write(tmp_path, {"test.json": json.dumps(MARKS)})
    assert [s.id for s in load_dataset(tmp_path, "test")] == ["a.jpg"]


def lists(split, *rows): # of (path, class) in wsolevaluation's way
    return {f"{split}/image_ids.txt": "".join(f"{p}\n" for p, _ in rows), f"{split}/class_labels.txt": "".join(f"{p},{k}\n" for p, k in rows),
            f"{split}/image_sizes.txt": "".join(f"{p},50,40\n" for p, _ in rows), f"{split}/localization.txt": "".join(f"{p},1,1,9,9\n" for p, _ in rows)}


def test_class_names_are_the_same_in_every_layout(tmp_path):
    plain = {k: v for k, v in CUB.items() if k != "classes.txt"}
    assert load_dataset(write(tmp_path/"cub", plain), "test").classes == ("001.Albatross", "002.Auk")
    here = lists("test", ("val/a.JPEG", 0), ("val/b.JPEG", 1)) | lists("val", ("val2/0/0.jpeg", 0), ("val2/1/0.jpeg", 1))
    found = [load_dataset(write(tmp_path/"lists", here), split).classes for split in ("test", "val")]
    assert found == [("class 0", "class 1")]*2
    here |= lists("train", ("train/n01440764/a.JPEG", 0), ("train/n01443537/b.JPEG", 1))
    found = [load_dataset(write(tmp_path/"lists", here), split).classes for split in ("train", "test", "val")]
    assert found == [("n01440764", "n01443537")]*3
    flat = lists("test", ("a.jpg", 0))
    assert load_dataset(write(tmp_path/"flat", flat), "test").classes == ("class 0",)


def test_what_was_looked_for(tmp_path):
    with pytest.raises(ValueError, match=r"CUB-200-2011 \(images.txt and train_test_split.txt\); wsolevaluation .*; COCO .*; VOC .*; ILSVRC-2012"):
        load_dataset(tmp_path)


def test_names_beyond_ascii_and_pictures_elsewhere(tmp_path):
    name = "zoö/пингвин 企鹅.png"
    lists = {k: v.replace("a/1.jpg", name) for k, v in WSOL.items()}
    picture(tmp_path/"there"/name)
    sample = load_dataset(write(tmp_path/"lists", lists), "test", pictures=tmp_path/"there")[0]
    assert sample.id == name and sample.picture.shape == (40, 50, 3)
    write(tmp_path/"latin", lists, encoding="utf-8")
    (tmp_path/"latin/test/image_ids.txt").write_bytes("é.jpg\n".encode("latin-1"))
    with pytest.raises(ValueError, match="image_ids.txt, line 1: not UTF-8"):
        load_dataset(tmp_path/"latin", "test")


def test_pictures_lie_where_wsolevaluation_wants_them(tmp_path):
    picture(tmp_path/"dataset/CUB/a/1.jpg")
    sample = load_dataset(write(tmp_path/"metadata/CUB", WSOL), "test")[0]
    assert sample.picture.shape == (40, 50, 3)


@pytest.mark.parametrize("files, where, at", [(WSOL, "metadata/CUB", "dataset/CUB/a/1.jpg"), (COCO, "coco", "coco/images/a.jpg"), (COCO, "coco", "coco/test/a.jpg")])
def test_pictures_that_come_after_the_index_was_kept(tmp_path, monkeypatch, files, where, at):
    monkeypatch.setattr(layouts, "_LARGE", 1)
    monkeypatch.setenv("LOCLOC_CACHE", str(tmp_path/"cache"))
    folder = write(tmp_path/where, files)
    load_dataset(folder, "test")
    picture(tmp_path/at)
    assert load_dataset(folder, "test")[0].picture.shape == (40, 50, 3) and len(list((tmp_path/"cache").iterdir())) == 1


def test_picture_faults(tmp_path):
    data = load_dataset(write(tmp_path, CUB), "train")
    path = tmp_path/"images/002.Auk/b.jpg"
    with pytest.raises(PictureError, match="no such file"):
        data[0].picture
    path.parent.mkdir(parents=True), path.touch()
    with pytest.raises(PictureError, match="b.jpg: the file is empty"):
        data[0].picture
    picture(path, (51, 40))
    with pytest.raises(PictureError, match="is 51 x 40, but .*sizes.txt says 50 x 40"):
        data[0].picture


def test_cub_without_sizes_reads_headers_and_finds_its_folder(tmp_path):
    write(tmp_path/"CUB_200_2011", {k: v for k, v in CUB.items() if k != "sizes.txt"})
    picture(tmp_path/"CUB_200_2011/images/001.Albatross/a.jpg", (60, 45))
    assert load_dataset(tmp_path, "test")[0].size == (45, 60)


def test_masks_and_ignore_regions(tmp_path):
    write(tmp_path, {"val/image_ids.txt": "v/a.png\n", "val/class_labels.txt": "v/a.png,0\n", "val/image_sizes.txt": "",
                     "val/localization.txt": "v/a.png,v/m1.png,v/i.png\nv/a.png,v/m2.png,\n"})
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
    files = {"val/image_ids.txt": "v/a.png\n", "val/class_labels.txt": "v/a.png,0\n", "val/image_sizes.txt": "", "val/localization.txt": "v/a.png,v/m.png,v/i.png\n"}
    for name in ("a", "m", "i"):
        picture(tmp_path/f"there/v/{name}.png")
    (sample,) = load_dataset(write(tmp_path/"lists", files), "val", pictures=tmp_path/"there")
    assert sample.mask.shape == sample.ignore.shape == (40, 50)
    for name in ("m", "i"):
        picture(tmp_path/f"masks/v/{name}.png", (8, 8))
    (sample,) = load_dataset(tmp_path/"lists", "val", pictures=tmp_path/"there")
    assert sample.mask.shape == sample.ignore.shape == (8, 8)


def ilsvrc(folder):
    dtype = [("ILSVRC2012_ID", "O"), ("WNID", "O")]
    (folder/"ILSVRC2012_devkit_t12/data").mkdir(parents=True)
    savemat(folder/"ILSVRC2012_devkit_t12/data/meta.mat", {"synsets": np.array([(1, "n02119789"), (2, "n01440764"), (1001, "n00000001")], dtype=dtype)})
    write(folder, {"ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt": "2\n1\n",
                   "bbox/val/ILSVRC2012_val_00000001.xml": XML.format(x1=50), "bbox/val/ILSVRC2012_val_00000002.xml": XML.format(x1=49)})
    for name in ("train/n01440764/n01440764_1.JPEG", "train/n02119789/n02119789_2.JPEG"):
        (folder/name).parent.mkdir(parents=True), (folder/name).touch()
    return folder


def test_ilsvrc_official(tmp_path):
    train, test = (load_dataset(ilsvrc(tmp_path) if split == "train" else tmp_path, split) for split in ("train", "test"))
    assert train.classes == test.classes == ("n01440764", "n02119789") and train.labels.tolist() == [0, 1] and test.labels.tolist() == [0, 1]
    assert facts(test)[0] == ("val/ILSVRC2012_val_00000001.JPEG", "n01440764", (40, 50), [[1, 1, 50, 40], [3, 3, 9, 9]])
    with pytest.raises(ValueError, match="ImageNetV2"):
        load_dataset(tmp_path, "val")
    (tmp_path/"ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt").write_text("2\n3\n")
    with pytest.raises(ValueError, match="ground_truth.txt, line 2: class 3 is outside 1 to 2"):
        load_dataset(tmp_path, "test")


def test_an_annotation_edited_in_place_is_read_again(tmp_path, monkeypatch):
    monkeypatch.setattr(layouts, "_LARGE", 1)
    monkeypatch.setenv("LOCLOC_CACHE", str(tmp_path/"cache"))
    boxes = lambda: load_dataset(tmp_path/"it", "test")[0].boxes[0].tolist()
    ilsvrc(tmp_path/"it")
    assert boxes() == [1, 1, 50, 40] and len(list((tmp_path/"cache").iterdir())) == 1
    (tmp_path/"it/bbox/val/ILSVRC2012_val_00000001.xml").write_text(XML.format(x1=7))
    assert boxes() == [1, 1, 7, 40]


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
    load_dataset(write(tmp_path/"lists", lists("train", *[(f"a/{k}.jpg", 0) for k in range(99)], ("b/1.jpg", 1))), "test")
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
    for name, split, pictures, boxes in (("ILSVRC", "test", 50000, 80477), ("ILSVRC", "val", 10000, 18532), ("CUB", "val", 1000, 1000)):
        index = load_dataset(wsol/name, split).samples.make.args[0]
        assert (len(index), len(index.boxes)) == (pictures, boxes)


def test_official_and_wsolevaluation_cub_are_the_same():
    ours, theirs = load_dataset(published("CUB_200_2011"), "test"), load_dataset(published("wsolevaluation", "CUB"), "test")
    boxes = {s.id: s.boxes.tolist() for s in theirs}
    assert ours.labels.tolist() == theirs.labels.tolist() and len(boxes) == 5794
    assert np.mean([boxes[s.id] == np.floor(s.boxes).tolist() for s in ours]) > .99


@pytest.mark.parametrize("parts, protocol, whole, centred", [
    (("CUB_200_2011",), "wsoleval", 19.0, 59.6), (("CUB_200_2011",), "bas", 34.5, 61.9), (("CUB_200_2011",), "locloc", 50.4, 69.7), (("CUB_200_2011",), "locloc_first_box", 50.4, 69.7),
    (("wsolevaluation", "CUB"), "wsoleval", 19.0, 59.6), (("wsolevaluation", "CUB"), "bas", 34.5, 61.9), (("wsolevaluation", "CUB"), "locloc", 50.4, 69.7),
    (("wsolevaluation", "ILSVRC"), "wsoleval", 41.1, 54.0), (("wsolevaluation", "ILSVRC"), "bas", 50.4, 56.7), (("wsolevaluation", "ILSVRC"), "locloc_first_box", 55.1, 58.4)])
def test_trivial_rows_of_the_published_lists(parts, protocol, whole, centred):
    data, protocol = load_dataset(published(*parts), "test"), get_protocol(protocol)
    answers = trivial_boxes(protocol, np.arange(1, 15)/14) # sides of 16, 32, ... 224 px
    ious = np.array([box_iou(answers, protocol.boxes(s.boxes, s.size, protocol.inclusive), protocol.inclusive).max(1) for s in data])
    shares = 100*(ious >= protocol.least_iou).mean(0)
    assert abs(shares[-1] - whole) <= .1 and abs(shares.max() - centred) <= .1


def test_published_masks_of_open_images():
    lists, masks = published("wsolevaluation", "OpenImages"), published("wsolevaluation", "masks")
    data = load_dataset(lists, "val")
    there = {p.name.split("_")[0] for p in masks.rglob("*_ignore.png")}
    found = [i for i, path in enumerate(data.samples.make.args[0].paths) if Path(path.decode()).stem in there]
    assert (len(data), len(data.classes), len(found)) == (2500, 100, 5)
    metric = PxAP()
    for sample in (data[i] for i in found):
        regions = get_protocol("wsoleval").regions(sample.mask, sample.ignore)
        stem = Path(sample.id).stem
        load = lambda kind: [cv2.resize(cv2.imread(str(p), cv2.IMREAD_GRAYSCALE), (224, 224), interpolation=cv2.INTER_NEAREST) > 0 for p in masks.rglob(f"{stem}_{kind}*.png")]
        wanted = np.any(load("m"), axis=0).astype(np.uint8)
        wanted[np.any(load("ignore"), axis=0) & (wanted == 0)] = 255
        np.testing.assert_array_equal(regions, wanted)
        metric.update((regions == 1).astype(float), regions)
    assert metric.compute() == 100
