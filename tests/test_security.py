"""What SECURITY.md promises: the tuner's page answers its owner alone, and weights, archives, pictures, lists, shared
mask folders and names that come from others run nothing, write nothing outside and keep nobody waiting.
"""
import contextlib
import http.client
import io
import json
import os
import re
import signal
import subprocess
import sys
import tarfile
import time
import warnings
import zlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
import torch
from nbconvert.filters import markdown2html
from PIL import Image

import locloc.lite0
from locloc.backbone import load_backbone, load_classifier
from locloc.cli import _endings_interrupt, main
from locloc.data import PictureError, load_dataset, open_picture
from locloc.fetch import unpack
from locloc.geg import GEG
from locloc.localization import Localization
from locloc.model import LocLoc, load_locloc_tiny
from locloc.report import Prediction, Report, write_predictions
from locloc.stores import MaskStore, check_masks, make_masks
from locloc.train import load_checkpoint
from locloc.widgets import tuning_page

root = Path(__file__).parents[1]
PATIENCE = 180 # s, for anything that is waited for: a busy machine is slow, not broken
SECRET = "what nobody else may read"
HOSTILE = "<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "[x](javascript:alert(1))", "![x](http://evil/x)"


def save(path, size=(8, 6)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, "white").save(path, "PNG")
    return path


def refusal(call, *errors):
    "The one line that a call says no with"
    with pytest.raises(errors or (ValueError, OSError)) as refused:
        call()
    assert "\n" not in str(refused.value)
    return str(refused.value)


def said_by(command, capsys):
    "What a command prints, all of it fit for a terminal, and its exit status"
    status = 0
    try:
        main(list(map(str, command)))
    except SystemExit as stopped:
        status = stopped.code
    said = capsys.readouterr()
    text = said.out + said.err
    assert not re.search("[\x00-\x09\x0b\x0c\x0e-\x1f\x7f-\x9f]", text) and "Traceback" not in text
    return text, status


def files(folder):
    "Every path below a folder and what is there; links are not followed"
    found = {}
    for parent, folders, names in os.walk(folder):
        for path in (Path(parent)/name for name in folders + names):
            is_file = path.is_file() and not path.is_symlink()
            found[path.relative_to(folder).as_posix()] = path.read_bytes() if is_file else None
    return found


def test_every_promise_names_tests_that_are_there():
    named = re.findall(r"(test_\w+)(?:\.py)?::(test_\w+)", (root/"SECURITY.md").read_text(encoding="utf-8"))
    assert len(named) > 30
    for file, name in named:
        assert f"\ndef {name}(" in (root/"tests"/f"{file}.py").read_text(encoding="utf-8"), f"{file}::{name}"


# the page of `locloc tune`

class Page:
    "A running `locloc tune`, and what is sent to it"
    def __init__(self, home):
        self.home, self.log = home, home/"log"
        for folder in ("work", "tmp", "template"):
            (home/folder).mkdir()
        (home/"secret.png").write_text(SECRET)
        (home/"template"/"index.html.j2").write_text(SECRET)
        save(home/"work"/"a.png")
        jupyter = {f"JUPYTER_{kind}_DIR": str(home/kind) for kind in ("CONFIG", "DATA", "RUNTIME")}
        environment = os.environ | jupyter | {
            "HOME": str(home), "TMPDIR": str(home/"tmp"), "PYTHONPATH": str(root), "PYTHONUNBUFFERED": "1"}
        command = [sys.executable, "-c", "from locloc.cli import main; main()", "tune", "a.png", "--no-browser"]
        with self.log.open("w") as said:
            self.process = subprocess.Popen(command, cwd=home/"work", env=environment, stdout=said, stderr=said)

    def start(self):
        end = time.monotonic() + PATIENCE
        while not (found := re.search(r"http://localhost:(\d+)/\?token=(\S+)\n", self.log.read_text())):
            assert self.process.poll() is None and time.monotonic() < end, self.log.read_text()
            time.sleep(.1)
        self.port, self.token = int(found[1]), found[2]
        template = os.path.relpath(self.home/"template", Path(sys.prefix)/"share"/"jupyter"/"nbconvert"/"templates")
        self.answer = self.ask(f"/?token={self.token}&template={template}") # an address that somebody else made
        assert self.answer.status == 200, self.log.read_text()
        self.cookie = self.answer.headers["Set-Cookie"].partition(";")[0]
        self.kernel = re.search(r'"kernelId":\s*"([\w-]+)"', self.answer.text)[1]
        self.processes = [psutil.Process(self.process.pid), *psutil.Process(self.process.pid).children(recursive=True)]

    def ask(self, path, method="GET", **headers):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        text = answer.read().decode(errors="replace")
        return SimpleNamespace(status=answer.status, headers=answer.headers, text=text)

    def connect(self, **options):
        "A websocket to the kernel"
        websocket = pytest.importorskip("websocket")
        address = f"ws://127.0.0.1:{self.port}/api/kernels/{self.kernel}/channels"
        return websocket.create_connection(address, timeout=PATIENCE, **options)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    pytest.importorskip("voila")
    page = Page(tmp_path_factory.mktemp("page"))
    try:
        page.start()
        yield page
    finally:
        if page.process.poll() is None:
            page.process.terminate()
        page.process.wait(PATIENCE)


def test_the_token_opens_the_page(page):
    assert page.answer.status == 200 and "kernelId" in page.answer.text
    assert "HttpOnly" in page.answer.headers["Set-Cookie"]
    assert "frame-ancestors 'self'" in page.answer.headers["Content-Security-Policy"]


def test_an_address_names_no_template(page):
    assert SECRET not in page.answer.text


@pytest.mark.parametrize("path", [
    "/", "/?token=wrong", "/locloc.ipynb", "/voila.json", "/voila/render/locloc.ipynb", "/voila/tree",
    "/voila/api/contents/settings/voila.json", "/api/kernels",
    "/api/kernels/KERNEL", "/api/sessions", "/api/terminals"])
def test_without_its_token_the_page_is_closed(page, path):
    answer = page.ask(path.replace("KERNEL", page.kernel))
    assert answer.status in (302, 403, 404)
    assert answer.status != 302 or answer.headers["Location"].startswith("/login")
    for told in (page.token, page.kernel, "a.png", "tuning_page"):
        assert told not in answer.text


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8866", "localhost.evil.example", "192.0.2.1"])
def test_another_name_of_this_machine_is_refused(page, host):
    for path in (f"/?token={page.token}", f"/api/kernels/{page.kernel}"):
        answer = page.ask(path, Host=host, Cookie=page.cookie)
        assert answer.status == 403 and page.kernel not in answer.text


@pytest.mark.parametrize("how", [
    dict(), dict(header=["Authorization: token wrong"]), dict(cookie="COOKIE", origin="http://evil.example"),
    dict(cookie="COOKIE", origin="http://evil.example", host="evil.example")])
def test_the_kernel_answers_nobody_else(page, how):
    websocket = pytest.importorskip("websocket")
    with pytest.raises(websocket.WebSocketBadStatusException, match="403"):
        page.connect(**{name: page.cookie if value == "COOKIE" else value for name, value in how.items()})


def test_another_page_ends_no_kernel(page):
    for headers in ({}, {"Cookie": page.cookie, "Origin": "http://evil.example"}):
        assert page.ask(f"/voila/api/shutdown/{page.kernel}", "POST", **headers).status in (403, 404)
        assert page.ask(f"/api/kernels/{page.kernel}", "DELETE", **headers).status in (403, 404)
    assert page.ask(f"/api/kernels/{page.kernel}", Cookie=page.cookie).status == 200


def test_code_that_is_sent_to_the_kernel_is_not_run(page):
    def message(kind, channel="shell", **content):
        header = dict(msg_id=kind, msg_type=kind, username="", session="here", version="5.3", date="")
        return json.dumps(dict(
            header=header, parent_header={}, metadata={}, content=content, channel=channel, buffers=[]))
    code = f"open({str(page.home/'evil')!r}, 'w')"
    kernel = page.connect(cookie=page.cookie, origin=f"http://127.0.0.1:{page.port}")
    for channel in ("shell", "control"):
        kernel.send(message(
            "execute_request", channel, code=code, silent=False, store_history=False, allow_stdin=False))
    kernel.send(message("kernel_info_request"))
    while json.loads(kernel.recv())["msg_type"] != "kernel_info_reply": # it answers in order
        pass
    kernel.close()
    assert not (page.home/"evil").exists()


@pytest.mark.parametrize("place", [
    "/", "/voila/files/", "/voila/static/", "/voila/templates/lab/static/", "/voila/labextensions/",
    "/voila/api/themes/", "/static/"])
@pytest.mark.parametrize("up", ["../", "%2e%2e/", "..%2f", ".%2e%2f", "..\\", "..%5c", "/"])
def test_no_file_is_served(page, place, up):
    (folder,) = (page.home/"tmp").glob("locloc-tune-*")
    for file in (page.home/"secret.png", folder/"settings"/"voila.json"):
        inside = str(file).lstrip("/")
        for path in (f"{place}{up * 20}{inside}", f"{place}{file.name}", f"{place}x/{up}{file.name}"):
            answer = page.ask(path, Cookie=page.cookie)
            assert SECRET not in answer.text and page.token not in answer.text


def test_it_listens_on_this_machine_alone(page):
    heard = {one.laddr.ip for process in page.processes for one in process.net_connections()
             if one.status == psutil.CONN_LISTEN}
    assert heard and heard <= {"127.0.0.1", "::1"}


def test_its_token_is_in_no_list_of_processes(page):
    assert not [word for process in page.processes for word in process.cmdline() if page.token in word]


@pytest.mark.skipif(os.name == "nt", reason="Windows keeps the temporary folder of each user apart")
def test_its_files_are_its_owners_alone(page):
    folders = [*(page.home/"tmp").glob("locloc-tune-*"), *(page.home/"tmp").rglob("voila_*")]
    assert len(folders) == 2 and all(folder.stat().st_mode & 0o77 == 0 for folder in folders)


def test_ended_it_leaves_nothing(page):
    page.process.terminate()
    assert page.process.wait(PATIENCE) == 0 and "stopped" in page.log.read_text()
    psutil.wait_procs(page.processes, PATIENCE)
    assert not any(process.is_running() for process in page.processes)
    assert not [name for name in os.listdir(page.home/"tmp") if re.match("locloc-tune-|voila_", name)]


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="this system has no SIGHUP")
@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_a_closed_terminal_ends_it_as_ctrl_c_does(name):
    ending = getattr(signal, name)
    before = signal.signal(ending, signal.SIG_DFL) # it may be ignored here, as under nohup
    try:
        with pytest.raises(KeyboardInterrupt), _endings_interrupt():
            os.kill(os.getpid(), ending)
            time.sleep(PATIENCE)
        assert signal.getsignal(ending) == signal.SIG_DFL
    finally:
        signal.signal(ending, before)


