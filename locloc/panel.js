// Front end of locloc's PicturePanel (locloc/panel.py): an ES module as anywidget takes it, without dependencies.
// Places are shares of the picture, 0..1 from its upper left corner; a zoom is [scale, x, y], x and y the place
// that is seen in the upper left corner of every view.

const KEYS = ["ArrowLeft", "ArrowRight", "[", "]", "{", "}", "p", "Escape"]
const KEYS_HELP = "left and right arrow: the picture before, after; shift and arrow keys: move the crosshair and hear " +
  "what is there; plus, minus, 0: zoom; square and curly brackets: thresholds; p: pin; control Z: undo"
const MOVES = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }
const DASHES = { true: "none", predicted: "6 4", baseline: "2 4" }
const MOST = 40 // scale
const PIXELS_SEEN = 3 // screen px an image px, from which its pixels are shown as squares
const PATIENCE = 1000 // ms until a stroke is sent though the kernel has not answered the one before
const HINT = "ctrl + wheel or pinch: zoom · drag: move · double click: the whole · shift + arrow keys: crosshair"
const STEPS = 40 // of the crosshair, from one edge of what is seen to the other
const PIECE = 4 * 2 ** 20 // bytes of a file in a message: servers let no more than 10 MB through

const clamp = (value, low, high) => Math.min(Math.max(value, low), high)
const round = value => Math.round(value * 1e5) / 1e5

function setAll(element, attributes) {
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value)
}

function make(tag, attributes = {}, ...children) {
  return filled(document.createElement(tag), attributes, children)
}

function makeSvg(tag, attributes = {}, ...children) {
  return filled(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children)
}

function filled(element, attributes, children) {
  setAll(element, attributes)
  element.append(...children)
  return element
}

// A title that is cut where it is too long is read in full under the pointer
function entitle(element, words) {
  element.textContent = element.title = words
  element.hidden = !words
}

function bytesOf(data) {
  return data instanceof Uint8Array ? data : new Uint8Array(data.buffer, data.byteOffset, data.byteLength)
}

function sameBytes(a, b) {
  return a.length === b.length && a.every((value, i) => value === b[i])
}

async function decode(bytes) {
  const image = new Image()
  image.src = URL.createObjectURL(new Blob([bytes]))
  image.draggable = false
  await image.decode()
  return image
}

// A shape with a dark edge on both sides, as thick at any zoom
function edged(tag, className, attributes) {
  return makeSvg("g", { class: className }, makeSvg(tag, { ...attributes, class: "edge" }), makeSvg(tag, attributes))
}

// One view of one column: the picture, brush strokes, boxes and the crosshair, each a layer
class Frame {
  constructor() {
    this.bytes = new Uint8Array()
    this.corners = [] // of boxes, px of the picture
    this.image = new Image()
    this.strokes = make("canvas", { "aria-hidden": "true" })
    this.boxes = makeSvg("g")
    this.cross = edged("path", "cross", {})
    this.ring = edged("circle", "ring", {})
    this.layer = makeSvg(
      "svg", { preserveAspectRatio: "none", "aria-hidden": "true" }, this.boxes, this.cross, this.ring)
    this.element = make("div", { class: "frame" }, this.image, this.strokes, this.layer)
    this.whose = make("div", { class: "whose" })
    this.words = make("figcaption")
  }

  fill(view, image, bytes, [H, W], colours) {
    if (image !== this.image) {
      URL.revokeObjectURL(this.image.src)
      this.image.replaceWith(image)
      this.image = image
      this.bytes = bytes
    }
    this.image.alt = view.alt
    this.words.innerHTML = view.words
    this.element.style.aspectRatio = `${W} / ${H}`
    this.corners = view.boxes.map(({ box: [x0, y0, x1, y1] }) => [x0 * W, y0 * H, x1 * W, y1 * H])
    this.boxes.replaceChildren(...view.boxes.map(({ kind }) =>
      edged("rect", kind, { stroke: colours[kind], "stroke-dasharray": DASHES[kind] })))
  }

