// What lies over the slide, drawn with the 2D canvas: outlines, marks, what is being drawn, scale bar, minimap.

import { length } from "./dom.js";

const TAU = 2 * Math.PI;

export class Overlay {
  constructor(canvas) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d");
    this.tissuePath = null;
  }

  begin(camera, ratio) {
    const { canvas, context } = this;
    const across = Math.round(camera.width * ratio), down = Math.round(camera.height * ratio);
    if (canvas.width !== across || canvas.height !== down) { canvas.width = across; canvas.height = down; }
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, camera.width, camera.height);
    this.camera = camera;
    this.ratio = ratio;
  }

  setTissue(polygons) {
    this.tissuePath = pathOf(polygons);
  }

  tissue(colour) {
    if (this.tissuePath) this.path(this.tissuePath, { colour, width: 1.6 });
  }

  /** A path in level-0 px. */
  path(path, { colour, width = 2, fill = null, dash = [] }) {
    const { context, camera, ratio } = this;
    context.save();
    const [x, y] = camera.toScreen(0, 0);
    context.setTransform(ratio * camera.scale, 0, 0, ratio * camera.scale, ratio * x, ratio * y);
    context.lineWidth = width / camera.scale;
    context.setLineDash(dash.map((one) => one / camera.scale));
    context.lineJoin = "round";
    if (fill) { context.fillStyle = fill; context.fill(path, "evenodd"); }
    context.strokeStyle = colour;
    context.stroke(path);
    context.restore();
  }

  ring(ring, look, { closed = true, handles = false } = {}) {
    const path = new Path2D();
    ring.forEach(([x, y], at) => (at ? path.lineTo(x, y) : path.moveTo(x, y)));
    if (closed) path.closePath();
    this.path(path, look);
    if (!handles) return;
    for (const point of ring) {
      const [x, y] = this.camera.toScreen(...point);
      this.context.beginPath();
      this.context.arc(x, y, 4.5, 0, TAU);
      this.context.fillStyle = "#fff";
      this.context.fill();
      this.context.lineWidth = 2;
      this.context.strokeStyle = look.colour;
      this.context.stroke();
    }
  }

  /** A nucleus that somebody marked: a ring of its class with a dot, or a cross where there is none. */
  mark(x, y, colour, isGone) {
    const { context, camera } = this, [px, py] = camera.toScreen(x, y);
    if (px < -20 || py < -20 || px > camera.width + 20 || py > camera.height + 20) return;
    const radius = Math.min(13, Math.max(3.5, camera.scale * 16));
    context.lineCap = "round";
    for (const [style, width] of [["#ffffffdd", 4.5], [isGone ? "#222" : colour, 2.4]]) {
      context.beginPath();
      if (isGone) {
        const arm = 0.7 * radius;
        context.moveTo(px - arm, py - arm); context.lineTo(px + arm, py + arm);
        context.moveTo(px + arm, py - arm); context.lineTo(px - arm, py + arm);
      } else context.arc(px, py, radius, 0, TAU);
      context.strokeStyle = style;
      context.lineWidth = width;
      context.stroke();
    }
    if (!isGone) { context.beginPath(); context.arc(px, py, 2, 0, TAU); context.fillStyle = colour; context.fill(); }
  }

  /** The nucleus that is meant. */
  target(x, y, colour) {
    const { context, camera } = this, [px, py] = camera.toScreen(x, y), radius = Math.min(22, Math.max(9, camera.scale * 26));
    for (const [style, width] of [["#000000aa", 4], [colour, 2]]) {
      context.beginPath();
      for (let quarter = 0; quarter < 4; quarter += 1) {
        const at = quarter * TAU / 4 + TAU / 8 - 0.45;
        context.moveTo(px + radius * Math.cos(at), py + radius * Math.sin(at));
        context.arc(px, py, radius, at, at + 0.9);
      }
      context.strokeStyle = style;
      context.lineWidth = width;
      context.stroke();
    }
  }

  measure(from, to, mpp) {
    const { camera } = this;
    this.ring([from, to], { colour: "#000000aa", width: 5 }, { closed: false });
    this.ring([from, to], { colour: "#ffd23f", width: 2 }, { closed: false, handles: true });
    const um = mpp ? Math.hypot((to[0] - from[0]) * mpp[0], (to[1] - from[1]) * mpp[1]) : null;
    const [x, y] = camera.toScreen((from[0] + to[0]) / 2, (from[1] + to[1]) / 2);
    this.label(x, y - 14, um === null ? `${Math.round(Math.hypot(to[0] - from[0], to[1] - from[1]))} px` : length(um));
  }

  label(x, y, text) {
    const { context } = this;
    context.font = "600 13px system-ui, sans-serif";
    const width = context.measureText(text).width + 14;
    context.fillStyle = "#101214dd";
    context.beginPath();
    context.roundRect(x - width / 2, y - 11, width, 22, 6);
    context.fill();
    context.fillStyle = "#fff";
    context.textAlign = "center";
    context.textBaseline = "middle";
    context.fillText(text, x, y + 0.5);
  }

  scaleBar(mpp) {
    if (!mpp) return;
    const { context, camera } = this, um = roundLength(140 * mpp[0] / camera.scale);
    const width = um / mpp[0] * camera.scale, left = 16, bottom = camera.height - 18;
    const text = length(um);
    context.fillStyle = "#ffffffdd";
    context.beginPath();
    context.roundRect(left - 8, bottom - 26, Math.max(width, 40) + 16, 36, 6);
    context.fill();
    context.fillStyle = "#1b1b1b";
    context.fillRect(left, bottom, width, 3);
    context.font = "600 12px system-ui, sans-serif";
    context.textAlign = "left";
    context.textBaseline = "alphabetic";
    context.fillText(text, left, bottom - 6);
  }
}

export function pathOf(polygons) {
  const path = new Path2D();
  for (const polygon of polygons) {
    for (const ring of polygon) {
      ring.forEach(([x, y], at) => (at ? path.lineTo(x, y) : path.moveTo(x, y)));
      path.closePath();
    }
  }
  return path;
}

/** The largest of 1, 2, 5, 10, 20, … not above a length. */
export function roundLength(most) {
  const power = 10 ** Math.floor(Math.log10(most));
  return power * ([5, 2, 1].find((step) => step * power <= most * (1 + 1e-9)) ?? 1);
}

/** Area of a ring in the square of its unit. */
export function ringArea(ring) {
  let twice = 0;
  for (let at = 0, before = ring.length - 1; at < ring.length; before = at, at += 1) twice += ring[before][0] * ring[at][1] - ring[at][0] * ring[before][1];
  return Math.abs(twice) / 2;
}
