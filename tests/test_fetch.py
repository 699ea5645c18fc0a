"Download from a server of our own, archives that must not be unpacked, data sets that must not be trusted."
import hashlib
import http.server
import io
import json
import tarfile
import threading
import tracemalloc
import unicodedata

import numpy as np
import pytest
from PIL import Image

from locloc import fetch
from locloc.cli import main
from locloc.fetch import Archive, check_dataset, download, get_dataset, problem_lines, unpack


def packed(path, *members):
    "A tar of (name, type, link or content)"
    with tarfile.open(path, "w:gz") as tar:
        for name, kind, what in members:
            info = tarfile.TarInfo(name)
            info.type = kind
            if kind == tarfile.REGTYPE:
                info.size = len(what)
                tar.addfile(info, io.BytesIO(what))
            else:
                info.linkname = what
                tar.addfile(info)
    return path


GOOD = ("birds", tarfile.DIRTYPE, ""), ("birds/images.txt", tarfile.REGTYPE, b"1 a.jpg\n")


@pytest.mark.parametrize("bad", [
    ("birds/l", tarfile.SYMTYPE, "images.txt"),
    ("birds/l", tarfile.LNKTYPE, "birds/images.txt"),
    ("birds/p", tarfile.FIFOTYPE, ""),
    ("birds/d", tarfile.CHRTYPE, ""),
    ("../out.txt", tarfile.REGTYPE, b"x"),
    ("birds/../../out.txt", tarfile.REGTYPE, b"x"),
])
def test_unsafe_archives_leave_nothing(tmp_path, bad):
    (tmp_path/"home").mkdir()
    with pytest.raises(ValueError, match="was not unpacked"):
        unpack(packed(tmp_path/"a.tgz", *GOOD, bad), tmp_path/"home", "birds")
    assert not list((tmp_path/"home").iterdir()) and not (tmp_path/"out.txt").exists()


def test_an_archive_that_is_cut_or_holds_something_else(tmp_path):
    path = packed(tmp_path/"a.tgz", *GOOD)
    with pytest.raises(ValueError, match="no folder cats"):
        unpack(path, tmp_path, "cats")
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(ValueError, match="was not unpacked"):
        unpack(path, tmp_path, "birds")
    assert [p.name for p in tmp_path.iterdir()] == ["a.tgz"]


def test_a_folder_that_is_there_is_not_overwritten(tmp_path):
    (tmp_path/"birds").mkdir()
    (tmp_path/"birds/mine.txt").touch()
    with pytest.raises(ValueError, match="was not unpacked"):
        unpack(packed(tmp_path/"a.tgz", *GOOD), tmp_path, "birds")
    assert [p.name for p in (tmp_path/"birds").iterdir()] == ["mine.txt"]


class Ranges(http.server.BaseHTTPRequestHandler):
    content, asked = b"", []

    def do_GET(self):
        start = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").rstrip("-"))
        Ranges.asked.append(start)
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(self.content) - start))
        self.end_headers()
        self.wfile.write(self.content[start:])

    def log_message(self, *_):
        pass


@pytest.fixture
def site(tmp_path, monkeypatch):
    Ranges.content, Ranges.asked = packed(tmp_path/"source.tgz", *GOOD).read_bytes(), []
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Ranges) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url, digest = f"http://127.0.0.1:{server.server_port}/birds.tgz", hashlib.sha256(Ranges.content).hexdigest()
        archive = Archive(url, digest, len(Ranges.content), "birds")
        monkeypatch.setitem(fetch.ARCHIVES, "birds", archive)
        yield archive
        server.shutdown()


def test_a_broken_download_goes_on(tmp_path, site):
    (tmp_path/"home").mkdir()
    (tmp_path/"home/birds.tgz.part").write_bytes(Ranges.content[:30])
    path = get_dataset("birds", tmp_path/"home", progress=False)
    assert (path/"images.txt").read_text() == "1 a.jpg\n" and Ranges.asked == [30]
    assert get_dataset("birds", tmp_path/"home", progress=False) == path and Ranges.asked == [30]


def test_a_wrong_file_is_refused(tmp_path, site):
    (tmp_path/"birds.tgz").write_bytes(b"x"*site.size)
    with pytest.raises(ValueError, match="sha256 is .*, expected"):
        download(site, tmp_path, progress=False)
    (tmp_path/"birds.tgz").write_bytes(b"x")
    with pytest.raises(ValueError, match="1 of"):
        download(site, tmp_path, progress=False)


def test_offline_says_which_file_goes_where(tmp_path, monkeypatch):
    monkeypatch.setitem(fetch.ARCHIVES, "cub", Archive("http://127.0.0.1:9/CUB_200_2011.tgz", "0", 5, "CUB_200_2011"))
    with pytest.raises(ValueError, match="get http://127.0.0.1:9/CUB_200_2011.tgz elsewhere") as caught:
        get_dataset("cub", tmp_path, progress=False)
    assert f"put it at {tmp_path/'CUB_200_2011.tgz'}" in str(caught.value)


