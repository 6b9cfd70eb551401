// The image with its masks: what is lit, what is kept, and what the pointer and the keys do there.

const COLORS = [[0, 114, 255], [240, 140, 0], [0, 170, 110], [230, 70, 170], [90, 190, 250],
  [245, 225, 50], [225, 60, 20], [130, 100, 255]];
const LIT = [60, 255, 230], GATHERED = [255, 210, 60], TAKEN_AWAY = [255, 70, 70];
const OFFERED = [255, 255, 255];
const NOTCH = 50, PINCH = 10; // Pixels that a wheel turns for a level, fingers for a step of the zoom.
const LINE = 33; // Pixels of a line, in which some browsers count.
const DRAG = 5; // Pixels of the screen that the pointer moves before a click is a drag.
const LARGEST_CANVAS = 4096;
const NEAR = 12; // Pixels of the screen from a first corner that close an outline.
const ALONG = 32; // Places on a stroke that are looked at.
const AT_LARGE = 0.35; // What a small area counts where ground is kept apart from objects.
const MUCH_LARGER = 4; // A drag passes over what is so much larger than where it began.
const STEP = 0.01, LONG_STEP = 0.05; // Of the long side, by which arrow keys move the cursor.

export const colorOf = (category) => COLORS[(category - 1 + COLORS.length) % COLORS.length];
const css = ([red, green, blue], opacity = 1) => `rgb(${red} ${green} ${blue} / ${opacity})`;

export class Stage {
  // `on` has what the stage tells: act(values), lit(what), zoomed(zoom), said(line).
  constructor(root, on) {
    this.root = root;
    this.on = on;
    this.items = null;
    this.objects = [];
    this.index = -1;
    this.tool = "keep";
    this.showMasks = true;
    this.byObject = false; // Of one class, each object has a colour of its own.
    this.score = 1;
    this.zoom = 0;
    this.timings = [];
    this.turn = 0; // Of the wheel since the last level, in pixels.
    this.scroll = root.querySelector(".scroll");
    this.sheet = root.querySelector(".sheet");
    this.image = root.querySelector("img");
    [this.keptCanvas, this.offeredCanvas, this.litCanvas] = root.querySelectorAll("canvas");
    this.reset();
    this.listen();
    new ResizeObserver(() => this.fit()).observe(this.scroll);
  }

  reset() {
    this.lit = null; // {item, chain, at, byHand} or {object}
    this.cursor = null; // Where the pointer is, in pixels of the image.
    this.gathered = { items: [], objects: [] };
    this.stroke = [];
    this.press = null;
  }

  // Whether something is begun that a reset would lose.
  get isBusy() {
    const { items, objects } = this.gathered;
    return this.press !== null || this.stroke.length + items.length + objects.length > 0;
  }

  show(items, state, address) {
    const isNew = this.items !== items;
    // New masks of the same image leave the view as it is.
    const isOther = this.index !== state.index;
    this.items = items;
    this.index = state.index;
    if (isNew) {
      this.version = state.version; // Of the items: what is done to them names it.
      this.reset();
      for (const canvas of [this.litCanvas, this.offeredCanvas]) {
        canvas.width = items.width;
        canvas.height = items.height;
      }
      this.image.src = address;
      if (isOther) this.zoom = 0;
      this.fit();
    }
    this.objects = state.objects.map((object) => this.withPath(object));
    this.drawKept();
    this.drawOffered();
    this.light(false);
  }

  withPath(object) {
    const path = new Path2D();
    let area = 0;
    let [left, top, right, bottom] = [Infinity, Infinity, 0, 0];
    for (const ring of object.rings) {
      path.moveTo(ring[0], ring[1]);
      for (let at = 0; at < ring.length; at += 2) {
        const [x, y] = [ring[at], ring[at + 1]];
        if (at) path.lineTo(x, y);
        const next = (at + 2) % ring.length;
        area += (x * ring[next + 1] - ring[next] * y) / 2;
        [left, top] = [Math.min(left, x), Math.min(top, y)];
        [right, bottom] = [Math.max(right, x), Math.max(bottom, y)];
      }
      path.closePath();
    }
    return { ...object, path, area: Math.abs(area), box: [left, top, right, bottom] };
  }

