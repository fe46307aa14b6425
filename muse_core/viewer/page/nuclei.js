// The nuclei of a slide: squares of points when near, the map of densities when far, and marks laid over both.

import { bytes } from "./api.js";
import { paletteOf } from "./gl.js";
import { rgb } from "./dom.js";

const MOST_POINTS = 120000; // in view; with more, densities are shown: dots would touch
const MOST_SQUARES = 80; // in view
const HELD_POINTS = 1.5e6; // 24 MB here and on the graphics card
const MOST_UNDER_WAY = 4;
const STEPS = 16; // a level-0 px
const SAME_UM = 2; // nearer than this a mark is about the nucleus there
const GONE = 255; // a class that is never shown

export class Nuclei {
  constructor(painter, slide, onArrival) {
    this.painter = painter; this.slide = slide; this.onArrival = onArrival;
    this.classes = slide.classes.map((one) => ({ ...one, rgb: rgb(one.colour), shown: true }));
    this.cut = { score: 0, chance: 0 };
    this.shown = true;
    this.squares = new Map(); // "column/row" -> {packed, pristine, held, column, row}
    this.underWay = new Map();
    this.heldPoints = 0;
    this.marks = []; // {x, y, class_name}
    this.levels = null; // of the pyramid, once the summary is known
    this.maps = new Map(); // level -> {counts, texture}
    this.state = "";
  }

  get side() { return this.slide.point_tile_px; }

  setLevels({ cell_px: cell, levels }) {
    this.levels = levels.map((level, number) => ({ ...level, cell: cell * 2 ** number }));
    this.forgetMaps();
  }

  setShown(name, shown) {
    this.classes.find((one) => one.name === name).shown = shown;
    this.forgetTextures();
  }

  setCut(cut) {
    this.cut = { ...this.cut, ...cut };
    this.forgetMaps();
  }

  draw(camera) {
    if (!this.shown || !this.classes.length) return;
    this.state = "";
    const places = [...this.inView(camera)];
    const many = places.length > MOST_SQUARES || this.estimate(camera) > MOST_POINTS;
    const drawn = many ? [] : places.map((place) => this.squares.get(place.join("/"))).filter(Boolean);
    if (many || drawn.length < places.length) this.drawMap(camera, many ? 1 : 0.6);
    this.fetch(camera, many ? [] : places);
    if (!drawn.length) { this.state = many ? "densities" : ""; return; }
    this.state = "points";
    const across = 6.4 / (this.slide.mpp?.[0] ?? 0.25) * camera.scale; // of a nucleus, CSS px
    const size = Math.min(26, Math.max(2, across));
    const squares = drawn.map((square) => {
      this.squares.delete(square.name); this.squares.set(square.name, square);
      return { held: square.held, corner: camera.toScreen(square.column * this.side, square.row * this.side) };
    });
    const hollow = Math.min(1, Math.max(0, (size - 6) / 5));
    this.painter.points(squares, { palette: paletteOf(this.classes), cut: this.cut, size, hollow, scale: camera.scale / STEPS });
  }

  *inView(camera) {
    const { left, top, right, bottom } = camera.box, side = this.side;
    const last = [Math.ceil(this.slide.width / side) - 1, Math.ceil(this.slide.height / side) - 1];
    for (let row = Math.max(0, Math.floor(top / side)); row <= Math.min(last[1], Math.floor(bottom / side)); row += 1) {
      for (let column = Math.max(0, Math.floor(left / side)); column <= Math.min(last[0], Math.floor(right / side)); column += 1) yield [column, row];
    }
  }

  /** Nuclei in view, by a coarse level of the pyramid; by the slide's number of nuclei while that is on its way. */
  estimate(camera) {
    const { left, top, right, bottom } = camera.box;
    const coarse = this.levels && this.maps.get(this.levels.length - 1);
    if (!coarse) {
      const seen = Math.max(0, Math.min(right, this.slide.width) - Math.max(left, 0)) * Math.max(0, Math.min(bottom, this.slide.height) - Math.max(top, 0));
      if (this.levels) this.loadMap(this.levels.length - 1);
      return (2 * (this.slide.n_nuclei ?? 0) * seen) / (this.slide.width * this.slide.height);
    }
    const { rows, columns, cell } = coarse;
    let found = 0;
    for (let number = 0; number < this.classes.length; number += 1) {
      for (let row = Math.max(0, Math.floor(top / cell)); row < Math.min(rows, bottom / cell); row += 1) {
        for (let column = Math.max(0, Math.floor(left / cell)); column < Math.min(columns, right / cell); column += 1) found += coarse.counts[(number * rows + row) * columns + column];
      }
    }
    return found;
  }

  // --- densities ---

