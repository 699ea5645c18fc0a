"""The picture panel: its Python half alone, and its front end in a browser, with a model in place of a kernel.

Set LOCLOC_SCREENSHOTS to a folder to keep pictures of it at three sizes in both themes.
"""
import base64
import json
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import hard_to_use

from locloc.data import load_dataset
from locloc.panel import PicturePanel
from locloc.workbench import PANELS, Workbench, column, first_setting

ROOT = Path(__file__).parents[1]
SIZES = (1440, 900), (1024, 768), (390, 844)
VIEWS = tuple(PANELS)


def png(picture):
    return cv2.imencode(".png", picture)[1].tobytes()


def plain_column(title="", shade=90, names=VIEWS):
    "A picture of 30 x 40 px whose right half is bright; attention rises from left to right, so do the marks' codes"
    picture = np.full((30, 40, 3), shade, np.uint8)
    picture[:, 20:] = 220
    attention, marks = np.linspace(0, 255, 8, dtype=np.uint8)[None].repeat(6, 0), np.arange(4, dtype=np.uint8)
    boxes = [dict(kind="true", box=[.25, .25, .75, .75]), dict(kind="baseline", box=[0, 0, 1, 1])]
    views = [dict(name=name, title=name.capitalize(), image=png(picture), words=f"words of <b>{name}</b>",
                  alt=f"{name}, half bright", boxes=boxes) for name in names]
    return dict(title=title, views=views, attention=attention.tobytes(), attention_shape=[6, 8],
                marks=marks[None].repeat(4, 0).tobytes(), marks_shape=[4, 4])


def changed(column, **parts):
    "A column whose first view has other parts"
    return column | {"views": [column["views"][0] | parts, *column["views"][1:]]}


@pytest.mark.parametrize("column, says", [
    (changed(plain_column(), boxes=[dict(kind="true", box=[0, 0, 1.5, 1])]), "view 'picture': box [0, 0, 1.5, 1]"),
    (changed(plain_column(), boxes=[dict(kind="true", box=[.5, 0, .2, 1])]), "0 to 1"),
    (changed(plain_column(), boxes=[dict(kind="best", box=[0, 0, 1, 1])]), "wanted one of true, predicted, baseline"),
    (changed(plain_column(), image=b"GIF89a"), "neither JPEG nor PNG"),
    (plain_column() | {"attention": b"123"}, "attention has 3 bytes, its shape 6 x 8 wants 48"),
    (plain_column() | {"marks_shape": [5, 5]}, "marks has 16 bytes, its shape 5 x 5 wants 25"),
    ({key: value for key, value in plain_column().items() if key != "marks"}, "column 2 lacks marks"),
    (plain_column() | {"views": [dict(name="picture", image=b"")]}, "view 'picture' lacks title, alt, words, boxes")])
def test_what_cannot_be_shown_is_refused_and_the_old_stays(column, says):
    panel = PicturePanel()
    panel.show([plain_column()], (30, 40))
    with pytest.raises(ValueError) as told:
        panel.show([plain_column(), column], (30, 40))
    assert says in str(told.value) and str(told.value).startswith("column 2")
    assert len(panel.columns) == 1


def test_columns_and_shape_travel_in_one_message(monkeypatch):
    panel, sent = PicturePanel(), []
    monkeypatch.setattr(panel, "send_state", lambda key: sent.append(set(key)))
    panel.show([plain_column()], (30, 40))
    assert sent == [{"columns", "shape"}]


def test_strokes_and_keys_reach_whoever_listens():
    panel, heard = PicturePanel(), []
    panel.on_stroke(heard.append)
    panel.on_key(heard.append)
    stroke = dict(kind="erase", size=.1, points=[[.5, .5]], done=False)
    panel._handle_custom_msg(dict(kind="stroke", stroke=stroke), [])
    panel._handle_custom_msg(dict(kind="key", key="["), [])
    assert heard == [stroke, "["]


def test_an_error_of_a_listener_is_told_and_the_next_stroke_is_asked_for(monkeypatch):
    panel, answers = PicturePanel(), []
    monkeypatch.setattr(panel, "send", answers.append)
    panel.on_stroke(lambda stroke: stroke["no such part"])
    panel._handle_custom_msg(dict(kind="stroke", stroke={}), [])
    assert panel.is_error and "no such part" in panel.said and answers == [{"heard": True}]
    panel.say("well again")
    assert (panel.said, panel.is_error) == ("well again", False)