  // Sizes

  fit() {
    if (!this.items) return;
    const [height, width] = this.items.imageSize;
    const room = [this.scroll.clientWidth / width, this.scroll.clientHeight / height];
    this.scale = Math.max(0.01, Math.min(...room)) * 1.25 ** this.zoom;
    this.sheet.style.width = `${width * this.scale}px`;
    this.sheet.style.height = `${height * this.scale}px`;
    const dense = Math.min(window.devicePixelRatio || 1, LARGEST_CANVAS / Math.max(width, height) / this.scale);
    this.keptCanvas.width = Math.max(1, Math.round(width * this.scale * dense));
    this.keptCanvas.height = Math.max(1, Math.round(height * this.scale * dense));
    this.drawKept();
  }

  zoomBy(step) {
    const before = this.scale;
    this.zoom = Math.max(0, Math.min(14, this.zoom + step));
    const [x, y] = this.cursor || [this.items.imageSize[1] / 2, this.items.imageSize[0] / 2];
    this.fit();
    this.scroll.scrollLeft += x * (this.scale - before);
    this.scroll.scrollTop += y * (this.scale - before);
    this.on.zoomed(this.zoom);
  }

  // Drawing

  colorOf(object) {
    return colorOf(this.byObject ? object.number : object.category);
  }

