// Where one looks: the level-0 point in the middle of the canvas, and CSS px per level-0 px.

export class Camera {
  constructor() {
    this.x = 0; this.y = 0; this.scale = 1;
    this.width = 1; this.height = 1; // of the canvas, CSS px
    this.slide = { width: 1, height: 1 };
    this.goal = null;
  }

  toScreen(x, y) { return [(x - this.x) * this.scale + this.width / 2, (y - this.y) * this.scale + this.height / 2]; }
  toSlide(px, py) { return [(px - this.width / 2) / this.scale + this.x, (py - this.height / 2) / this.scale + this.y]; }

  /** Level-0 box that is seen: left, top, right, bottom. */
  get box() {
    const [left, top] = this.toSlide(0, 0), [right, bottom] = this.toSlide(this.width, this.height);
    return { left, top, right, bottom };
  }

  get least() { return 0.5 * Math.min(this.width / this.slide.width, this.height / this.slide.height); }
  get most() { return 16; }

  fit() {
    this.scale = 0.94 * Math.min(this.width / this.slide.width, this.height / this.slide.height);
    this.x = this.slide.width / 2; this.y = this.slide.height / 2;
    this.goal = null;
  }

  /** Zoom by a factor; the point under (px, py) stays. Glides there unless it must be at once. */
  zoom(factor, px = this.width / 2, py = this.height / 2, atOnce = false) {
    const from = this.goal || this;
    const scale = Math.min(this.most, Math.max(this.least, from.scale * factor));
    const x = (px - this.width / 2) / from.scale + from.x, y = (py - this.height / 2) / from.scale + from.y;
    const goal = { scale, x: x - (px - this.width / 2) / scale, y: y - (py - this.height / 2) / scale };
    this.goTo(goal, atOnce);
  }

  pan(dx, dy) { this.goTo({ scale: this.scale, x: this.x - dx / this.scale, y: this.y - dy / this.scale }, true); }

  goTo({ x, y, scale }, atOnce = false) {
    const goal = { scale: Math.min(this.most, Math.max(this.least, scale)), x: clamp(x, 0, this.slide.width), y: clamp(y, 0, this.slide.height) };
    if (atOnce) { Object.assign(this, goal); this.goal = null; } else this.goal = goal;
  }

  /** Move towards the goal; whether it is not reached yet. */
  glide(ms) {
    if (!this.goal) return false;
    const share = 1 - Math.exp(-ms / 55);
    const ratio = Math.log(this.goal.scale / this.scale);
    if (Math.abs(ratio) < 0.002 && Math.hypot(this.goal.x - this.x, this.goal.y - this.y) * this.scale < 0.3) {
      Object.assign(this, this.goal);
      this.goal = null;
      return true;
    }
    // The fixed point of a zoom stays fixed only if 1 / scale and the middle go the same share of their ways.
    const inverse = 1 / this.scale, next = Math.exp(ratio * share) * this.scale;
    const end = 1 / this.goal.scale, way = ratio ? (1 / next - inverse) / (end - inverse) : share;
    this.scale = next;
    this.x += (this.goal.x - this.x) * way;
    this.y += (this.goal.y - this.y) * way;
    return true;
  }
}

const clamp = (value, low, high) => Math.min(high, Math.max(low, value));