  place([scale, x, y], [H, W]) {
    this.image.style.transform = `scale(${scale}) translate(${-100 * x}%, ${-100 * y}%)`
    const magnified = this.element.clientWidth * scale / this.image.naturalWidth
    this.image.classList.toggle("pixels", magnified > PIXELS_SEEN)
    this.layer.setAttribute("viewBox", `${x * W} ${y * H} ${W / scale} ${H / scale}`)
    const edge = 2 * W / scale / this.element.clientWidth // a box at the picture's edge is seen whole
    this.corners.forEach(([x0, y0, x1, y1], i) => {
      const [left, top] = [Math.max(x0, edge), Math.max(y0, edge)]
      const size = [Math.min(x1, W - edge) - left, Math.min(y1, H - edge) - top].map(length => Math.max(length, 0))
      const place = { x: left, y: top, width: size[0], height: size[1] }
      for (const line of this.boxes.children[i].children) setAll(line, place)
    })
  }

  paint(strokes, [scale, x, y], [H, W], colours) {
    const canvas = this.strokes
    const width = Math.round(this.element.clientWidth * devicePixelRatio)
    const height = Math.round(this.element.clientHeight * devicePixelRatio)
    if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height })
    const pen = canvas.getContext("2d")
    pen.setTransform(1, 0, 0, 1, 0, 0)
    pen.clearRect(0, 0, width, height)
    pen.setTransform(width * scale / W, 0, 0, height * scale / H, -x * width * scale, -y * height * scale)
    pen.lineCap = pen.lineJoin = "round"
    for (const { kind, size, points } of strokes) {
      pen.globalCompositeOperation = kind === "erase" ? "destination-out" : "source-over"
      pen.strokeStyle = kind === "foreground" ? colours[1] : colours[0]
      pen.lineWidth = size * Math.max(H, W)
      pen.beginPath()
      points.forEach(([u, v]) => pen.lineTo(u * W, v * H))
      if (points.length === 1) pen.lineTo(points[0][0] * W + .01, points[0][1] * H) // no length: no dot
      pen.stroke()
    }
  }

  point(spot, [H, W], ringSize) {
    this.element.classList.toggle("pointed", Boolean(spot))
    if (!spot) return
    const [u, v] = [spot[0] * W, spot[1] * H]
    for (const line of this.cross.children) line.setAttribute("d", `M${u} 0V${H}M0 ${v}H${W}`)
    for (const circle of this.ring.children) setAll(circle, { cx: u, cy: v, r: ringSize * Math.max(H, W) / 2 })
  }
}

// Words that are read aloud but not seen
function unseen(attributes, words = "") {
  return make("div", { class: "unseen", ...attributes }, words)
}

// Value of an (h, w) map between its cells, as it is when the map is enlarged to the picture
function between(values, [h, w], [u, v]) {
  const [y, x] = [clamp(v * h - .5, 0, h - 1), clamp(u * w - .5, 0, w - 1)]
  const [top, left] = [Math.floor(y), Math.floor(x)]
  const [below, right] = [Math.min(top + 1, h - 1), Math.min(left + 1, w - 1)]
  const along = row => values[row * w + left] * (1 - x + left) + values[row * w + right] * (x - left)
  return along(top) * (1 - y + top) + along(below) * (y - top)
}

class Panel {
  constructor(model, el) {
    Object.assign(this, { model, frames: new Map(), readouts: [], columns: [], pointers: new Map() })
    Object.assign(this, { turn: 0, shown: 0, built: null, enlarged: null, spot: null, stroke: null, pan: null })
    this.sending = Promise.resolve()
    this.pending = new Set()
    this.makeParts()
    el.append(this.root)
    this.listen()
    this.update()
    this.tell()
  }

