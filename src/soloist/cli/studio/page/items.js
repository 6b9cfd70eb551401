// What can lie under the pointer: nodes of trees, and masks that a network made by itself.
// Everything is found in the arrays that came with the image; nothing is asked of the server.

const NAMES = ["leaves", "ranks", "trees", "firsts", "lasts", "areas", "boxes", "scores", "offered",
  "ends", "runs", "labels"];
const SMALLNESS = 0.65; // What a small area counts beside the score; chosen on photos/dev (docs/studio.md).
const ALIKE = 1.1; // Two items at a place whose areas differ by less are one step of the wheel.

export class Items {
  constructor(buffer) {
    const headLength = new DataView(buffer).getUint32(0, true);
    const head = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, headLength)));
    let offset = 4 + headLength;
    for (const name of NAMES) {
      const kind = name === "scores" ? Float32Array : Uint32Array;
      this[name] = new kind(buffer, offset, head.lengths[name]);
      offset += 4 * head.lengths[name];
    }
    [this.height, this.width] = head.size;
    this.imageSize = head.imageSize;
    this.nodes = this.trees.length;
    this.length = this.scores.length;
    this.leafCount = head.treeCount ? this.ranks.length / head.treeCount : 0;
    this.measureMasks();
  }

  // Areas and boxes of the network's own masks, after those of the nodes.
  measureMasks() {
    const masks = this.length - this.nodes;
    const areas = new Uint32Array(this.length);
    const boxes = new Uint32Array(4 * this.length);
    areas.set(this.areas);
    boxes.set(this.boxes);
    for (let at = 0; at < masks; at++) {
      let [left, top, right, bottom] = [this.width, this.height, 0, 0];
      for (let run = this.ends[at]; run < this.ends[at + 1]; run++) {
        const first = this.runs[2 * run], last = this.runs[2 * run + 1] - 1;
        areas[this.nodes + at] += last + 1 - first;
        const rows = [Math.floor(first / this.width), Math.floor(last / this.width)];
        top = Math.min(top, rows[0]);
        bottom = Math.max(bottom, rows[1] + 1);
        const isOneRow = rows[0] === rows[1];
        left = Math.min(left, isOneRow ? first % this.width : 0);
        right = Math.max(right, isOneRow ? last % this.width + 1 : this.width);
      }
      boxes.set([left, top, right, bottom], 4 * (this.nodes + at));
    }
    this.areas = areas;
    this.boxes = boxes;
  }

  // The pixel of these arrays under a point of the image; -1 outside of it.
  pixelAt(x, y) {
    const [height, width] = this.imageSize;
    if (!(x >= 0 && y >= 0 && x < width && y < height)) return -1;
    const column = Math.min(this.width - 1, Math.floor((x * this.width) / width));
    return Math.min(this.height - 1, Math.floor((y * this.height) / height)) * this.width + column;
  }

  holds(item, pixel) {
    if (item < this.nodes) {
      const rank = this.ranks[this.trees[item] * this.leafCount + this.leaves[pixel]];
      return rank >= this.firsts[item] && rank < this.lasts[item];
    }
    // The last run that begins at or before the pixel.
    let low = this.ends[item - this.nodes], high = this.ends[item - this.nodes + 1];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.runs[2 * middle] <= pixel) low = middle + 1; else high = middle;
    }
    return low > this.ends[item - this.nodes] && pixel < this.runs[2 * low - 1];
  }

  // Items that hold a pixel, from the smallest to the largest; of those alike the better one.
  chainAt(pixel) {
    if (pixel < 0) return [];
    const x = pixel % this.width, y = (pixel - x) / this.width;
    const held = [];
    for (let item = 0; item < this.length; item++) {
      const box = 4 * item;
      if (x >= this.boxes[box] && x < this.boxes[box + 2] && y >= this.boxes[box + 1] &&
          y < this.boxes[box + 3] && this.holds(item, pixel)) held.push(item);
    }
    held.sort((one, other) => this.areas[one] - this.areas[other] || one - other);
    const chain = [];
    for (const item of held) {
      const before = chain[chain.length - 1];
      if (before !== undefined && this.areas[item] < ALIKE * this.areas[before]) {
        if (this.scores[item] > this.scores[before]) chain[chain.length - 1] = item;
      } else chain.push(item);
    }
    return chain;
  }

  // The place in a chain of the item that is most likely meant; -1 in an empty one. Large ones are
  // met more often than they are meant.
  bestOf(chain, smallness = SMALLNESS) {
    const appeal = (item) => this.scores[item] * this.areas[item] ** -smallness;
    return chain.reduce((best, item, at) =>
      best < 0 || appeal(item) > appeal(chain[best]) ? at : best, -1);
  }

  // The place in a chain of the item nearest in size to a number of pixels.
  nearestOf(chain, area) {
    const apart = (item) => Math.abs(Math.log(this.areas[item] / area));
    return chain.reduce((best, item, at) =>
      best < 0 || apart(item) < apart(chain[best]) ? at : best, -1);
  }

  offeredFrom(score) {
    return [...this.offered].filter((item) => this.scores[item] >= score);
  }

  boxOf(item) {
    return [...this.boxes.subarray(4 * item, 4 * item + 4)];
  }

  // Whether an item reaches a side of the image.
  isAtBorder(item) {
    const [left, top, right, bottom] = this.boxOf(item);
    return left === 0 || top === 0 || right === this.width || bottom === this.height;
  }

  // Paints an item on a canvas of the arrays' size: its inside and its outline. On an empty canvas
  // what is there already need not be read, which takes long.
  paint(context, item, [red, green, blue], { inside = 90, outline = 255, empty = false } = {}) {
    const [left, top, right, bottom] = this.boxOf(item);
    const width = right - left, height = bottom - top;
    if (width <= 0 || height <= 0) return;
    const held = new Uint8Array((width + 2) * (height + 2)); // A border of nothing around it.
    const stride = width + 2;
    if (item < this.nodes) {
      const base = this.trees[item] * this.leafCount;
      const first = this.firsts[item], last = this.lasts[item];
      const { ranks, leaves } = this;
      for (let y = 0; y < height; y++) {
        let at = (top + y) * this.width + left, to = (y + 1) * stride + 1;
        for (let x = 0; x < width; x++, at++, to++) {
          const rank = ranks[base + leaves[at]];
          if (rank >= first && rank < last) held[to] = 1;
        }
      }
    } else {
      for (let run = this.ends[item - this.nodes]; run < this.ends[item - this.nodes + 1]; run++) {
        for (let pixel = this.runs[2 * run]; pixel < this.runs[2 * run + 1]; pixel++) {
          const x = pixel % this.width, y = (pixel - x) / this.width;
          held[(y - top + 1) * stride + x - left + 1] = 1;
        }
      }
    }
    const image = empty ? new ImageData(width, height)
      : context.getImageData(left, top, width, height);
    const pixels = new Uint32Array(image.data.buffer);
    // Bytes of a pixel, on machines of this order, are red, green, blue, opacity.
    const color = (blue << 16) | (green << 8) | red;
    const fill = ((inside << 24) | color) >>> 0, edge = ((outline << 24) | color) >>> 0;
    for (let y = 0, at = 0; y < height; y++) {
      for (let x = 0, from = (y + 1) * stride + 1; x < width; x++, at++, from++) {
        if (!held[from]) continue;
        const within = held[from - 1] & held[from + 1] & held[from - stride] & held[from + stride];
        pixels[at] = within ? fill : edge;
      }
    }
    context.putImageData(image, left, top);
  }
}
