"Download from a server of our own, archives that must not be unpacked, data sets that must not be trusted."
import hashlib
import http.server
import io
import tarfile
import threading

import numpy as np
import pytest
from PIL import Image

from locloc import fetch
from locloc.fetch import Archive, check_dataset, download, get_dataset, unpack


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


@pytest.mark.parametrize("bad", [("birds/l", tarfile.SYMTYPE, "images.txt"), ("birds/l", tarfile.LNKTYPE, "birds/images.txt"), ("birds/p", tarfile.FIFOTYPE, ""),
                                 ("birds/d", tarfile.CHRTYPE, ""), ("../out.txt", tarfile.REGTYPE, b"x"), ("birds/../../out.txt", tarfile.REGTYPE, b"x")])
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


class Ranges(http.server.BaseHTTPRequestHandler):
    content, asked = b"", []

    def do_GET(self):
        start = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").rstrip("-"))
        Ranges.asked.append(start)
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(self.content) - start))
        self.end_headers()
        self.wfile.write(self.content[start:])

    def log_message(self, *_): pass


@pytest.fixture
def site(tmp_path, monkeypatch):
    Ranges.content, Ranges.asked = packed(tmp_path/"source.tgz", *GOOD).read_bytes(), []
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Ranges) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        archive = Archive(f"http://127.0.0.1:{server.server_port}/birds.tgz", hashlib.sha256(Ranges.content).hexdigest(), len(Ranges.content), "birds")
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


def test_check_lists_what_is_wrong(tmp_path):
    rng = np.random.default_rng(0)
    for name in "abd": Image.fromarray(rng.integers(0, 255, (40, 50, 3), dtype=np.uint8)).save(tmp_path/f"{name}.png")
    (tmp_path/"c.png").write_bytes((tmp_path/"a.png").read_bytes())
    (tmp_path/"f.png").write_bytes((tmp_path/"d.png").read_bytes())
    (tmp_path/"e.png").touch()
    Image.new("L", (50, 40)).save(tmp_path/"m.png")
    rows = ["a.png,x,train,50,40,1,1,9,9,m.png", "b.png,x,train,40,50,,,,,", "c.png,x,test,50,40,1,1,9,9,", "d.png,x,test,50,40,2,2,2.5,9,", "e.png,x,test,50,40,,,,,", "f.png,x,test,50,40,,,,,", "g.png,x,test,50,40,,,,,"]
    (tmp_path/"index.csv").write_text("\n".join(["image,class,split,width,height,x0,y0,x1,y1,mask", *rows]))
    count, problems = check_dataset(tmp_path, progress=False)
    wanted = ["train: a.png: the mask of 50 x 40 shows nothing", "b.png: is 50 x 40, but", "test: c.png is the same picture as a.png of train: a leak", "test: d.png: the box 2, 2, 2.5, 9 is empty",
              "e.png: the file is empty", "test: f.png is the same picture as d.png", "g.png: no such file"]
    assert count == 7 and len(problems) == len(wanted) and all(w in p for w, p in zip(wanted, problems))


def test_check_tells_a_wrong_list_and_boxes_that_leave(tmp_path):
    (tmp_path/"images").mkdir()
    for name, text in {"images.txt": "1 a.png\n", "image_class_labels.txt": "1 1\n", "train_test_split.txt": "1 0\n", "bounding_boxes.txt": "1 0 0 60 9\n"}.items():
        (tmp_path/name).write_text(text)
    Image.new("RGB", (50, 40)).save(tmp_path/"images/a.png")
    assert check_dataset(tmp_path, progress=False) == (1, ["test: a.png: the box 0, 0, 60, 9 leaves the picture of 50 x 40"])
    (tmp_path/"bounding_boxes.txt").write_text("1 0 0 60\n")
    assert "bounding_boxes.txt, line 1" in check_dataset(tmp_path, progress=False)[1][0]