  makeParts() {
    const button = (words, label, title, act) => {
      const made = make("button", { type: "button", "aria-label": label, title }, words)
      made.addEventListener("click", act)
      return made
    }
    const middle = factor => () => this.zoomAbout([.5, .5], factor)
    this.scale = make("span", { class: "scale" })
    const tools = make(
      "div", { class: "tools", role: "group", "aria-label": "zoom" },
      button("−", "zoom out", `zoom out (key −); ${HINT}`, middle(1 / 1.5)), this.scale,
      button("+", "zoom in", `zoom in (key +); ${HINT}`, middle(1.5)),
      button("whole", "the whole picture", "show the whole picture (key 0)", () => this.setZoom([1, 0, 0])))
    this.file = make("input", { type: "file", accept: "image/*", multiple: "", hidden: "", "aria-label": "pictures" })
    const chooser = button("open a picture …", "open a picture", "or drop or paste it here", () => this.file.click())
    chooser.className = "chooser"
    tools.append(chooser, this.file)
    this.heads = make("div", { class: "heads" })
    this.grid = make("div", { class: "views" })
    this.said = make("div", { class: "said", role: "status" })
    this.failed = make("div", { class: "failed", role: "alert" })
    this.spoken = unseen({ "aria-live": "polite" })
    const help = unseen({ id: `locloc-keys-${Math.random()}` }, KEYS_HELP)
    this.root = make(
      "div", { class: "locloc-picture-panel", tabindex: "0", role: "group", "aria-label": "pictures",
               "aria-describedby": help.id },
      make("div", { class: "top" }, this.heads, make("div", { class: "told" }, this.said, this.failed), tools),
      this.grid, this.spoken, help)
  }

  listen() {
    const soon = part => () => this.soon(part)
    const heard = {
      "change:columns": () => this.updateNow(), "change:shape": () => this.updateNow(),
      "change:box_colours": () => this.updateNow(),
      "change:zoom": soon("place"), "change:strokes": soon("place"), "change:brush": soon("place"),
      "change:brush_size": soon("point"), "change:mark_colours": soon("place"), "change:mark_names": soon("point"),
      "change:busy": soon("tell"), "change:said": soon("tell"), "change:is_error": soon("tell"),
      "change:takes_files": soon("tell"),
      "msg:custom": content => content.heard && this.sendNext(),
    }
    for (const [event, act] of Object.entries(heard)) this.model.on(event, act)
    const press = event => this.press(event)
    // before JupyterLab, which listens on the document: a key that means something here must mean nothing there
    window.addEventListener("keydown", press, true)
    const release = event => { if (event.key === " ") this.holdSpace(false) }
    window.addEventListener("keyup", release, true)
    const paste = event => this.paste(event)
    window.addEventListener("paste", paste, true)
    const drags = { dragenter: "dragOver", dragover: "dragOver", dragleave: "dragLeave", drop: "drop" }
    for (const [event, act] of Object.entries(drags)) this.root.addEventListener(event, e => this[act](e))
    this.root.addEventListener("focusout", () => this.see(null))
    this.file.addEventListener("change", () => {
      this.sendFiles([...this.file.files])
      this.file.value = ""
    })
    this.sizes = new ResizeObserver(() => this.soon("fit"))
    this.sizes.observe(this.root)
    this.end = () => {
      for (const [event, act] of Object.entries(heard)) this.model.off(event, act)
      window.removeEventListener("keydown", press, true)
      window.removeEventListener("keyup", release, true)
      window.removeEventListener("paste", paste, true)
      this.sizes.disconnect()
      clearTimeout(this.impatience)
      for (const frame of this.frames.values()) URL.revokeObjectURL(frame.image.src)
    }
  }

  // Parts of the panel that are brought up to date in the next animation frame, each once
  soon(part) {
    if (!this.pending.size) requestAnimationFrame(() => {
      const parts = [...this.pending]
      this.pending.clear()
      for (const name of parts) this[name]()
    })
    this.pending.add(part)
  }

  get shape() { return this.model.get("shape") }
  get zoom() { return this.model.get("zoom") }
  get brush() { return this.model.get("brush") }

  // Not in the next frame but as soon as all traits of the message are set
  updateNow() {
    if (this.updating) return
    this.updating = true
    queueMicrotask(() => {
      this.updating = false
      this.update()
    })
  }

