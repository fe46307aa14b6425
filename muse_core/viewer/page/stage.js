// The canvas of a slide: draws when something changed, moves with mouse, fingers, pen and keys, and hands clicks to the
// tool in use.

import { Camera } from "./camera.js";
import { GlPainter, contextOf } from "./gl.js";
import { h } from "./dom.js";
import { Nuclei } from "./nuclei.js";
import { Overlay } from "./overlay.js";
import { Pictures } from "./pictures.js";
import { RasterPainter } from "./raster.js";

const MOST_RATIO = 2; // device px a CSS px that are drawn
const CLICK_PX = 5; // farther and it was a drag

export class Stage extends EventTarget {
  constructor(slide) {
    super();
    this.slide = slide;
    this.canvas = h("canvas", { class: "pixels" });
    this.front = h("canvas", { class: "front", tabindex: "0", role: "application", "aria-label": `Slide ${slide.slide_id}: arrow keys move, plus and minus zoom, question mark shows all keys` });
    this.element = h("div", { class: "stage" }, this.canvas, this.front);
    this.painter = painterOf(this.canvas);
    this.overlay = new Overlay(this.front);
    this.overlay.setTissue(slide.tissue);
    this.camera = new Camera();
    this.camera.slide = { width: slide.width, height: slide.height };
    const arrival = () => this.refresh();
    this.pictures = new Pictures(this.painter, slide, arrival);
    this.nuclei = new Nuclei(this.painter, slide, arrival);
    this.layers = []; // functions (overlay, camera) drawn on top
    this.tool = null; // {down, move, up, click, double, cursor}; each may say true: it was for it
    this.pointers = new Map();
    this.frames = []; // times between the last frames, ms
    this.listen();
    this.observer = new ResizeObserver(() => this.resize());
    this.observer.observe(this.element);
  }

  resize() {
    const { clientWidth: width, clientHeight: height } = this.element;
    if (!width || !height) return;
    const first = this.camera.width === 1;
    this.camera.width = width; this.camera.height = height;
    if (first) { this.camera.fit(); this.dispatchEvent(new Event("ready")); }
    this.refresh();
  }

  refresh() {
    if (this.asked || this.closed) return;
    this.asked = true;
    requestAnimationFrame((now) => this.frame(now));
  }

  frame(now) {
    this.asked = false;
    if (this.closed || this.camera.width === 1) return;
    const ms = Math.min(100, now - (this.last ?? now));
    this.last = now;
    const moving = this.camera.glide(ms);
    this.draw();
    if (this.wasMoving && ms) this.frames = [...this.frames.slice(-119), ms];
    this.wasMoving = moving;
    if (moving) { this.dispatchEvent(new Event("move")); this.refresh(); }
  }

  draw() {
    const ratio = Math.min(MOST_RATIO, window.devicePixelRatio || 1), { camera } = this;
    this.painter.begin(camera.width, camera.height, ratio, this.background ?? [240, 240, 238]);
    this.pictures.draw(camera, ratio);
    this.nuclei.draw(camera);
    this.overlay.begin(camera, ratio);
    for (const layer of this.layers) layer(this.overlay, camera);
    this.overlay.scaleBar(this.slide.mpp);
    const state = this.nuclei.state;
    if (state !== this.lastState) { this.lastState = state; this.dispatchEvent(new Event("state")); }
  }

  moved() {
    this.dispatchEvent(new Event("move"));
    this.refresh();
  }

  listen() {
    const { front } = this;
    front.addEventListener("wheel", (event) => {
      event.preventDefault();
      const at = this.at(event), unit = event.deltaMode === 1 ? 30 : event.deltaMode === 2 ? 300 : 1;
      this.camera.zoom(Math.exp(-event.deltaY * unit * (event.ctrlKey ? 0.01 : 0.0022)), ...at);
      this.moved();
    }, { passive: false });
    front.addEventListener("pointerdown", (event) => this.down(event));
    front.addEventListener("pointermove", (event) => this.drag(event));
    front.addEventListener("pointerup", (event) => this.up(event));
    front.addEventListener("pointercancel", (event) => this.up(event, true));
    front.addEventListener("pointerleave", () => this.dispatchEvent(new Event("leave")));
    front.addEventListener("dblclick", (event) => {
      const at = this.at(event);
      if (!this.tool?.double?.(this.camera.toSlide(...at))) this.camera.zoom(event.shiftKey ? 0.5 : 2, ...at);
      this.moved();
    });
  }

  at(event) {
    const box = this.front.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  }

  down(event) {
    if (event.button > 1) return;
    this.front.focus({ preventScroll: true, focusVisible: false });
    this.front.setPointerCapture(event.pointerId);
    const at = this.at(event);
    this.pointers.set(event.pointerId, at);
    this.begun = { at, isDrag: false, toTool: false };
    if (this.pointers.size === 1 && event.button === 0) this.begun.toTool = Boolean(this.tool?.down?.(this.camera.toSlide(...at), event));
    this.camera.goal = null;
  }

  drag(event) {
    const at = this.at(event), before = this.pointers.get(event.pointerId);
    if (!before) {
      this.tool?.hover?.(this.camera.toSlide(...at), at);
      this.dispatchEvent(new CustomEvent("hover", { detail: { at, point: this.camera.toSlide(...at) } }));
      return;
    }
    if (Math.hypot(at[0] - this.begun.at[0], at[1] - this.begun.at[1]) > CLICK_PX) this.begun.isDrag = true;
    if (this.pointers.size === 2) this.pinch(event.pointerId, at);
    else if (this.begun.toTool) this.tool.move?.(this.camera.toSlide(...at), at);
    else if (this.begun.isDrag) this.camera.pan(at[0] - before[0], at[1] - before[1]);
    else return;
    this.pointers.set(event.pointerId, at);
    this.moved();
  }

  pinch(id, at) {
    const [other] = [...this.pointers].filter(([one]) => one !== id).map(([, place]) => place), before = this.pointers.get(id);
    const middle = [(at[0] + other[0]) / 2, (at[1] + other[1]) / 2], earlier = [(before[0] + other[0]) / 2, (before[1] + other[1]) / 2];
    this.camera.pan(middle[0] - earlier[0], middle[1] - earlier[1]);
    const factor = Math.hypot(at[0] - other[0], at[1] - other[1]) / Math.max(1, Math.hypot(before[0] - other[0], before[1] - other[1]));
    this.camera.zoom(factor, ...middle, true);
  }

  up(event, isCancelled = false) {
    if (!this.pointers.delete(event.pointerId) || !this.begun) return;
    const at = this.at(event), point = this.camera.toSlide(...at);
    if (this.begun.toTool) this.tool.up?.(point, at);
    else if (!this.begun.isDrag && !isCancelled && event.button === 0) {
      if (!this.tool?.click?.(point, at, event)) this.dispatchEvent(new CustomEvent("pick", { detail: { at, point } }));
    }
    this.begun = this.pointers.size ? { ...this.begun, isDrag: true, toTool: false } : null;
    this.moved();
  }

  /** Whether all that the view needs is drawn. */
  get isWaiting() { return this.asked || this.pictures.isWaiting || this.nuclei.isWaiting || Boolean(this.camera.goal); }

  close() {
    this.closed = true;
    this.observer.disconnect();
    this.pictures.close();
    this.nuclei.close();
    this.painter.close();
  }
}

/** By the graphics card where there is one; `?draw=gl` takes WebGL in software, too. */
function painterOf(canvas) {
  const gl = contextOf(canvas, new URLSearchParams(location.search).get("draw") === "gl");
  return gl ? new GlPainter(canvas, gl) : new RasterPainter(canvas);
}