HEADER = "image,class,split,width,height,x0,y0,x1,y1,mask\n"


def noise(path, seed=0, size=(50, 40)):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (*size[::-1], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def test_check_lists_what_is_wrong(tmp_path):
    for seed, name in enumerate("abd"):
        noise(tmp_path/f"{name}.png", seed)
    (tmp_path/"c.png").write_bytes((tmp_path/"a.png").read_bytes())
    (tmp_path/"f.png").write_bytes((tmp_path/"d.png").read_bytes())
    (tmp_path/"e.png").touch()
    Image.new("L", (50, 40)).save(tmp_path/"m.png")
    rows = [
        "a.png,x,train,50,40,1,1,9,9,m.png",
        "b.png,x,train,40,50,,,,,",
        "c.png,x,test,50,40,1,1,9,9,",
        "d.png,x,test,50,40,2,2,2.5,9,",
        "e.png,x,test,50,40,,,,,",
        "f.png,x,test,50,40,,,,,",
        "g.png,x,test,50,40,,,,,",
    ]
    (tmp_path/"index.csv").write_text(HEADER + "\n".join(rows))
    count, problems = check_dataset(tmp_path, progress=False)
    wanted = {
        "mask": "train: a.png: the mask of 50 x 40 shows nothing",
        "size": "b.png: is 50 x 40, but",
        "leak": "test: c.png is the same picture as a.png of train: a leak",
        "box": "test: d.png: the box 2, 2, 2.5, 9 is empty",
        "unreadable": "e.png: the file is empty",
        "copy": "test: f.png is the same picture as d.png",
        "missing": "g.png: no such file",
        "bare": "test: 1 of 5 pictures have neither box nor mask",
    }
    assert count == 7 and {kind: len(lines) for kind, lines in problems.items()} == dict.fromkeys(wanted, 1)
    for kind, words in wanted.items():
        assert words in problems[kind][0]


def test_check_tells_a_wrong_list_and_boxes_that_leave(tmp_path):
    noise(tmp_path/"images/a.png")
    (tmp_path/"images.txt").write_text("1 a.png\n")
    (tmp_path/"image_class_labels.txt").write_text("1 1\n")
    (tmp_path/"train_test_split.txt").write_text("1 0\n")
    (tmp_path/"bounding_boxes.txt").write_text("1 0 0 60 9\n")
    line = "test: a.png: the box 0, 0, 60, 9 leaves the picture of 50 x 40"
    assert check_dataset(tmp_path, progress=False) == (1, {"box": [line]})
    (tmp_path/"bounding_boxes.txt").write_text("1 0 0 60\n")
    with pytest.raises(ValueError, match="bounding_boxes.txt, line 1"):
        check_dataset(tmp_path, progress=False)


def test_check_reads_whatever_splits_there_are(tmp_path):
    for name in "ab":
        noise(tmp_path/f"{name}.png")
    (tmp_path/"index.csv").write_text(HEADER + "a.png,x,train,50,40,,,,,\nb.png,x,valid,50,40,,,,,\n")
    line = "valid: b.png is the same picture as a.png of train: a leak"
    assert check_dataset(tmp_path, progress=False) == (2, {"leak": [line]})
    (tmp_path/"index.csv").write_text(HEADER + "a.png,x,trainval,50,40,1,1,9,9,\n"*2)
    assert check_dataset(tmp_path, progress=False) == (1, {"box": ["trainval: a.png: the same box is there twice"]})


def test_check_of_voc_does_not_take_trainval_for_a_leak(tmp_path):
    box = "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox>"
    size = "<size><width>50</width><height>40</height></size>"
    xml = f"<annotation>{size}<object><name>dog</name>{box}</object></annotation>"
    for folder in ("Annotations", "ImageSets/Main"):
        (tmp_path/folder).mkdir(parents=True)
    for seed, name in enumerate("ab"):
        noise(tmp_path/f"JPEGImages/{name}.jpg", seed)
        (tmp_path/f"Annotations/{name}.xml").write_text(xml)
    for split, names in dict(train="a\n", trainval="a\nb\n").items():
        (tmp_path/f"ImageSets/Main/{split}.txt").write_text(names)
    assert check_dataset(tmp_path, progress=False) == (2, {})
    (tmp_path/"ImageSets/Main/val.txt").write_text("b\n")
    assert check_dataset(tmp_path, progress=False) == (2, {})


def test_check_opens_ignore_regions(tmp_path):
    (tmp_path/"val").mkdir()
    (tmp_path/"val/image_ids.txt").write_text("v/a.png\n")
    (tmp_path/"val/class_labels.txt").write_text("v/a.png,0\n")
    (tmp_path/"val/image_sizes.txt").write_text("")
    (tmp_path/"val/localization.txt").write_text("v/a.png,v/m.png,v/gone.png\n")
    for name in "am":
        noise(tmp_path/f"v/{name}.png")
    count, problems = check_dataset(tmp_path, progress=False)
    assert count == 1 and list(problems) == ["missing"] and "v/gone.png: no such file" in problems["missing"][0]


def test_a_picture_that_cannot_be_read_is_not_taken_for_marked(tmp_path):
    noise(tmp_path/"train/cat/1.png", 1)
    noise(tmp_path/"train/cat/2.png", 2)
    (tmp_path/"train/cat/3.png").touch()
    assert list(check_dataset(tmp_path, progress=False)[1]) == ["unreadable"]


def test_check_reads_splits_of_other_names_and_tells_links_to_nowhere(tmp_path):
    noise(tmp_path/"Training/cat/1.png", 1)
    noise(tmp_path/"valid/cat/1.png", 1)
    (tmp_path/"valid/cat/2.png").symlink_to("../gone.png")
    count, problems = check_dataset(tmp_path, progress=False)
    assert count == 3 and sorted(problems) == ["leak", "missing"]
    assert "val: valid/cat/1.png is the same picture as Training/cat/1.png of train" in problems["leak"][0]
    assert "valid/cat/2.png: no such file" in problems["missing"][0]


def test_a_mask_of_another_shape_is_told(tmp_path):
    (tmp_path/"test").mkdir()
    for name, text in dict(image_ids="v/a.png", class_labels="v/a.png,0", image_sizes="",
                           localization="v/a.png,v/m.png,").items():
        (tmp_path/f"test/{name}.txt").write_text(f"{text}\n")
    noise(tmp_path/"v/a.png", size=(50, 40))
    noise(tmp_path/"v/m.png", size=(40, 50))
    line = "test: v/a.png: the mask of 40 x 50 does not fit the picture of 50 x 40"
    assert check_dataset(tmp_path, progress=False) == (1, {"mask": [line]})
    noise(tmp_path/"v/m.png", size=(100, 81))
    assert check_dataset(tmp_path, progress=False) == (1, {})


def test_check_hints_at_names_that_only_look_the_same(tmp_path):
    noise(tmp_path/unicodedata.normalize("NFD", "é.png"))
    row = unicodedata.normalize("NFC", "é.png") + ",x,train,50,40,,,,,\n"
    (tmp_path/"index.csv").write_text(HEADER + row, encoding="utf-8")
    assert "NFC, NFD" in check_dataset(tmp_path, progress=False)[1]["missing"][0]


def test_check_of_nothing(tmp_path):
    with pytest.raises(ValueError, match="neither an index.csv nor pictures"):
        check_dataset(tmp_path, progress=False)


def test_check_prints_ten_of_a_kind(tmp_path, capsys):
    rows = "".join(f"{k}.png,x,train,50,40,,,,,\n" for k in range(30))
    noise(tmp_path/"last.png")
    (tmp_path/"index.csv").write_text(HEADER + rows + "last.png,x,train,40,50,,,,,\n")
    with pytest.raises(SystemExit):
        main(["data", "check", str(tmp_path)])
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 13
    assert said[10] == "… and 20 more like the last"
    assert "last.png: is 50 x 40, but" in said[11]
    assert said[12] == f"{tmp_path}: 31 pictures, 31 problems"


def test_ten_of_a_kind_are_printed_without_a_remark():
    assert problem_lines({"missing": ["a"]*10}) == ["a"]*10


def test_a_long_check_does_not_queue_everything(monkeypatch):
    class Long(list):
        def __len__(self):
            return 20_000
    monkeypatch.setattr(fetch, "_open_splits", lambda *_: ({"train": Long()}, {}))
    monkeypatch.setattr(fetch, "_check_picture", lambda data, i: fetch._Checked(None, None, True, []))
    tracemalloc.start()
    assert check_dataset("scenes", workers=1, progress=False) == (20_000, {})
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5e6 # bytes; all at once take 40 MB


@pytest.mark.parametrize("args, words", [
    (["--count", "0"], "--count must be 1 or more, got 0"),
    (["--count", "-190"], "--count must be 1 or more, got -190"),
    (["--protocol"], "no protocol given"),
])
def test_counts_and_protocols_that_are_none(args, words, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["evaluate", "--data", "scenes", *args])
    assert stopped.value.code == 1 and words in capsys.readouterr().err


def test_evaluate_takes_pictures_from_elsewhere(tmp_path):
    for k in range(2):
        noise(tmp_path/f"there/a/{k}.jpg", k, (64, 64))
    (tmp_path/"CUB/test").mkdir(parents=True)
    for name, end in (("image_ids", ""), ("class_labels", ",0"), ("image_sizes", ",64,64"),
                      ("localization", ",8,8,40,40")):
        (tmp_path/f"CUB/test/{name}.txt").write_text(f"a/0.jpg{end}\na/1.jpg{end}\n")
    main(["evaluate", "--data", str(tmp_path/"CUB"), "--pictures", str(tmp_path/"there"),
          "--protocol", "wsoleval", "--out", str(tmp_path/"report")])
    report = json.loads((tmp_path/"report/report.json").read_text())
    assert "2 pictures" in report["header"]["data"]