def piece(name="a.png", size=3, left=0, start=0, unreadable=False):
    return dict(kind="files", piece=dict(name=name, size=size, left=left, start=start, unreadable=unreadable))


def test_pieces_of_files_are_joined_and_told_when_the_drop_is_whole():
    panel, heard = PicturePanel(), []
    assert not panel.takes_files
    panel.on_files(heard.append)
    assert panel.takes_files
    panel._handle_custom_msg(piece("cut.png", 9), [b"never whole"[:3]]) # the page was closed
    panel._handle_custom_msg(piece("a\nb.png", 5, left=1), [memoryview(b"abc")])
    panel._handle_custom_msg(piece("a\nb.png", 5, left=1, start=3), [memoryview(b"de")])
    assert heard == []
    panel._handle_custom_msg(piece("empty", 0), [])
    assert heard == [[("a\\nb.png", b"abcde"), ("empty", b"")]]


@pytest.mark.parametrize("sent, says", [
    (piece("film.mp4", 2**27), "film.mp4: 128 MB, and a picture may have 50 MB: make it smaller"),
    (piece("folder", unreadable=True), "folder: the browser cannot read it; is it a folder?")])
def test_a_file_that_does_not_come_is_an_error_beside_those_that_do(sent, says):
    panel, heard = PicturePanel(), []
    panel.on_files(heard.extend)
    sent["piece"]["left"] = 1
    panel._handle_custom_msg(sent, [])
    panel._handle_custom_msg(piece(), [b"abc"])
    (_, error), good = heard
    assert isinstance(error, ValueError) and str(error) == says and good == ("a.png", b"abc")


@pytest.mark.parametrize("given, kept", [
    ([.2, .3, .3], [1, 0, 0]), ([2, .9, -1], [2, .5, 0]), ([4, .5, .25], [4, .5, .25])])
def test_a_zoom_never_leaves_the_picture(given, kept):
    assert PicturePanel(zoom=given).zoom == kept


HTML = """<!doctype html><html lang="en"><head><title>panel</title><link rel="icon" href="data:,">
<link rel="stylesheet" href="/panel.css">
<style>:root { color-scheme: light dark } body { margin: 8px; background: Canvas }</style></head>
<body data-ready="no"><main id="here"></main><p style="height: 3000px">below</p><script type="module">
import front from "/panel.js"
const bytes = text => new DataView(Uint8Array.from(atob(text), c => c.charCodeAt(0)).buffer)
const revive = (key, value) => value?.base64 === undefined ? value : bytes(value.base64)
class Model { // as ipywidgets' models are, without a kernel
  constructor(state) { Object.assign(this, { state, heard: {}, sent: [] }) }
  get(name) { return this.state[name] }
  set(name, value) { this.state[name] = value; this.tell(`change:${name}`) }
  save_changes() { this.saved = { ...this.state } }
  send(content, callbacks, buffers = []) {
    this.sent.push(structuredClone({ ...content, bytes: buffers.map(one => [...new Uint8Array(one)].slice(0, 8)) }))
  }
  on(event, act) { (this.heard[event] ??= new Set()).add(act) }
  off(event, act) { this.heard[event].delete(act) }
  tell(event, ...what) { for (const act of this.heard[event] ?? []) act(...what) }
}
const state = JSON.parse(document.querySelector("#state").textContent, revive)
window.model = new Model(state)
window.put = (name, text) => model.set(name, JSON.parse(text, revive))
window.end = front.render({ model, el: document.querySelector("#here") })
document.body.dataset.ready = "yes"
</script><script id="state" type="application/json">STATE</script></body></html>"""


def with_bytes(value):
    return {"base64": base64.b64encode(value).decode()}


def put_columns(page, columns):
    page.evaluate("text => put('columns', text)", json.dumps(columns, default=with_bytes))


def until(page, script, arg=None):
    page.wait_for_function(script, arg=arg)