@pytest.mark.parametrize("name", ["../params.json", "PLACE/params.json", "link/params.json", "a/../../params.json"])
def test_what_is_typed_into_the_page_stays_in_its_folder(tmp_path, monkeypatch, name):
    (tmp_path/"home").mkdir()
    (tmp_path/"home"/"link").symlink_to(tmp_path)
    monkeypatch.chdir(tmp_path/"home")
    tuner = tuning_page([np.zeros((20, 30, 3), np.uint8)]).children[0]
    field, save_it, load_it, draw_it = tuner.files.children
    field.value = "params.json"
    save_it.click()
    assert (tmp_path/"home"/"params.json").exists()
    field.value = name.replace("PLACE", str(tmp_path))
    save_it.click()
    assert "saves and loads nothing elsewhere" in tuner.status.value and not (tmp_path/"params.json").exists()
    (tmp_path/"params.json").write_text('{"delta0": 0.11}')
    load_it.click()
    assert "saves and loads nothing elsewhere" in tuner.status.value and tuner.params.delta0 != .11
    draw_it.click()
    assert "saves and loads nothing elsewhere" in tuner.status.value and not (tmp_path/"params.png").exists()


def test_a_figure_follows_no_link_out_of_the_folder(tmp_path, monkeypatch):
    (tmp_path/"home").mkdir()
    (tmp_path/"home"/"a.png").symlink_to(tmp_path/"outside.png")
    monkeypatch.chdir(tmp_path/"home")
    tuner = tuning_page([np.zeros((20, 30, 3), np.uint8)]).children[0]
    field, *_, draw_it = tuner.files.children
    field.value = "a.json"
    draw_it.click()
    assert "saves and loads nothing elsewhere" in tuner.status.value and not (tmp_path/"outside.png").exists()
    field.value = "b.json"
    draw_it.click()
    assert (tmp_path/"home"/"b.png").exists()


