// The slide's own pixels: which tiles a view needs, fetched nearest first, the ones used last held as textures.

import { bitmap } from "./api.js";

const MOST_HELD = 120; // tiles; 512 px each, about 1 MB of graphics memory
const MOST_UNDER_WAY = 6;

export class Pictures {
  constructor(painter, slide, onArrival) {
    this.painter = painter; this.slide = slide; this.onArrival = onArrival;
    this.held = new Map(); // key -> texture, used last at the end
    this.underWay = new Map(); // key -> AbortController
    this.failed = new Map(); // key -> when
    this.wanted = [];
  }

  /** The zoom whose px are nearest to the screen's. */
  zoomFor(scale, ratio) {
    const finest = Math.log2(1 / (scale * ratio));
    return Math.min(this.slide.top_zoom, Math.max(0, Math.floor(finest + 0.35)));
  }

  draw(camera, ratio) {
    if (this.slide.no_pixels) return;
    const zoom = this.zoomFor(camera.scale, ratio);
    this.wanted = [];
    for (const place of this.inView(camera, zoom)) this.drawTile(camera, zoom, ...place);
    this.want(this.slide.top_zoom, 0, 0); // the whole slide, under everything that is not there yet
    this.fetch(camera);
  }

  *inView(camera, zoom) {
    const side = this.slide.tile_px * 2 ** zoom, { left, top, right, bottom } = camera.box;
    const last = [Math.ceil(this.slide.width / side) - 1, Math.ceil(this.slide.height / side) - 1];
    for (let row = Math.max(0, Math.floor(top / side)); row <= Math.min(last[1], Math.floor(bottom / side)); row += 1) {
      for (let column = Math.max(0, Math.floor(left / side)); column <= Math.min(last[0], Math.floor(right / side)); column += 1) yield [column, row];
    }
  }

  /** The tile, or of a coarser one the part that covers it. */
  drawTile(camera, zoom, column, row) {
    const side = this.slide.tile_px * 2 ** zoom;
    this.want(zoom, column, row);
    for (let up = 0; zoom + up <= this.slide.top_zoom; up += 1) {
      const texture = this.use(key(zoom + up, column >> up, row >> up));
      if (!texture) continue;
      const share = 1 / 2 ** up;
      // Beyond the slide's edge a tile is blank: only what lies on the slide is drawn.
      const across = Math.min(1, (this.slide.width - column * side) / side), down = Math.min(1, (this.slide.height - row * side) / side);
      const [x, y] = camera.toScreen(column * side, row * side), length = side * camera.scale;
      const part = [(column % 2 ** up) * share, (row % 2 ** up) * share, across * share, down * share];
      this.painter.picture(texture, [x, y, length * across, length * down], part);
      return;
    }
  }

  use(name) {
    const texture = this.held.get(name);
    if (texture) { this.held.delete(name); this.held.set(name, texture); }
    return texture;
  }

  want(zoom, column, row) {
    if (!this.held.has(key(zoom, column, row))) this.wanted.push([zoom, column, row]);
  }

  fetch(camera) {
    const names = new Set(this.wanted.map((place) => key(...place)));
    for (const [name, stop] of this.underWay) if (!names.has(name)) { stop.abort(); this.underWay.delete(name); }
    const distance = ([zoom, column, row]) => {
      const side = this.slide.tile_px * 2 ** zoom;
      if (zoom === this.slide.top_zoom) return -1;
      return Math.hypot((column + 0.5) * side - camera.x, (row + 0.5) * side - camera.y);
    };
    this.wanted.sort((one, other) => distance(one) - distance(other));
    for (const place of this.wanted) {
      if (this.underWay.size >= MOST_UNDER_WAY) return;
      const name = key(...place);
      if (this.underWay.has(name) || performance.now() - (this.failed.get(name) ?? -1e9) < 15000) continue;
      this.load(name, place);
    }
  }

  async load(name, place) {
    const stop = new AbortController();
    this.underWay.set(name, stop);
    try {
      const picture = await bitmap(`tile/${place.join("/")}`, { slide: this.slide.slide_id }, stop.signal);
      if (stop.signal.aborted || this.closed) return picture.close();
      this.held.set(name, this.painter.texture(picture));
      while (this.held.size > MOST_HELD) {
        const [oldest, texture] = this.held.entries().next().value;
        this.held.delete(oldest);
        this.painter.drop(texture);
      }
    } catch (error) {
      if (error.name !== "AbortError") { this.failed.set(name, performance.now()); this.problem = error.message; }
    } finally {
      if (this.underWay.get(name) === stop) this.underWay.delete(name);
      if (!this.closed) this.onArrival();
    }
  }

  get isWaiting() { return this.underWay.size > 0; }

  close() {
    this.closed = true;
    for (const stop of this.underWay.values()) stop.abort();
    for (const texture of this.held.values()) this.painter.drop(texture);
  }
}

const key = (zoom, column, row) => `${zoom}/${column}/${row}`;