def open_panel(page, columns, shape=(30, 40), **traits):
    "The front end with the traits of a PicturePanel"
    panel = PicturePanel(**traits)
    panel.show(columns, shape)
    names = [name for name in panel.keys if not name.startswith("_") and name not in ("layout", "tabbable", "tooltip")]
    state = json.dumps({name: getattr(panel, name) for name in names}, default=with_bytes).replace("<", "\\u003c")
    files = {"panel.js": "text/javascript", "panel.css": "text/css"}

    def answer(route):
        name = route.request.url.rpartition("/")[2]
        if name in files:
            route.fulfill(body=(ROOT/"locloc"/name).read_text(encoding="utf-8"), content_type=files[name])
        else:
            route.fulfill(body=HTML.replace("STATE", state), content_type="text/html; charset=utf-8")
    page.route("http://localhost/**", answer)
    page.goto("http://localhost/")
    until_drawn(page, len(columns) * len(columns[0]["views"]))


def until_drawn(page, count):
    until(page, """count => {
        const images = [...document.querySelectorAll(".frame img")]
        return images.length === count && images.every(one => one.naturalWidth && one.alt) && !!model.get("side")
    }""", count)


def frame_box(page, name="picture", nth=0):
    return page.locator(f".locloc-panel-{name} .frame").nth(nth).bounding_box()


def at(box, u, v):
    "Screen px of a place in a frame"
    return box["x"] + u * box["width"], box["y"] + v * box["height"]


def trait(page, name):
    return page.evaluate("name => model.get(name)", name)


def sent(page, kind):
    return page.evaluate("kind => model.sent.filter(one => one.kind === kind).map(one => one[kind])", kind)


def zoom_in(page, u=.75, v=.5, name="picture"):
    "With ctrl and the wheel"
    page.mouse.move(*at(frame_box(page, name), u, v))
    page.keyboard.down("Control")
    for _ in range(6):
        before = trait(page, "zoom")[0]
        page.mouse.wheel(0, -100)
        until(page, "before => model.get('zoom')[0] > before", before)
    page.keyboard.up("Control")


def test_ctrl_wheel_zooms_all_views_about_the_pointer_and_double_click_goes_back(page):
    open_panel(page, [plain_column()])
    zoom_in(page)
    scale, x, y = trait(page, "zoom")
    assert scale > 3 and x + .75 / scale == pytest.approx(.75, abs=.01)
    assert y + .5 / scale == pytest.approx(.5, abs=.01)
    assert page.evaluate("model.saved.zoom") == [scale, x, y]
    until(page, """() => new Set([...document.querySelectorAll(".frame img")].map(i => i.style.transform)).size === 1
        && document.querySelector(".frame img").style.transform.includes("scale(")
        && document.querySelector(".frame img").classList.contains("pixels")""")
    page.mouse.dblclick(*at(frame_box(page), .5, .5))
    until(page, "() => model.get('zoom')[0] === 1")


def test_the_plain_wheel_scrolls_the_page_until_the_panel_is_zoomed(page):
    open_panel(page, [plain_column()])
    page.mouse.move(*at(frame_box(page), .5, .5))
    page.mouse.wheel(0, 30)
    until(page, "() => scrollY === 30")
    assert trait(page, "zoom") == [1, 0, 0]
    page.evaluate("put('zoom', '[2, 0.2, 0.2]')")
    page.mouse.move(*at(frame_box(page), .4, .5))
    page.mouse.wheel(0, -30)
    until(page, "() => model.get('zoom')[0] > 2")
    assert page.evaluate("scrollY") == 30


def test_dragging_moves_the_zoomed_picture_as_far_as_the_hand(page):
    open_panel(page, [plain_column()], zoom=[4, .5, .5])
    box = frame_box(page, "trimap")
    page.mouse.move(*at(box, .8, .5))
    page.mouse.down()
    page.mouse.move(*at(box, .4, .7), steps=4)
    page.mouse.up()
    until(page, "() => Math.abs(model.get('zoom')[1] - .6) < .01")
    assert trait(page, "zoom") == pytest.approx([4, .6, .45], abs=.01)
    assert sent(page, "stroke") == []


def test_two_fingers_zoom(page):
    open_panel(page, [plain_column()])
    box = frame_box(page)
    fingers = page.context.new_cdp_session(page)

    def touch(kind, *places):
        points = [dict(zip("xy", at(box, u, v), strict=True), id=i) for i, (u, v) in enumerate(places)]
        fingers.send("Input.dispatchTouchEvent", dict(type=kind, touchPoints=points))
    touch("touchStart", (.4, .5))
    touch("touchStart", (.4, .5), (.6, .5))
    for spread in (.2, .3, .4):
        touch("touchMove", (.5 - spread, .5), (.5 + spread, .5))
    touch("touchEnd")
    until(page, "() => model.get('zoom')[0] > 2")
    scale, x, y = trait(page, "zoom")
    assert x + .5 / scale == pytest.approx(.5, abs=.1)
    assert page.locator(".pointed").count() == len(VIEWS), "what was touched is seen when the finger is away"