@pytest.mark.parametrize("name", HOSTILE[:2])
def test_a_name_is_text_on_the_page(tmp_path, monkeypatch, name):
    save(tmp_path/name.replace("/", "∕"))
    (tmp_path/f"z{name.replace('/', '∕')}").touch()
    monkeypatch.chdir(tmp_path)
    for file in tmp_path.iterdir():
        file.rename(f"{file}.png")
    tuner = tuning_page(tmp_path).children[0]
    shown = [view["words"] for column in tuner.panels.columns for view in column["views"]]
    tuner.go(1)
    shown.append(tuner.status.value)
    assert any("alert" in one for one in shown[:-1]) and "alert" in shown[-1]
    assert not re.search("<(script|img)", "".join(shown))


# weights

class Trap:
    "Unpickled, it makes a folder"
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def small_model(folder):
    vit = load_backbone("test_vit", weights=False)
    LocLoc(vit, GEG(vit.embed_dim, 8, 8)).save(folder)


def load_run(file):
    small_model(file.parent/"model")
    (file.parent/"model"/"model.safetensors").write_bytes(file.read_bytes())
    LocLoc.load(file.parent/"model")


def load_run_that_names_a_file(file):
    small_model(file.parent/"model")
    config = json.loads((file.parent/"model"/"config.json").read_text())
    config["backbone"]["timm_kwargs"]["checkpoint_path"] = str(file)
    (file.parent/"model"/"config.json").write_text(json.dumps(config))
    LocLoc.load(file.parent/"model")