  // The old pictures stay until all new ones are decoded
  async update() {
    const turn = ++this.turn
    const [columns, shape] = [this.model.get("columns"), this.shape]
    const views = columns.flatMap((column, c) => column.views.map(view => ({ key: `${c} ${view.name}`, view })))
    const missing = []
    await Promise.all(views.map(async one => {
      const frame = this.frames.get(one.key)
      one.bytes = bytesOf(one.view.image)
      if (frame && sameBytes(frame.bytes, one.bytes)) one.image = frame.image
      else one.image = await decode(one.bytes).catch(() => missing.push(one.view.title) && frame?.image)
    }))
    if (turn < this.shown) return
    this.shown = turn
    this.columns = columns.map(column => ({
      ...column, attention: bytesOf(column.attention), marks: bytesOf(column.marks) }))
    this.build(columns)
    this.entitleAll(columns)
    for (const { key, view, image, bytes } of views) {
      const frame = this.frames.get(key)
      frame.fill(view, image ?? frame.image, bytes, shape, this.model.get("box_colours"))
    }
    this.missing = missing
    this.tell()
    this.fit()
  }

  // Elements for the views that there are, unless they stand already
  build(columns) {
    const plan = JSON.stringify(columns.map(column => column.views.map(view => view.name)))
    if (plan === this.built) return
    this.built = plan
    const kept = new Map()
    const groups = new Map()
    columns.forEach((column, c) => column.views.forEach(({ name }) => {
      const key = `${c} ${name}`
      const frame = this.frames.get(key) ?? this.makeFrame()
      kept.set(key, frame)
      if (!groups.has(name)) groups.set(name, this.makeGroup(name))
      const figure = make("figure", { class: `locloc-panel-${name}` }, frame.whose, frame.element, frame.words)
      groups.get(name).lastChild.append(figure)
    }))
    for (const [key, frame] of this.frames) if (!kept.has(key)) URL.revokeObjectURL(frame.image.src)
    this.frames = kept
    const focused = this.grid.contains(document.activeElement)
    this.grid.replaceChildren(...groups.values())
    if (focused) this.root.focus({ preventScroll: true }) // keys still mean something
    this.readouts = columns.map(() => make("div", { class: "readout", title: HINT }))
    this.heads.replaceChildren(...this.readouts.map(readout => make("div", { class: "head" }, make("h3"), readout)))
    this.enlarge(groups.has(this.enlarged) ? this.enlarged : null)
  }

  makeGroup(name) {
    const button = make("button", { type: "button", class: "enlarge" }, "⤢")
    button.addEventListener("click", () => this.enlarge(this.enlarged ? null : name))
    const pair = make("div", { class: "pair" })
    const bar = make("div", { class: "bar" }, make("h3"), button)
    return make("section", { class: "view", "data-view": name }, bar, pair)
  }

  entitleAll(columns) {
    columns.forEach((column, c) => {
      entitle(this.heads.children[c].firstChild, column.title)
      for (const { name, title } of column.views) {
        entitle(this.frames.get(`${c} ${name}`).whose, columns.length > 1 ? column.title : "")
        entitle([...this.grid.children].find(group => group.dataset.view === name).querySelector("h3"), title)
      }
    })
    this.nameButtons()
  }

  nameButtons() {
    for (const group of this.grid.children) {
      const [button, title] = [group.querySelector("button"), group.querySelector("h3").textContent]
      const large = group.dataset.view === this.enlarged
      button.title = large ? "back to all views (Escape)" : "enlarge"
      setAll(button, { "aria-label": `${large ? "back from" : "enlarge"} ${title}`, "aria-pressed": large })
    }
  }

  enlarge(name) {
    this.enlarged = name
    for (const group of this.grid.children) group.hidden = name !== null && group.dataset.view !== name
    this.nameButtons()
    this.root.classList.toggle("enlarged", name !== null)
    this.fit()
  }

  // As many views to a row as leave the last one half full at least and are no smaller than can be read
  fit() {
    const [count, compared] = [this.grid.children.length || 1, this.columns.length || 1]
    const width = this.root.clientWidth
    const least = (width < 700 ? 150 : 215) * compared
    const last = n => count % n || n // views in the last of rows of n
    let row = 1
    for (let n = 2; n <= count; n++) if (2 * last(n) >= n && width / n >= least) row = n
    this.grid.style.setProperty("--row", this.enlarged ? 1 : row)
    const [H, W] = this.shape
    this.grid.style.setProperty("--aspect", W / H)
    this.grid.style.setProperty("--compared", compared)
    const frame = [...this.frames.values()].find(one => one.element.clientWidth)
    if (frame) {
      const side = Math.round(Math.max(frame.element.clientWidth, frame.element.clientHeight) * devicePixelRatio)
      if (side !== this.model.get("side")) this.save("side", side)
    }
    this.place()
  }