def test_the_pixel_under_the_pointer_is_described_for_every_column(page):
    open_panel(page, [plain_column("now"), plain_column("pinned") | {"marks": bytes(16)}])
    page.mouse.move(*at(frame_box(page, "grabcut", 1), .91, .52))
    until(page, "() => document.querySelector('.readout').innerText.startsWith('x 3')")
    now, pinned = page.locator(".readout").all_inner_texts()
    assert [now, pinned] == [
        f"x 36, y 15 · attention .97 · {side}" for side in (" uncertain, from foreground", " background")]
    assert page.locator(".pointed .cross").count() == 2 * len(VIEWS)
    page.mouse.move(5, 890)
    until(page, "() => !document.querySelector('.pointed')")


FRAMES = "() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(done))))"


def test_a_stroke_is_told_in_shares_while_it_is_drawn_and_when_it_is_done(page):
    page.add_init_script("const real = setTimeout; window.setTimeout = (act, ms) => ms >= 1000 ? 0 : real(act, ms)")
    open_panel(page, [plain_column()], brush="foreground", brush_size=.1, zoom=[2, .5, .5])
    box = frame_box(page)
    page.mouse.move(*at(box, .2, .2))
    page.mouse.down()
    until(page, "() => model.sent.length === 1")
    page.mouse.move(*at(box, .8, .2), steps=12)
    page.evaluate(FRAMES)
    assert page.evaluate("model.sent.length") == 1, "the kernel has not done with the first one"
    page.evaluate("model.tell('msg:custom', { heard: true })")
    until(page, "() => model.sent.length === 2")
    page.mouse.up()
    until(page, "() => model.sent.at(-1).stroke.done")
    strokes = sent(page, "stroke")
    assert [stroke["done"] for stroke in strokes] == [False, False, True]
    last = strokes[-1]
    assert (last["kind"], last["size"]) == ("foreground", .1)
    assert last["points"][0] == pytest.approx([.6, .6], abs=.01)
    assert last["points"][-1] == pytest.approx([.9, .6], abs=.06)
    assert strokes[1]["points"] == last["points"][:len(strokes[1]["points"])]
    assert trait(page, "zoom") == [2, .5, .5]


def test_a_kernel_that_does_not_answer_still_gets_the_stroke(page):
    open_panel(page, [plain_column()], brush="erase")
    page.mouse.move(*at(frame_box(page), .2, .2))
    page.mouse.down()
    until(page, "() => model.sent.length === 1")
    page.mouse.move(*at(frame_box(page), .5, .5), steps=3)
    until(page, "() => model.sent.length === 2")
    assert sent(page, "stroke")[-1]["points"][1:]


@pytest.mark.parametrize("how", ["Escape", "finger"])
def test_a_stroke_that_is_given_up_ends_without_points(page, how):
    open_panel(page, [plain_column()], brush="erase")
    page.mouse.move(*at(frame_box(page), .2, .2))
    page.mouse.down()
    page.mouse.move(*at(frame_box(page), .5, .5), steps=3)
    if how == "Escape":
        page.keyboard.press("Escape")
    else:
        page.evaluate("""() => document.querySelector(".frame").dispatchEvent(
            new PointerEvent("pointercancel", { pointerId: 1, bubbles: true }))""")
    until(page, "() => model.sent.at(-1).stroke?.done")
    assert sent(page, "stroke")[-1]["points"] == [] and sent(page, "key") == []


def test_space_and_drag_moves_while_a_brush_is_chosen(page):
    open_panel(page, [plain_column()], brush="background", zoom=[4, .5, .5])
    box = frame_box(page)
    page.locator(".locloc-picture-panel").focus()
    page.keyboard.down(" ")
    page.mouse.move(*at(box, .5, .5))
    page.mouse.down()
    page.mouse.move(*at(box, .1, .5), steps=3)
    page.mouse.up()
    page.keyboard.up(" ")
    until(page, "() => model.get('zoom')[1] > .55")
    assert sent(page, "stroke") == [] and page.evaluate("scrollY") == 0