def load_lite0(file):
    place = file.parent/locloc.lite0._FILE
    place.parent.mkdir()
    place.write_bytes(file.read_bytes())
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(locloc.lite0, "resources", SimpleNamespace(files=lambda package: file.parent))
        locloc.lite0.lite0_weights()


def resume(file):
    from safetensors.torch import save_file
    head = torch.nn.Linear(1, 1)
    step = file.parent/"run"/"checkpoints"/"step_00000001"
    step.mkdir(parents=True)
    save_file(head.state_dict(), step/"head.safetensors")
    (step/"optimizer.pt").write_bytes(file.read_bytes())
    load_checkpoint(file.parent/"run", head, torch.optim.SGD(head.parameters(), .1))


@pytest.mark.parametrize("old_format", [False, True])
@pytest.mark.parametrize("load", [
    lambda file: load_backbone("test_vit", weights=file),
    lambda file: load_backbone("test_vit", weights=False, checkpoint_path=file),
    lambda file: load_classifier("resnet10t", weights=file),
    lambda file: load_classifier("resnet10t", weights=False, checkpoint_path=file),
    load_locloc_tiny,
    lambda file: LocLoc.from_reference(generator=file),
    lambda file: LocLoc.from_reference(classifier=file),
    load_run, load_run_that_names_a_file, load_lite0, resume])
def test_weights_run_no_code(tmp_path, load, old_format):
    file, trap = tmp_path/"evil.pth", tmp_path/"sprung"
    content = {"model": {"cls_token": torch.zeros(1, 1, 64)}, "code": Trap(trap)}
    torch.save(content, file, _use_new_zipfile_serialization=not old_format)
    refusal(lambda: load(file))
    assert not trap.exists()
    torch.load(file, weights_only=False) # as a loader that trusts the file would
    assert trap.exists()


# archives

