// The whole slide, small, with what is seen of it; a click goes there.

import { address } from "./api.js";
import { h } from "./dom.js";

const SIDE = 168;

export class Minimap {
  constructor(stage, slide) {
    const shrink = SIDE / Math.max(slide.width, slide.height);
    this.width = Math.max(24, slide.width * shrink); this.height = Math.max(24, slide.height * shrink);
    this.slide = slide;
    this.frame = h("div", { class: "frame" });
    this.element = h("div", { class: "minimap", title: "Where you are; click to go elsewhere", "aria-hidden": "true" }, this.frame);
    this.element.style.width = `${this.width}px`;
    this.element.style.height = `${this.height}px`;
    if (!slide.no_pixels || slide.has_overview) {
      const picture = h("img", { alt: "", src: address("thumbnail", { slide: slide.slide_id }), draggable: false });
      picture.addEventListener("error", () => picture.remove());
      this.element.prepend(picture);
    }
    const go = (event) => {
      const box = this.element.getBoundingClientRect(), { camera } = stage;
      camera.goTo({ scale: camera.scale, x: (event.clientX - box.left) / this.width * slide.width, y: (event.clientY - box.top) / this.height * slide.height }, event.type === "pointermove");
      stage.moved();
    };
    this.element.addEventListener("pointerdown", (event) => { this.element.setPointerCapture(event.pointerId); go(event); });
    this.element.addEventListener("pointermove", (event) => { if (event.buttons) go(event); });
  }

  draw(camera) {
    const { left, top, right, bottom } = camera.box, { slide } = this;
    const share = (value, whole) => Math.min(1, Math.max(0, value / whole));
    const box = [share(left, slide.width), share(top, slide.height), share(right, slide.width), share(bottom, slide.height)];
    Object.assign(this.frame.style, {
      left: `${box[0] * this.width}px`, top: `${box[1] * this.height}px`,
      width: `${Math.max(4, (box[2] - box[0]) * this.width)}px`, height: `${Math.max(4, (box[3] - box[1]) * this.height)}px`,
    });
  }
}