def strokes_seen(page):
    "(H, W, 4) of the first view's brush layer"
    data = page.locator(".frame canvas").first.evaluate("canvas => canvas.toDataURL()")
    return cv2.imdecode(np.frombuffer(base64.b64decode(data.partition(",")[2]), np.uint8), cv2.IMREAD_UNCHANGED)


def test_strokes_are_seen_and_the_eraser_rubs_them_out(page):
    def line(kind, *points):
        return dict(kind=kind, size=.2, points=points)
    drawn = [line("foreground", [.1, .5], [.9, .5]), line("background", [.5, .1]), line("erase", [.9, .5])]
    open_panel(page, [plain_column()], strokes=drawn)
    seen = strokes_seen(page)
    h, w = seen.shape[:2]
    middle, top, rubbed, empty = (seen[int(v * h), int(u * w)] for u, v in ((.4, .5), (.5, .1), (.9, .5), (.1, .1)))
    assert middle.tolist() == [0x8b, 0xb6, 0x3f, 255] and top.tolist() == [0x57, 0x4d, 0x4d, 255]
    assert rubbed[3] == 0 and empty[3] == 0


KEYS = "ArrowLeft", "ArrowRight", "[", "]", "{", "}", "p", "Escape"


def test_keys_are_told_only_when_the_panel_has_the_focus_and_nobody_else_hears_them(page):
    open_panel(page, [plain_column()])
    page.evaluate("""() => {
        window.overheard = []
        document.addEventListener("keydown", event => overheard.push(event.key), true)
    }""")
    page.keyboard.press("p")
    assert sent(page, "key") == [] and page.evaluate("overheard") == ["p"]
    page.locator(".locloc-picture-panel").focus()
    for key in (*KEYS, "Control+z", "Control+Shift+Z", "d", "Control+s"):
        page.keyboard.press(key)
    assert sent(page, "key") == [*KEYS, "ctrl-z", "ctrl-shift-z"]
    heard = set(page.evaluate("overheard"))
    assert heard <= {"p", "Control", "Shift", "s"} and "s" in heard, "a notebook is still saved by ctrl-S"


def test_the_keyboard_alone_zooms_moves_and_goes_back(page):
    open_panel(page, [plain_column()])
    page.locator(".locloc-picture-panel").focus()
    for _ in range(3):
        page.keyboard.press("+")
    before = trait(page, "zoom")
    for _ in range(20):
        page.keyboard.press("Shift+ArrowRight")
    assert trait(page, "zoom")[1] > before[1] and sent(page, "key") == [], "the view follows the crosshair"
    page.keyboard.press("0")
    assert trait(page, "zoom") == [1, 0, 0]
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert trait(page, "zoom")[0] == 1.5, "the second button zooms in"


def test_keys_move_a_crosshair_whose_pixel_is_read_aloud(page):
    open_panel(page, [plain_column("now"), plain_column("pinned")])
    assert page.locator("[aria-live]").inner_text() == ""
    page.locator(".locloc-picture-panel").focus()
    for _ in range(17):
        page.keyboard.press("Shift+ArrowRight")
    page.keyboard.press("Shift+ArrowUp")
    until(page, "() => document.querySelector('[aria-live]').textContent.startsWith('x 37, y 14')")
    words = "x 37, y 14, attention .99,  uncertain, from foreground"
    assert page.locator("[aria-live]").text_content() == f"{words}; {words}"
    assert page.locator(".readout").first.text_content().replace(" ·", ",") == words
    assert page.locator(".pointed .cross").count() == 2 * len(VIEWS)
    for _ in range(9):
        page.keyboard.press("Shift+ArrowRight")
    until(page, "() => document.querySelector('[aria-live]').textContent.startsWith('x 39')")
    page.evaluate("document.activeElement.blur()")
    until(page, "() => !document.querySelector('.pointed')")


DRAG = """([kind, files]) => {
    const data = new DataTransfer()
    for (const [name, size] of files) data.items.add(new File([new Uint8Array(size).fill(7)], name))
    const event = kind === "paste" ? new ClipboardEvent(kind, { clipboardData: data, bubbles: true, cancelable: true })
        : new DragEvent(kind, { dataTransfer: data, bubbles: true, cancelable: true })
    const target = kind === "paste" ? document.activeElement : document.querySelector(".frame, .views")
    target.dispatchEvent(event)
    return event.defaultPrevented
}"""
OVERHEAR = """() => {
    window.overheard = []
    for (const kind of ["dragover", "drop", "paste"]) document.addEventListener(kind, e => overheard.push(e.type))
}"""