def test_an_archive_of_more_than_the_disk_holds_is_not_unpacked(tmp_path):
    with tarfile.open(tmp_path/"bomb.tgz", "w:gz") as tar:
        for name, kind, size in (("birds", tarfile.DIRTYPE, 0), ("birds/zeros", tarfile.REGTYPE, 1 << 60)):
            member = tarfile.TarInfo(name)
            member.type, member.size = kind, size
            tar.addfile(member)
    before = files(tmp_path)
    assert "needs more room" in refusal(lambda: unpack(tmp_path/"bomb.tgz", tmp_path, "birds"))
    assert files(tmp_path) == before


# pictures

@pytest.fixture
def little_memory():
    "No more than 1 GiB for what is read inside"
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (psutil.Process().memory_info().vms + (1 << 30), before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def chunk(kind, content):
    return len(content).to_bytes(4, "big") + kind + content + zlib.crc32(kind + content).to_bytes(4, "big")


def png(side, *chunks):
    "A white square as PNG, with chunks before its pixels"
    header = side.to_bytes(4, "big")*2 + b"\x08\0\0\0\0"
    rows = zlib.compress((b"\0" + b"\xff"*side)*side) if side < 100 else b""
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        [chunk(b"IHDR", header), *chunks, chunk(b"IDAT", rows), chunk(b"IEND", b"")])


def link_to_zeros(path):
    path.symlink_to("/dev/zero")


def link_to_a_terminal(path):
    path.symlink_to("/dev/tty" if os.path.exists("/dev/tty") else "/dev/null")


def write_a_bomb(path):
    path.write_bytes(png(100_000))


def write_a_huge_file(path):
    path.write_bytes(b"\x89PNG\r\n\x1a\n")
    os.truncate(path, 1 << 34) # which takes no room


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such files")
@pytest.mark.parametrize("make, told", [
    (os.mkfifo, "a pipe or a device"), (link_to_zeros, "a pipe or a device"),
    (link_to_a_terminal, "a pipe or a device"), (write_a_bomb, "more than 178,956,970 pixels"),
    (write_a_huge_file, "cannot be read (broken|not a picture")])
def test_no_picture_keeps_anybody_waiting_or_fills_the_memory(tmp_path, little_memory, make, told):
    make(tmp_path/"a.png")
    assert re.search(told.replace("(", r"\("), refusal(lambda: open_picture(tmp_path/"a.png"), PictureError))


def test_remarks_that_unpack_to_much_are_passed_over(tmp_path, little_memory):
    bomb = chunk(b"zTXt", b"x\0\0" + zlib.compress(bytes(1 << 26)))
    (tmp_path/"a.png").write_bytes(png(9, *[bomb]*9))
    assert open_picture(tmp_path/"a.png").shape == (9, 9, 3)


POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n%%EOF\n"


def wrapped(content):
    "IPTC, which says that its pixels are a file of some format"
    fields = [(3, 60, b"\1\0"), (3, 20, b"\0\x09"), (3, 30, b"\0\x09"), (3, 120, b"\x05"), (8, 10, content)]
    return b"".join(b"\x1c" + bytes(tag) + len(data).to_bytes(2, "big") + data for *tag, data in fields)


@pytest.mark.skipif(os.name == "nt", reason="a shell script stands for Ghostscript")
@pytest.mark.parametrize("content", [POSTSCRIPT, wrapped(POSTSCRIPT)])
def test_a_picture_is_no_program(tmp_path, monkeypatch, content):
    (tmp_path/"gs").write_text(f"#!/bin/sh\ntouch {tmp_path}/sprung\n")
    (tmp_path/"gs").chmod(0o700)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr("PIL.EpsImagePlugin.gs_binary", None)
    (tmp_path/"a.jpg").write_bytes(content)
    assert "a.jpg: " in refusal(lambda: open_picture(tmp_path/"a.jpg"), PictureError)
    assert not (tmp_path/"sprung").exists()
    with contextlib.suppress(Exception), Image.open(tmp_path/"a.jpg") as picture:
        picture.load() # as somebody would who does not look
    assert (tmp_path/"sprung").exists()


# lists

LIST = "image,class,split,width,height,x0,y0,x1,y1,mask\n"