  drawMap(camera, alpha) {
    if (!this.levels) return;
    let wanted = this.levels.findIndex(({ cell }) => cell * camera.scale >= 5);
    if (wanted < 0) wanted = this.levels.length - 1;
    const order = [...this.levels.keys()].sort((one, other) => Math.abs(one - wanted) - Math.abs(other - wanted));
    const level = order.find((one) => this.maps.has(one));
    if (level !== wanted) this.loadMap(wanted);
    if (level === undefined) return;
    const map = this.maps.get(level);
    map.texture ??= this.painter.texture(coloured(map, this.classes), { width: map.columns, height: map.rows });
    const [x, y] = camera.toScreen(0, 0);
    this.painter.picture(map.texture, [x, y, map.columns * map.cell * camera.scale, map.rows * map.cell * camera.scale], [0, 0, 1, 1], alpha);
  }

  async loadMap(level) {
    const name = `map${level}`;
    if (this.underWay.has(name)) return;
    const stop = new AbortController();
    this.underWay.set(name, stop);
    const { score, chance } = this.cut;
    try {
      const values = { slide: this.slide.slide_id, v: this.slide.version, score: score || null, chance: chance || null };
      const counts = new Uint16Array(await bytes(`counts/${level}`, values, stop.signal));
      if (this.closed || stop.signal.aborted) return;
      this.maps.set(level, { ...this.levels[level], counts, texture: null });
    } catch (error) {
      if (error.name !== "AbortError") this.problem = error.message;
    } finally {
      if (this.underWay.get(name) === stop) this.underWay.delete(name);
      if (!this.closed) this.onArrival();
    }
  }

  forgetTextures() {
    for (const map of this.maps.values()) { if (map.texture) this.painter.drop(map.texture); map.texture = null; }
  }

  forgetMaps() {
    this.forgetTextures();
    this.maps.clear();
    for (const [name, stop] of this.underWay) if (name.startsWith("map")) { stop.abort(); this.underWay.delete(name); }
  }

  // --- points ---

  fetch(camera, places) {
    const wanted = new Set(places.map((place) => place.join("/")));
    for (const [name, stop] of this.underWay) if (!name.startsWith("map") && !wanted.has(name)) { stop.abort(); this.underWay.delete(name); }
    const distance = ([column, row]) => Math.hypot((column + 0.5) * this.side - camera.x, (row + 0.5) * this.side - camera.y);
    for (const place of places.sort((one, other) => distance(one) - distance(other))) {
      const name = place.join("/");
      if (this.squares.has(name) || this.underWay.has(name)) continue;
      if (this.underWay.size >= MOST_UNDER_WAY) return;
      this.load(name, place);
    }
  }

  async load(name, [column, row]) {
    const stop = new AbortController();
    this.underWay.set(name, stop);
    try {
      const packed = new Uint8Array(await bytes(`points/${name}`, { slide: this.slide.slide_id, v: this.slide.version }, stop.signal));
      if (this.closed || stop.signal.aborted) return;
      const square = { name, column, row, packed, steps: new Uint16Array(packed.buffer), pristine: classesOf(packed) };
      this.applyMarks(square);
      square.held = this.painter.buffer(packed);
      this.squares.set(name, square);
      this.heldPoints += square.held.count;
      for (const [oldest, other] of this.squares) {
        if (this.heldPoints <= HELD_POINTS || oldest === name) break;
        this.dropSquare(other);
      }
    } catch (error) {
      if (error.name !== "AbortError") this.problem = error.message;
    } finally {
      if (this.underWay.get(name) === stop) this.underWay.delete(name);
      if (!this.closed) this.onArrival();
    }
  }

  dropSquare(square) {
    this.squares.delete(square.name);
    this.heldPoints -= square.held.count;
    this.painter.dropBuffer(square.held);
  }

  /** A class that the model does not know. */
  addClass({ name, colour }) {
    if (!this.classes.some((one) => one.name === name)) this.classes.push({ name, colour, rgb: rgb(colour), shown: true });
    this.setMarks(this.marks);
  }

  /** The slide's nuclei were found again: forget the old ones. */
  renew(version, classes) {
    this.slide.version = version;
    const before = new Map(this.classes.map((one) => [one.name, one.shown]));
    this.classes = classes.map((one) => ({ ...one, rgb: rgb(one.colour), shown: before.get(one.name) ?? true }));
    for (const square of [...this.squares.values()]) this.dropSquare(square);
    for (const stop of this.underWay.values()) stop.abort();
    this.underWay.clear();
    this.forgetMaps();
  }

  // --- marks ---

  /** Show nuclei as they were marked: {x, y, class_name}, the last of a nucleus last. */
  setMarks(marks) {
    this.marks = marks;
    for (const square of this.squares.values()) {
      this.applyMarks(square);
      this.painter.refill(square.held, square.packed);
    }
  }

  applyMarks(square) {
    const { packed, pristine } = square;
    for (let at = 0; at < pristine.length; at += 1) packed[8 * at + 4] = pristine[at];
    const reach = SAME_UM / (this.slide.mpp?.[0] ?? 0.25);
    for (const mark of this.marks) {
      const x = mark.x - square.column * this.side, y = mark.y - square.row * this.side;
      if (x < -reach || y < -reach || x > this.side + reach || y > this.side + reach) continue;
      const found = nearestIn(square, x, y, reach, () => true);
      if (found < 0) continue;
      packed[8 * found + 4] = this.numberOf(mark.class_name);
    }
  }