def test_dropped_files_are_sent_in_pieces_and_nobody_else_hears_of_them(page):
    open_panel(page, [plain_column()], takes_files=True)
    page.evaluate(OVERHEAR)
    assert page.evaluate(DRAG, ["dragover", [["a.png", 3]]])
    hint = "() => getComputedStyle(document.querySelector('.locloc-picture-panel'), '::after').content"
    assert page.evaluate(hint) == '"drop a picture"'
    assert page.evaluate(DRAG, ["drop", [["a.png", 3], ["large.png", 5 * 2**20], ["film.mp4", 51 * 2**20]]])
    assert page.evaluate(hint) == "none"
    until(page, "() => model.sent.length === 4")
    assert sent_pieces(page) == [
        ("a.png", 0, 2, [7, 7, 7]), ("large.png", 0, 1, [7] * 8), ("large.png", 4 * 2**20, 1, [7] * 8),
        ("film.mp4", 0, 0, None)], "what is too large is named, not sent"
    assert page.evaluate("overheard") == []


def sent_pieces(page):
    "Name, start, files to come and first bytes of every piece"
    return [tuple(one) for one in page.evaluate("""model.sent.filter(one => one.kind === "files").map(
        ({ piece, bytes }) => [piece.name, piece.start, piece.left, bytes[0] ?? null])""")]


def test_pictures_are_pasted_where_the_focus_is_or_chosen_by_a_button(page):
    open_panel(page, [plain_column()], takes_files=True)
    page.evaluate(OVERHEAR)
    assert not page.evaluate(DRAG, ["paste", [["a.png", 3]]]), "the focus is elsewhere"
    page.locator(".locloc-picture-panel").focus()
    assert not page.evaluate(DRAG, ["paste", []]), "text is not the panel's"
    assert page.evaluate(DRAG, ["paste", [["b.png", 3]]])
    until(page, "() => model.sent.length === 1")
    with page.expect_file_chooser() as chosen:
        page.get_by_role("button", name="open a picture").press("Enter")
    chosen.value.set_files([dict(name=name, mimeType="image/png", buffer=b"abc") for name in ("c.png", "d.png")])
    until(page, "() => model.sent.length === 3")
    assert [(name, left) for name, _, left, _ in sent_pieces(page)] == [("b.png", 0), ("c.png", 1), ("d.png", 0)]
    assert page.evaluate("overheard") == ["paste"] * 2


def test_a_panel_to_which_nobody_listens_takes_no_files(page):
    open_panel(page, [plain_column()])
    assert not page.evaluate(DRAG, ["dragover", [["a.png", 3]]])
    assert not page.evaluate(DRAG, ["drop", [["a.png", 3]]])
    assert page.locator(".chooser").is_hidden() and sent_pieces(page) == []


def test_a_panel_without_views_is_still_a_place_to_drop(page):
    open_panel(page, [plain_column()], takes_files=True)
    put_columns(page, [])
    until(page, "() => !document.querySelector('.frame')")
    assert page.locator(".views").bounding_box()["height"] >= 150
    assert page.evaluate(DRAG, ["drop", [["a.png", 3]]])


@pytest.mark.parametrize("shape", [(30, 40), (60, 40)])
@pytest.mark.parametrize("width, first_row", [(1440, 6), (1040, 4), (740, 3), (390, 2)])
def test_what_is_judged_stands_in_the_first_row_and_is_no_higher_than_the_window_allows(page, shape, width, first_row):
    page.set_viewport_size(dict(width=width, height=900))
    open_panel(page, [plain_column()], shape)
    boxes = [frame_box(page, name) for name in VIEWS]
    assert sum(box["y"] == boxes[0]["y"] for box in boxes) == first_row
    assert max(box["height"] for box in boxes) <= .4 * 900 + 1 and min(box["width"] for box in boxes) > 140