@pytest.mark.parametrize("name", [
    "../x.png", "/x.png", "a/../../x.png", "..\\x.png", "C:\\x.png", "C:x.png", "\\\\host\\x.png", "\0x.png"])
def test_a_list_names_nothing_outside_its_folder(tmp_path, name, capsys):
    home = tmp_path/"home"
    save(tmp_path/"x.png")
    save(home/"a.png")
    for row in (f"{name},cat,train,8,6,,,,,\n", f"a.png,cat,train,8,6,,,,,{name}\n"):
        (home/"index.csv").write_text(LIST + row)
        text, status = said_by(["data", "check", home], capsys)
        assert status == 1 and "index.csv, line 2" in text and text.count("\n") == 1


def test_entities_of_a_list_do_not_multiply(tmp_path):
    entities = "".join(f'<!ENTITY e{i} "{f"&e{i - 1};"*10}">' for i in range(1, 12))
    page = f'<!DOCTYPE annotation [<!ENTITY e0 "ha">{entities}]><annotation><filename>&e11;</filename></annotation>'
    for name, text in {"ImageSets/Main/test.txt": "one\n", "Annotations/one.xml": page}.items():
        (tmp_path/name).parent.mkdir(parents=True)
        (tmp_path/name).write_text(text)
    assert "one.xml" in refusal(lambda: load_dataset(tmp_path, "test"))


def test_names_are_printed_without_what_a_terminal_obeys(tmp_path, capsys):
    name = "\x1b]0;me\x07\x1b[2J\u009b31m.png"
    (tmp_path/"birds"/"jay").mkdir(parents=True)
    (tmp_path/"birds"/"jay"/name).touch()
    text, status = said_by(["data", "check", tmp_path/"birds"], capsys)
    assert status == 1 and "\\x1b[2J" in text
    save(tmp_path/"birds"/"jay"/name)
    make_masks(load_dataset(tmp_path/"birds"), tmp_path/"masks", size=16, progress=False)
    (tmp_path/"masks"/f"{name}.txt").touch()
    check = ["masks", "--data", tmp_path/"birds", "--out", tmp_path/"masks", "--check", "--workers", 0]
    text, status = said_by(check, capsys)
    assert status == 1 and "\\x1b[2J" in text
    manifest = json.loads((tmp_path/"masks"/"manifest.json").read_text())
    (tmp_path/"masks"/"manifest.json").write_text(json.dumps(manifest | {"dataset": name}))
    text, status = said_by(["info", tmp_path/"masks"], capsys)
    assert status == 0 and "\\x1b[2J" in text


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such names")
def test_answers_stay_in_the_folder_that_was_asked_for(tmp_path, capsys):
    names = "...png", "~.png", "-rf.png", "a\\..\\b.png", "two\nlines.png", "$(touch x).png", "in/..png", "=1+1.png"
    for name in names:
        save(tmp_path/"in"/name)
    before = files(tmp_path)
    pictures, formats = [tmp_path/"in"/name for name in names], ("coco", "yolo", "csv")
    _, status = said_by(
        ["predict", *pictures, "--method", "whole", "--out", tmp_path/"out", "--save", *formats], capsys)
    made = files(tmp_path).items() - before.items()
    assert status == 0 and sum(name.endswith("_locloc.png") for name, _ in made) == len(names)
    assert all(name == "out" or name.startswith("out/") for name, _ in made)
    assert before.items() <= files(tmp_path).items()


# a mask store that others write to

@pytest.fixture
def shared(tmp_path):
    "A store of one mask beside a folder of somebody's own"
    (tmp_path/"mine").mkdir()
    (tmp_path/"mine"/".0123456789abcdef.tmp").write_text(SECRET)
    store = MaskStore(tmp_path/"store", {})
    store.write("jay/a.png", np.eye(9, dtype=bool))
    return store


def test_nothing_is_written_through_a_link_out_of_a_store(shared, tmp_path):
    (shared.folder/"out").symlink_to(tmp_path/"mine")
    before = files(tmp_path/"mine")
    for id in ("out/b.png", "out/new/b.png"):
        assert "link out of the store" in refusal(lambda: shared.write(id, np.eye(9, dtype=bool))) # noqa: B023
    (shared.folder/"b.png").symlink_to(tmp_path/"mine"/".0123456789abcdef.tmp")
    shared.write("b.png", np.eye(9, dtype=bool))
    assert shared.read("b.png").any() and files(tmp_path/"mine") == before