  drawKept() {
    if (!this.items) return;
    const context = this.keptCanvas.getContext("2d");
    const scale = this.keptCanvas.width / this.items.imageSize[1];
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, this.keptCanvas.width, this.keptCanvas.height);
    if (!this.showMasks) return;
    context.setTransform(scale, 0, 0, scale, 0, 0);
    context.lineJoin = "round";
    // The largest first, so that none hides a smaller one.
    for (const object of [...this.objects].sort((one, other) => other.area - one.area)) {
      const color = this.colorOf(object);
      context.fillStyle = css(color, 0.38);
      context.fill(object.path, "evenodd");
      context.lineWidth = 3.5 / scale;
      context.strokeStyle = "rgb(0 0 0 / 0.55)";
      context.stroke(object.path);
      context.lineWidth = 2 / scale;
      context.strokeStyle = css(color);
      context.stroke(object.path);
    }
  }

  drawOffered() {
    if (!this.items) return;
    const context = this.offeredCanvas.getContext("2d", { willReadFrequently: true });
    context.clearRect(0, 0, this.items.width, this.items.height);
    if (!this.showMasks) return;
    for (const item of this.items.offeredFrom(this.score)) this.items.paint(context, item, OFFERED, { inside: 18, outline: 170 });
  }

  drawLit() {
    const context = this.litCanvas.getContext("2d", { willReadFrequently: true });
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, this.items.width, this.items.height);
    const color = this.tool === "subtract" ? TAKEN_AWAY : LIT;
    if (this.lit && this.lit.item !== undefined) this.items.paint(context, this.lit.item, color, { inside: 110, empty: true });
    const scale = this.items.width / this.items.imageSize[1];
    context.setTransform(scale, 0, 0, scale, 0, 0);
    if (this.tool === "keep" && this.lit && this.lit.item !== undefined && !this.lit.byHand) {
      // What is kept already is left out, unless it was chosen by hand.
      context.globalCompositeOperation = "destination-out";
      context.fillStyle = "#000";
      for (const object of this.objects) context.fill(object.path, "evenodd");
      context.globalCompositeOperation = "source-over";
    }
    for (const item of this.gathered.items) this.items.paint(context, item, GATHERED, { inside: 130 });
    const marked = [...this.gathered.objects];
    if (this.lit && this.lit.object) marked.push(this.lit.object.number);
    for (const object of this.objects) {
      if (!marked.includes(object.number)) continue;
      context.fillStyle = css(this.gathered.objects.includes(object.number) ? GATHERED : LIT, 0.4);
      context.fill(object.path, "evenodd");
      context.lineWidth = 2 / scale;
      context.strokeStyle = css(LIT);
      context.stroke(object.path);
    }
    if (this.stroke.length > 0) {
      context.lineWidth = 3 / scale;
      context.strokeStyle = css(this.tool === "draw" ? LIT : TAKEN_AWAY);
      context.beginPath();
      this.stroke.forEach(([x, y], at) => (at ? context.lineTo(x, y) : context.moveTo(x, y)));
      if (this.cursor) context.lineTo(...this.cursor);
      context.stroke();
    }
    if (this.cursor && this.byKeys) {
      const [x, y] = this.cursor, arm = 8 / scale;
      context.lineWidth = 2 / scale;
      context.strokeStyle = "#000";
      context.strokeRect(x - arm / 2, y - arm / 2, arm, arm);
      context.strokeStyle = "#fff";
      context.strokeRect(x - arm / 4, y - arm / 4, arm / 2, arm / 2);
    }
  }

  // What is lit

  // The kept object under the cursor; of several the smallest.
  objectAt([x, y]) {
    const context = this.keptCanvas.getContext("2d");
    context.setTransform(1, 0, 0, 1, 0, 0);
    let found = null;
    for (const object of this.objects) {
      const [left, top, right, bottom] = object.box;
      if (x < left || y < top || x > right || y > bottom) continue;
      if ((!found || object.area < found.area) && context.isPointInPath(object.path, x, y, "evenodd"))
        found = object;
    }
    return found;
  }

  // Lights up what is under the cursor; a level that was chosen by hand stays within its item.
  light(keepLevel = true) {
    if (!this.items) return;
    const start = performance.now();
    const before = this.lit;
    this.lit = null;
    const pixel = this.cursor && this.tool !== "draw" ? this.items.pixelAt(...this.cursor) : -1;
    if (pixel >= 0) {
      const stays = keepLevel && before && before.byHand && this.items.holds(before.item, pixel);
      const object = stays || this.tool === "subtract" ? null : this.objectAt(this.cursor);
      if (stays) this.lit = before;
      else if (object) this.lit = { object };
      else {
        const chain = this.chainAt(pixel);
        const at = this.items.bestOf(chain);
        if (at >= 0) this.lit = { item: chain[at], chain, at, byHand: false };
      }
    }
    this.drawLit();
    this.on.lit(this.lit);
    this.timings.push(performance.now() - start);
    if (this.timings.length > 2000) this.timings.splice(0, 1000);
  }

  chainAt(pixel) {
    const chain = this.items.chainAt(pixel);
    if (this.tool !== "subtract") return chain;
    // What is taken away is a part of the object.
    const object = this.objectAt(this.cursor);
    return object ? chain.filter((item) => this.items.areas[item] < 0.9 * this.areaOf({ object })) : [];
  }

  // Up to what holds more, or down to a part.
  walk(step) {
    const pixel = this.cursor && this.tool !== "draw" ? this.items.pixelAt(...this.cursor) : -1;
    if (pixel < 0) return;
    const chain = this.chainAt(pixel);
    if (chain.length === 0) return;
    let at = this.items.bestOf(chain);
    if (this.lit && this.lit.item !== undefined) {
      at = chain.indexOf(this.lit.item);
      if (at < 0) at = this.items.nearestOf(chain, this.items.areas[this.lit.item]);
      at = Math.max(0, Math.min(chain.length - 1, at + step));
    }
    this.lit = { item: chain[at], chain, at, byHand: true };
    this.drawLit();
    this.on.lit(this.lit);
  }

  // The pointer

  pointOf(event) {
    const box = this.sheet.getBoundingClientRect();
    return [(event.clientX - box.left) / this.scale, (event.clientY - box.top) / this.scale];
  }

  listen() {
    // Around the image, too, also where it fills its room: a stroke may begin beside it.
    const around = this.root;
    around.addEventListener("pointermove", (event) => this.moved(event));
    around.addEventListener("pointerdown", (event) => this.pressed(event));
    around.addEventListener("pointerup", (event) => this.released(event));
    around.addEventListener("pointercancel", () => this.cancel());
    around.addEventListener("pointerleave", () => {
      if (this.press) return;
      this.cursor = null;
      this.light();
    });
    around.addEventListener("contextmenu", (event) => event.preventDefault());
    this.scroll.addEventListener("wheel", (event) => {
      if (!this.items) return;
      event.preventDefault();
      const isZoom = event.ctrlKey || event.metaKey;
      if (event.shiftKey && !isZoom) this.scroll.scrollLeft += event.deltaY || event.deltaX;
      else if (this.turned(event, isZoom ? PINCH : NOTCH)) {
        if (isZoom) this.zoomBy(event.deltaY < 0 ? 1 : -1);
        else this.walk(event.deltaY < 0 ? 1 : -1);
      }
    }, { passive: false });
    this.scroll.addEventListener("keydown", (event) => this.keyed(event));
  }

  // Whether a wheel has turned by a notch: touchpads turn it by a few pixels at a time.
  turned(event, notch) {
    const pixels = event.deltaY * (event.deltaMode === 0 ? 1 : LINE);
    if (pixels === 0) return false;
    this.turn = Math.sign(pixels) === Math.sign(this.turn) ? this.turn + pixels : pixels;
    if (Math.abs(this.turn) < notch) return false;
    this.turn = 0;
    return true;
  }

  moved(event) {
    if (!this.items) return;
    this.byKeys = false;
    this.cursor = this.pointOf(event);
    if (!this.press) {
      if (this.stroke.length === 0) this.alter(event);
      this.light();
      return;
    }
    if (this.press.pan) {
      this.scroll.scrollLeft -= event.movementX;
      this.scroll.scrollTop -= event.movementY;
      return;
    }
    // What lies between two events is passed over too.
    const between = event.getCoalescedEvents?.() || [];
    const events = between.length ? between : [event];
    const { x, y } = this.press;
    const far = events.some((one) => Math.hypot(one.clientX - x, one.clientY - y) > DRAG);
    if (!this.press.drag && far) {
      this.press.drag = true;
      // What was lit where it began belongs to it, whatever else does.
      const { start } = this.press;
      if (this.tool === "keep" && start && start.item !== undefined) this.gathered.items.push(start.item);
      this.gather(this.press.point);
    }
    if (!this.press.drag) return;
    for (const one of events) this.gather(this.pointOf(one));
    this.drawLit();
  }

  pressed(event) {
    if (!this.items || (event.button !== 0 && event.button !== 1)) return;
    const { left, top, right, bottom } = this.scroll.getBoundingClientRect();
    const { clientX: x, clientY: y } = event;
    const isBeyond = x - left > this.scroll.clientWidth || y - top > this.scroll.clientHeight;
    if (isBeyond && x < right && y < bottom) return; // On a scroll bar.
    event.preventDefault();
    this.scroll.focus({ preventScroll: true });
    this.root.setPointerCapture(event.pointerId);
    this.cursor = this.pointOf(event);
    this.alter(event);
    this.press = { x, y, point: this.cursor, pan: event.button === 1,
      start: this.lit };
  }

  // Alt is for taking away, Shift for cutting, as long as it is pressed.
  alter(event) {
    const tool = event.altKey ? "subtract" : event.shiftKey ? "split" : this.chosenTool || "keep";
    if (tool === this.tool) return;
    this.tool = tool;
    this.light(false);
  }

  released(event) {
    const press = this.press;
    // Where it ends counts too: moves just before may not have been reported.
    if (press && !press.pan) this.moved(event);
    this.press = null;
    this.lastPoint = null;
    if (!press || press.pan) return;
    if (!press.drag) {
      this.choose();
      return;
    }
    const { items, objects } = this.gathered;
    const stroke = this.stroke;
    this.gathered = { items: [], objects: [] };
    this.stroke = [];
    if (this.tool === "split") this.cut(stroke);
    else if (this.tool === "draw") this.on.act({ act: "draw", outline: stroke });
    else if (this.tool === "subtract") this.light();
    else if (items.length > 0 || objects.length > 1) this.on.act({ act: "join", items, objects });
    else this.on.said("Nothing to join: the drag passed over no second object. M marks what is lit, Enter joins what is marked.");
    this.light(false);
  }

  // What a drag passes over: the objects there, and of the rest items as large as the first one.
  gather(point) {
    if (this.tool === "split" || this.tool === "draw") {
      this.stroke.push(point);
      return;
    }
    const from = this.lastPoint || point;
    this.lastPoint = point;
    const steps = Math.max(1, Math.ceil(Math.hypot(point[0] - from[0], point[1] - from[1]) * this.scale / 6));
    for (let step = 1; step <= steps; step++) {
      this.gatherAt(from.map((value, axis) => value + ((point[axis] - value) * step) / steps));
    }
  }

  gatherAt(point) {
    const pixel = this.items.pixelAt(...point);
    if (pixel < 0) return;
    const { items, objects } = this.gathered;
    const start = this.press.start;
    const byHand = start && start.byHand;
    const object = byHand ? null : this.objectAt(point);
    if (object) {
      if (!objects.includes(object.number)) objects.push(object.number);
      return;
    }
    if (items.some((item) => this.items.holds(item, pixel))) return;
    const chain = this.items.chainAt(pixel);
    const area = this.areaOf(start);
    if (chain.length === 0) return;
    // Ground is known by what is likely there at large; what is gathered is smaller.
    const likely = byHand ? this.items.nearestOf(chain, area) : this.items.bestOf(chain, AT_LARGE);
    if (start && this.isGround(chain[likely], area)) return;
    items.push(chain[byHand ? likely : this.items.bestOf(chain)]);
  }

  // What lies between objects, as seen from one of an area: much larger, or larger and at the border.
  isGround(item, area) {
    const own = this.items.areas[item];
    return own > MUCH_LARGER * area || (own > area && this.items.isAtBorder(item));
  }

  // Pixels of what is lit, on the size of the arrays.
  areaOf(lit) {
    if (!lit) return 0;
    return lit.object ? lit.object.area * (this.items.width / this.items.imageSize[1]) ** 2
      : this.items.areas[lit.item];
  }

  cut(stroke) {
    // The object that most of the stroke lies on, or else what would be lit in its middle.
    const counts = new Map();
    const places = alongStroke(stroke);
    for (const point of places) {
      const object = this.objectAt(point);
      if (object) counts.set(object.number, (counts.get(object.number) || 0) + 1);
    }
    const [object] = [...counts].sort((one, other) => other[1] - one[1])[0] || [];
    if (object !== undefined) {
      this.on.act({ act: "split", objects: [object], items: [], stroke });
      return;
    }
    const middle = this.items.pixelAt(...places[ALONG / 2]);
    const chain = this.items.chainAt(middle);
    const at = this.items.bestOf(chain);
    if (at >= 0) this.on.act({ act: "split", objects: [], items: [chain[at]], stroke });
  }

  cancel() {
    this.press = null;
    this.lastPoint = null;
    this.gathered = { items: [], objects: [] };
    this.stroke = [];
    if (this.items) this.light(false);
  }

  // A corner of an outline; at the first one again it is closed.
  corner(point) {
    const [first] = this.stroke;
    const apart = first ? Math.hypot(point[0] - first[0], point[1] - first[1]) * this.scale : Infinity;
    if (this.stroke.length > 2 && apart < NEAR) {
      this.on.act({ act: "draw", outline: this.stroke });
      this.stroke = [];
    } else {
      this.stroke.push(point);
      this.on.said(`Corner ${this.stroke.length}. At the first one again, or by Enter, the outline is closed; U takes the corner back.`);
    }
    this.drawLit();
  }

  // Enter with the pointer closes an outline of three corners; with arrow keys it sets one.
  enter() {
    const [first] = this.stroke;
    if (this.tool === "draw" && !this.byKeys && this.stroke.length > 2) this.corner(first);
    else this.choose();
  }

  // The last corner of an outline or beginning of a cut; false where there is none.
  takeBack() {
    if (this.press || this.stroke.length === 0) return false;
    this.stroke.pop();
    this.on.said(this.stroke.length ? `Corner ${this.stroke.length + 1} taken back.` : "Nothing is begun.");
    this.drawLit();
    return true;
  }

  // A click, or Enter: keeps what is lit, or removes it.
  choose() {
    if (this.tool === "draw" && this.cursor) {
      this.corner(this.cursor);
      return;
    }
    if (this.tool === "split" && this.cursor) {
      this.stroke.push(this.cursor);
      if (this.stroke.length > 1) {
        this.cut(this.stroke);
        this.stroke = [];
      } else this.on.said("The cut begins here. Enter or click where it ends.");
      this.drawLit();
      return;
    }
    const { items, objects } = this.gathered;
    if (items.length + objects.length > 0) {
      this.gathered = { items: [], objects: [] };
      this.on.act({ act: "join", items, objects });
    } else if (!this.lit) return;
    else if (this.lit.object) this.on.act({ act: "remove", objects: [this.lit.object.number] });
    else if (this.tool === "subtract") {
      const object = this.objectAt(this.cursor);
      if (object) this.on.act({ act: "subtract", objects: [object.number], items: [this.lit.item] });
    } else if (this.lit.byHand) this.on.act({ act: "join", items: [this.lit.item], objects: [] });
    else this.on.act({ act: "keep", item: this.lit.item, items: [this.lit.item] });
    this.lit = null;
  }

  // Marks what is lit for the next Enter, which makes one object of all that is marked.
  mark() {
    if (!this.lit) return;
    const { items, objects } = this.gathered;
    if (this.lit.object) objects.push(this.lit.object.number);
    else items.push(this.lit.item);
    this.on.said(`${items.length + objects.length} marked; Enter makes them one object`);
    this.drawLit();
  }

  // The keys of the image; those of the whole page are the page's.
  keyed(event) {
    if (!this.items || event.ctrlKey || event.metaKey) return;
    const [height, width] = this.items.imageSize;
    const step = Math.max(height, width) * (event.shiftKey ? LONG_STEP : STEP);
    const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    if (event.key in moves) {
      const [x, y] = this.cursor || [width / 2, height / 2];
      const [right, down] = moves[event.key];
      this.byKeys = true;
      this.cursor = [Math.max(0, Math.min(width - 0.5, x + right * step)),
        Math.max(0, Math.min(height - 0.5, y + down * step))];
      this.tool = this.chosenTool || "keep";
      this.light();
      this.bringIntoView();
    } else if (event.key === "Enter" || event.key === " ") this.enter();
    else if (event.key === "m") this.mark();
    else if (event.key === "]" || event.key === "PageUp") this.walk(1);
    else if (event.key === "[" || event.key === "PageDown") this.walk(-1);
    else return;
    event.preventDefault();
    event.stopPropagation();
  }

  bringIntoView() {
    const [x, y] = this.cursor.map((value) => value * this.scale);
    const { scrollLeft, scrollTop, clientWidth, clientHeight } = this.scroll;
    if (x < scrollLeft || x > scrollLeft + clientWidth) this.scroll.scrollLeft = x - clientWidth / 2;
    if (y < scrollTop || y > scrollTop + clientHeight) this.scroll.scrollTop = y - clientHeight / 2;
  }

  setTool(tool) {
    this.chosenTool = tool;
    this.tool = tool;
    this.cancel();
  }
}

// Places evenly along a line of points.
function alongStroke(stroke) {
  const lengths = [0];
  for (let at = 1; at < stroke.length; at++) {
    const [one, other] = [stroke[at - 1], stroke[at]];
    lengths.push(lengths[at - 1] + Math.hypot(other[0] - one[0], other[1] - one[1]));
  }
  const whole = lengths[lengths.length - 1] || 1;
  return Array.from({ length: ALONG + 1 }, (_, place) => {
    const along = (place * whole) / ALONG;
    const at = Math.max(1, lengths.findIndex((length) => length >= along - 1e-9));
    const [from, to] = [stroke[at - 1], stroke[at]];
    const share = (along - lengths[at - 1]) / (lengths[at] - lengths[at - 1] || 1);
    return [from[0] + (to[0] - from[0]) * share, from[1] + (to[1] - from[1]) * share];
  });
}