def test_a_view_is_enlarged_and_comes_back(page):
    open_panel(page, [plain_column()])
    small = frame_box(page, "grabcut")["width"]
    page.get_by_role("button", name="enlarge Grabcut").click()
    until(page, "small => document.querySelector('.locloc-panel-grabcut .frame').clientWidth > 2 * small", small)
    put_columns(page, [plain_column("a"), plain_column("b")])
    until_drawn(page, 12)
    assert page.locator(".view:visible").count() == 1, "a second column leaves the others hidden"
    page.keyboard.press("Escape")
    until(page, "() => document.querySelectorAll('.view:not([hidden])').length === 6")
    assert sent(page, "key") == [], "Escape only brought the views back"
    page.keyboard.press("Escape")
    assert sent(page, "key") == ["Escape"]


def test_new_pictures_and_words_are_shown_and_the_old_stay_until_then(page):
    open_panel(page, [plain_column()])
    page.evaluate("""() => {
        window.blank = 0
        const look = () => {
            for (const image of document.querySelectorAll(".frame img")) blank += !image.naturalWidth
            requestAnimationFrame(look)
        }
        look()
    }""")
    for shade in range(10, 250, 20):
        columns = [changed(plain_column(shade=shade), words=f"shade {shade}")]
        put_columns(page, columns)
    until(page, "() => document.querySelector('figcaption').innerText === 'shade 230'")
    shown = cv2.imdecode(np.frombuffer(page.locator(".frame").first.screenshot(), np.uint8), 1)
    assert abs(int(shown[shown.shape[0] * 3 // 8, shown.shape[1] // 8, 0]) - 230) < 4
    assert page.evaluate("blank") == 0
    two = [plain_column("now"), plain_column("pinned")]
    put_columns(page, two)
    until_drawn(page, 12)
    assert page.locator(".head h3").all_inner_texts() == ["now", "pinned"]


def test_a_picture_that_cannot_be_decoded_is_named_and_the_old_one_stays(page):
    open_panel(page, [plain_column()])
    broken = [changed(plain_column(), image=b"\xff\xd8\xff and nothing more")]
    put_columns(page, broken)
    until(page, "() => document.querySelector('[role=alert]').innerText.includes('Picture')")
    until_drawn(page, 6)


def test_words_and_errors_have_their_roles_and_names_are_no_html(page):
    open_panel(page, [plain_column("<img src=x>")], said="<b>saved</b>")
    assert page.locator("[role=status]").inner_text() == "<b>saved</b>"
    assert page.locator(".head h3").inner_text() == "<img src=x>"
    page.evaluate("put('is_error', 'true')")
    until(page, "() => document.querySelector('[role=alert]').innerText.includes('<b>saved</b>')")
    page.evaluate("put('busy', 'true')")
    until(page, "() => document.querySelector('[aria-busy=true]')")


def test_a_closed_panel_hears_nothing_more(page):
    open_panel(page, [plain_column()])
    page.locator(".locloc-picture-panel").focus()
    page.evaluate("end()")
    page.keyboard.press("p")
    assert sent(page, "key") == [] and page.evaluate("Object.values(model.heard).every(set => !set.size)")


def scene_columns(side=480):
    "Two settings of a scene as the workbench paints them"
    bench = Workbench(load_dataset("scenes", split="test", count=2))
    first = first_setting(bench)
    columns = []
    for title, setting in (("now: δ0 0.02, δ1 0.75", first), ("pinned: the preset paper", first.preset("paper"))):
        cut = bench.cut(1, setting)
        columns.append(column(cut, title, side))
    return columns, cut.view.shape


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("count", [1, 2])
def test_nothing_sticks_out_at_any_width_in_either_theme(page, theme, count):
    columns, shape = scene_columns()
    page.emulate_media(color_scheme=theme)
    open_panel(page, columns[:count], shape, takes_files=True)
    for width, height in SIZES:
        page.set_viewport_size(dict(width=width, height=height))
        until(page, """width => innerWidth === width && [...document.querySelectorAll(".frame")].every(
            one => one.querySelector("canvas").width === one.clientWidth)""", width)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        frame = frame_box(page)
        assert frame["width"] >= 140 and frame["width"] / frame["height"] == pytest.approx(shape[1] / shape[0], rel=.02)
        if os.environ.get("LOCLOC_SCREENSHOTS"):
            page.mouse.move(*at(frame, .6, .5))
            until(page, "() => document.querySelector('.pointed')")
            page.screenshot(path=Path(os.environ["LOCLOC_SCREENSHOTS"])/f"panel-{count}-{theme}-{width}.png")
        assert hard_to_use(page, "#here") == []