  save(name, value) {
    this.model.set(name, value)
    this.model.save_changes()
  }

  tell() {
    const [words, isError] = [this.model.get("said"), this.model.get("is_error")]
    this.root.setAttribute("aria-busy", this.model.get("busy"))
    this.root.classList.toggle("open", this.model.get("takes_files"))
    this.said.textContent = isError ? "" : words
    const unseen = this.missing?.length ? `⚠ cannot be drawn: ${this.missing.join(", ")}` : ""
    this.failed.textContent = isError ? `⚠ ${words}` : unseen
  }

  place() {
    const [zoom, shape, colours] = [this.zoom, this.shape, this.model.get("mark_colours")]
    const strokes = this.stroke ? [...this.model.get("strokes"), this.stroke] : this.model.get("strokes")
    for (const frame of this.frames.values()) {
      if (!frame.element.clientWidth) continue // not the enlarged one
      frame.place(zoom, shape)
      frame.paint(strokes, zoom, shape, colours)
    }
    this.scale.textContent = `${Math.round(zoom[0] * 100)} %`
    this.root.classList.toggle("zoomed", zoom[0] > 1)
    this.root.classList.toggle("brushing", Boolean(this.brush))
    this.point()
  }

  point() {
    const ring = this.brush ? this.model.get("brush_size") : 0
    for (const frame of this.frames.values()) frame.point(this.spot, this.shape, ring)
    this.readouts.forEach((readout, c) => {
      if (this.spot) readout.replaceChildren(...this.describe(this.columns[c]))
      else readout.textContent = c ? "" : HINT
    })
  }

  // What is known of the pixel under the pointer
  describe({ attention, attention_shape, marks, marks_shape: [h, w] }) {
    const [[u, v], [H, W]] = [this.spot, this.shape]
    const inside = (share, count) => Math.min(Math.floor(share * count), count - 1)
    const value = (between(attention, attention_shape, this.spot) / 255).toFixed(2).replace(/^0/, "")
    const code = marks[inside(v, h) * w + inside(u, w)]
    const swatch = make("span", { class: "swatch", style: `background: ${this.model.get("mark_colours")[code]}` })
    const words = `x ${inside(u, W)}, y ${inside(v, H)} · attention ${value} · `
    return [words, swatch, ` ${this.model.get("mark_names")[code]}`]
  }

  // Read aloud where the crosshair is that keys have moved
  speak() {
    this.spoken.textContent = this.readouts.map(readout => readout.textContent.replaceAll(" ·", ",")).join("; ")
  }

  // Files

  // Whether an event is the panel's, which nobody else then hears
  takes(event, there) {
    if (!there || !this.model.get("takes_files")) return false
    event.preventDefault()
    event.stopPropagation()
    return true
  }

  dragOver(event) {
    if (!this.takes(event, event.dataTransfer.types.includes("Files"))) return
    event.dataTransfer.dropEffect = "copy"
    this.root.classList.add("dropping")
  }

  dragLeave(event) {
    if (!this.root.contains(event.relatedTarget)) this.root.classList.remove("dropping")
  }

  drop(event) {
    const files = [...event.dataTransfer.files]
    this.root.classList.remove("dropping")
    if (this.takes(event, files.length)) this.sendFiles(files)
  }

  paste(event) {
    const files = [...event.clipboardData?.files ?? []]
    const here = this.root.contains(document.activeElement)
    if (this.takes(event, here && files.length)) this.sendFiles(files)
  }

  // One drop after the other, whatever became of the one before
  sendFiles(files) {
    this.sending = this.sending.catch(() => {}).then(async () => {
      for (const [i, file] of files.entries()) await this.sendFile(file, files.length - 1 - i)
    })
  }