def test_nothing_is_swept_away_through_a_link_out_of_a_store(shared, tmp_path):
    (shared.folder/"out").symlink_to(tmp_path/"mine")
    (shared.folder/".aaaaaaaaaaaaaaaa.tmp").touch()
    before = files(tmp_path/"mine")
    shared.sweep()
    assert files(tmp_path/"mine") == before and not (shared.folder/".aaaaaaaaaaaaaaaa.tmp").exists()


def link_to_a_secret(path):
    (path.parents[2]/"secret").write_text(SECRET)
    path.symlink_to(path.parents[2]/"secret")


def write_postscript(path):
    path.write_bytes(POSTSCRIPT)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such files")
@pytest.mark.parametrize("make", [
    os.mkfifo, link_to_zeros, link_to_a_secret, write_a_bomb, write_a_huge_file, write_postscript])
def test_no_mask_of_others_does_harm(shared, little_memory, make):
    make(shared.folder/"jay"/"b.png")
    said = refusal(lambda: shared.read("jay/b.png"), ValueError)
    assert "jay/b.png" in said and SECRET not in said


def sparse(path):
    path.touch()
    os.truncate(path, 1 << 40)


@pytest.mark.parametrize("content", [
    b"", b"{", b"[]", b"[1, 2]", b"3", b"null", b"["*100_000, b'{"damaged": 3}', b"\xff\xfe", b"\0"*99, sparse])
def test_a_manifest_of_others_is_refused_in_one_line(shared, little_memory, content):
    file = shared.folder/"manifest.json"
    file.unlink()
    content(file) if callable(content) else file.write_bytes(content)
    assert "manifest.json is damaged" in refusal(lambda: MaskStore(shared.folder), ValueError)


def test_a_manifest_of_no_numbers_is_of_another_store(shared):
    (shared.folder/"manifest.json").write_text('{"params": {"delta0": NaN, "delta1": Infinity}}')
    said = refusal(lambda: MaskStore(shared.folder, {"params": {"delta0": .1, "delta1": .7}}), ValueError)
    assert "masks made in another way: params.delta0 is nan there" in said


def test_a_check_of_a_store_does_not_follow_links(tmp_path):
    save(tmp_path/"birds"/"jay"/"a.png")
    birds = load_dataset(tmp_path/"birds")
    make_masks(birds, tmp_path/"masks", size=16, progress=False)
    for name in "abcdefghij":
        (tmp_path/"masks"/name).symlink_to(tmp_path/"masks") # followed, they would be ten to the tenth folders
    (tmp_path/"masks"/"out").symlink_to("/")
    assert check_masks(birds, tmp_path/"masks", progress=False) == []


# reports

@pytest.mark.parametrize("name", [*HOSTILE, "\\<script>alert(1)</script>", "x|<script>", "\\[x](javascript:alert(1))"])
def test_a_name_is_text_in_a_report(name):
    row = {"table": "boxes", "protocol": "locloc", "method": name, "GT-known Loc": 50., "n": 2}
    page = markdown2html(Report({"title": name, "not measured": name}, {}, (row,)).to_markdown())
    assert page.count(">50.0<") == 1 and page.count("<td") == 6 # its cells are as many as without that name
    assert not re.search(r'<(script|img)|href="javascript|>x</a>', page)


def test_a_table_of_predictions_has_names_as_they_are(tmp_path):
    "Whoever opens it in a spreadsheet must read it as text: SECURITY.md says so"
    with warnings.catch_warnings(action="error"):
        one = Prediction("=1+1.png", (9, 9), Localization(class_id="=cmd|' /C calc'!A0", score=.5))
        write_predictions(tmp_path/"a.csv", [one], "csv")
    assert "=1+1.png,=cmd|' /C calc'!A0,0.5" in io.StringIO((tmp_path/"a.csv").read_text()).read()