  /** The class's number; those that only people use come after the model's. */
  numberOf(name) {
    if (name === null) return GONE;
    const known = this.classes.findIndex((one) => one.name === name);
    return known >= 0 ? known : GONE;
  }

  /** The shown nucleus nearest to a level-0 point, within so many level-0 px. */
  nearest(x, y, reach) {
    let best = null;
    for (const square of this.squares.values()) {
      const left = x - square.column * this.side, top = y - square.row * this.side;
      if (left < -reach || top < -reach || left > this.side + reach || top > this.side + reach) continue;
      const found = nearestIn(square, left, top, best ? best.distance : reach, (at) => this.isShown(square, at));
      if (found < 0) continue;
      const one = this.describe(square, found);
      one.distance = Math.hypot(one.x - x, one.y - y);
      if (!best || one.distance < best.distance) best = one;
    }
    return best;
  }

  isShown({ packed }, at) {
    const look = this.classes[packed[8 * at + 4]];
    return Boolean(look?.shown) && packed[8 * at + 5] >= 255 * this.cut.score && packed[8 * at + 6] >= 255 * this.cut.chance;
  }

  describe(square, at) {
    const { packed, steps } = square;
    return {
      x: square.column * this.side + steps[4 * at] / STEPS,
      y: square.row * this.side + steps[4 * at + 1] / STEPS,
      class_name: this.classes[packed[8 * at + 4]]?.name ?? null,
      by_model: this.classes[square.pristine[at]]?.name ?? null,
      score: packed[8 * at + 5] / 255,
      chance: packed[8 * at + 6] / 255,
    };
  }

  /** All nuclei inside a level-0 ring, as they are marked now; null while squares are missing. */
  inside(ring) {
    const xs = ring.map((point) => point[0]), ys = ring.map((point) => point[1]);
    const box = { left: Math.min(...xs), right: Math.max(...xs), top: Math.min(...ys), bottom: Math.max(...ys) };
    const found = [];
    for (const [column, row] of this.inView({ box })) {
      const square = this.squares.get(`${column}/${row}`);
      if (!square) return null;
      for (let at = 0; at < square.pristine.length; at += 1) {
        const one = this.describe(square, at);
        if (one.class_name !== null && one.x >= box.left && one.x <= box.right && one.y >= box.top && one.y <= box.bottom && isInside(ring, one.x, one.y)) found.push(one);
      }
    }
    return found;
  }

  get isWaiting() { return this.underWay.size > 0; }

  close() {
    this.closed = true;
    for (const stop of this.underWay.values()) stop.abort();
    for (const square of [...this.squares.values()]) this.dropSquare(square);
    this.forgetTextures();
  }
}

function classesOf(packed) {
  const classes = new Uint8Array(packed.length / 8);
  for (let at = 0; at < classes.length; at += 1) classes[at] = packed[8 * at + 4];
  return classes;
}

function nearestIn({ steps }, x, y, reach, isWanted) {
  const across = x * STEPS, down = y * STEPS;
  let best = -1, least = (reach * STEPS) ** 2;
  for (let at = 0; 4 * at < steps.length; at += 1) {
    const dx = steps[4 * at] - across, dy = steps[4 * at + 1] - down, distance = dx * dx + dy * dy;
    if (distance < least && isWanted(at)) { best = at; least = distance; }
  }
  return best;
}

/** Whether a point lies inside a ring, by crossings. */
export function isInside(ring, x, y) {
  let inside = false;
  for (let at = 0, before = ring.length - 1; at < ring.length; before = at, at += 1) {
    const [x0, y0] = ring[at], [x1, y1] = ring[before];
    if (y0 > y !== y1 > y && x < ((x1 - x0) * (y - y0)) / (y1 - y0) + x0) inside = !inside;
  }
  return inside;
}

/** RGBA bytes of a map, multiplied by alpha: the shown classes' colours mixed by their shares, denser is more opaque. */
function coloured({ counts, rows, columns }, classes) {
  const cells = rows * columns, totals = new Float32Array(cells), sums = new Float32Array(3 * cells);
  classes.forEach(({ rgb: [red, green, blue], shown }, number) => {
    if (!shown) return;
    for (let at = 0; at < cells; at += 1) {
      const here = counts[number * cells + at];
      if (!here) continue;
      totals[at] += here;
      sums[3 * at] += here * red; sums[3 * at + 1] += here * green; sums[3 * at + 2] += here * blue;
    }
  });
  const filled = totals.filter((value) => value > 0).sort();
  const dense = filled.length ? Math.max(1, filled[Math.floor(0.9 * (filled.length - 1))]) : 1;
  const pixels = new Uint8Array(4 * cells);
  for (let at = 0; at < cells; at += 1) {
    if (!totals[at]) continue;
    const alpha = 0.88 * (1 - Math.exp((-2.2 * totals[at]) / dense));
    for (let channel = 0; channel < 3; channel += 1) pixels[4 * at + channel] = (sums[3 * at + channel] / totals[at]) * alpha;
    pixels[4 * at + 3] = 255 * alpha;
  }
  return pixels;
}