  // In pieces; left: files of the drop that come after it
  async sendFile(file, left) {
    const send = (more, buffers = []) => {
      const piece = { name: file.name, size: file.size, left, start: 0, unreadable: false, ...more }
      this.model.send({ kind: "files", piece }, undefined, buffers)
    }
    if (file.size > this.model.get("most_bytes")) return send({})
    let start = 0
    try {
      do {
        send({ start }, [await file.slice(start, start + PIECE).arrayBuffer()])
        start += PIECE
      } while (start < file.size)
    } catch {
      send({ unreadable: true })
    }
  }

  // Pointers

  makeFrame() {
    const frame = new Frame()
    const on = (event, act) => frame.element.addEventListener(event, e => act(e, frame.element), { passive: false })
    on("wheel", (e, element) => this.wheel(e, element))
    on("dblclick", () => this.brush || this.setZoom([1, 0, 0]))
    on("pointerdown", (e, element) => this.down(e, element))
    on("pointermove", (e, element) => this.move(e, element))
    on("pointerup", e => this.up(e, true))
    on("pointercancel", e => this.up(e, false))
    on("pointerleave", e => e.pointerType === "touch" || this.pointers.size || this.see(null))
    on("touchmove", e => e.touches.length > 1 && e.preventDefault())
    return frame
  }

  // Share of a frame, and the share of the picture that is seen there
  where(event, element) {
    const box = element.getBoundingClientRect()
    const [scale, x, y] = this.zoom
    const at = [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height]
    return { at, spot: [clamp(x + at[0] / scale, 0, 1), clamp(y + at[1] / scale, 0, 1)] }
  }

  see(spot) {
    this.spot = spot
    this.soon("point")
  }

  setZoom([scale, x, y]) {
    const s = clamp(scale, 1, MOST)
    const zoom = [s, clamp(x, 0, 1 - 1 / s), clamp(y, 0, 1 - 1 / s)]
    if (zoom.some((value, i) => value !== this.zoom[i])) this.save("zoom", zoom)
  }

  zoomAbout([u, v], factor) {
    const [scale, x, y] = this.zoom
    const s = clamp(scale * factor, 1, MOST)
    this.setZoom([s, x + u / scale - u / s, y + v / scale - v / s])
  }

  moveBy(du, dv) { // shares of a frame
    const [scale, x, y] = this.zoom
    this.setZoom([scale, x + du / scale, y + dv / scale])
  }

  wheel(event, element) {
    if (!event.ctrlKey && !event.metaKey && this.zoom[0] === 1) return // the page scrolls
    event.preventDefault()
    const lines = event.deltaMode === WheelEvent.DOM_DELTA_LINE ? 16 : 1
    this.zoomAbout(this.where(event, element).at, Math.exp(-clamp(event.deltaY * lines, -25, 25) / 100))
    this.see(this.where(event, element).spot)
  }

  down(event, element) {
    if (event.button > 1) return
    this.root.focus({ preventScroll: true })
    event.preventDefault() // no text is selected, and the middle button does not scroll
    element.setPointerCapture(event.pointerId)
    const { at, spot } = this.where(event, element)
    this.pointers.set(event.pointerId, at)
    this.see(spot)
    if (this.pointers.size > 1) this.finish(false) // the first finger did not mean to draw
    else if (this.brush && !this.space && event.button === 0) {
      this.stroke = { kind: this.brush, size: this.model.get("brush_size"), points: [spot.map(round)], done: false }
      this.strokeChanged()
    }
  }

  move(event, element) {
    const { at, spot } = this.where(event, element)
    const before = this.pointers.get(event.pointerId)
    if (this.stroke && before) this.draw(event, element)
    else if (before) this.drag(event.pointerId, before, at)
    this.see(spot)
  }

  draw(event, element) {
    const every = event.getCoalescedEvents?.() ?? []
    for (const one of every.length ? every : [event]) {
      const [u, v] = this.where(one, element).spot.map(round)
      const [lastU, lastV] = this.stroke.points.at(-1)
      if (Math.hypot(u - lastU, v - lastV) > this.stroke.size / 10) this.stroke.points.push([u, v])
    }
    this.strokeChanged()
  }

  // One pointer moves the picture, two also zoom it about their middle
  drag(id, before, at) {
    this.pointers.set(id, at)
    const other = [...this.pointers].find(([key]) => key !== id)?.[1]
    if (other) {
      const far = point => Math.hypot(point[0] - other[0], point[1] - other[1])
      const middle = [(at[0] + other[0]) / 2, (at[1] + other[1]) / 2]
      this.moveBy((before[0] - at[0]) / 2, (before[1] - at[1]) / 2)
      this.zoomAbout(middle, far(at) / Math.max(far(before), .01))
    } else this.moveBy(before[0] - at[0], before[1] - at[1])
  }

  up(event, meant) {
    this.pointers.delete(event.pointerId)
    this.finish(meant)
    if (event.pointerType === "mouse" && !event.target.matches?.(":hover")) this.see(null)
  }

  // Strokes on their way: once a frame, and not before the kernel has done with the one before

  strokeChanged() {
    this.soon("place")
    this.soon("sendStroke")
  }

  sendStroke() {
    if (!this.stroke || this.unheard) {
      this.unsent = Boolean(this.stroke)
      return
    }
    this.unsent = false
    this.unheard = true
    this.model.send({ kind: "stroke", stroke: this.stroke })
    clearTimeout(this.impatience)
    this.impatience = setTimeout(() => this.sendNext(), PATIENCE)
  }

  sendNext() {
    clearTimeout(this.impatience)
    this.unheard = false
    if (this.unsent) this.soon("sendStroke")
  }

  // A stroke that is given up ends without points
  finish(meant) {
    if (!this.stroke) return
    const stroke = { ...this.stroke, done: true }
    if (!meant) stroke.points = []
    this.stroke = null
    this.unsent = false
    this.model.send({ kind: "stroke", stroke })
    this.soon("place")
  }

  // Keys

  press(event) {
    if (!this.root.contains(event.target)) return
    const command = event.ctrlKey || event.metaKey
    const graph = event.getModifierState("AltGraph") // types [ ] { } on many keyboards
    let taken = false
    const undo = event.shiftKey ? "ctrl-shift-z" : "ctrl-z"
    if (command && !graph) taken = event.key.toLowerCase() === "z" && this.sendKey(undo)
    else if (event.shiftKey && MOVES[event.key]) taken = this.step(MOVES[event.key])
    else if (event.key === "Escape" && (this.stroke || this.enlarged)) taken = this.leave()
    else if (KEYS.includes(event.key)) taken = this.sendKey(event.key)
    else if ("+=".includes(event.key)) taken = this.zoomBy(1.5)
    else if (event.key === "-") taken = this.zoomBy(1 / 1.5)
    else if (event.key === "0") taken = this.zoomBy(0)
    else if (event.key === " " && this.brush && event.target === this.root) taken = this.holdSpace(true)
    if (taken) event.preventDefault()
    if (taken || !command && !event.altKey) event.stopPropagation()
  }

  sendKey(key) {
    this.model.send({ kind: "key", key })
    return true
  }

  // The crosshair, from the middle of what is seen; the view follows it
  step([du, dv]) {
    const [[scale, x, y], [H, W]] = [this.zoom, this.shape]
    const seen = 1 / scale
    const stride = length => Math.max(seen / STEPS, 1 / length)
    const [u, v] = this.spot ?? [x + seen / 2, y + seen / 2]
    const spot = [clamp(u + du * stride(W), 0, 1), clamp(v + dv * stride(H), 0, 1)]
    const follow = (from, to) => clamp(from, to - seen * 7 / 8, to - seen / 8)
    this.setZoom([scale, follow(x, spot[0]), follow(y, spot[1])])
    this.see(spot)
    this.soon("speak")
    return true
  }

  zoomBy(factor) {
    this.zoomAbout([.5, .5], factor)
    return true
  }

  leave() {
    if (this.stroke) this.finish(false)
    else this.enlarge(null)
    return true
  }

  holdSpace(held) {
    this.space = held
    this.root.classList.toggle("moving", held)
    return true
  }
}

export default {
  render({ model, el }) {
    const panel = new Panel(model, el)
    return () => panel.end()
  },
}
