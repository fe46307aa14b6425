// The tools: each says what a click, a drag or a key does while it is in use. `page` is the slide page.

import { ringArea } from "./overlay.js";

const LOOK = { colour: "#ffd23f", width: 2.5, fill: "#ffd23f22" };

/** Choose a nucleus with a click; drags pan. */
export const choose = { name: "choose", label: "Choose", shortcut: "v", cursor: "grab", hint: "Click a nucleus to say what it is; drag to move." };

/** Put a nucleus where the model found none. */
export function add(page) {
  return {
    name: "add", label: "Add", shortcut: "a", cursor: "crosshair", hint: "Click where a nucleus was missed; it gets the class chosen below.",
    click(point) { page.addNucleus(point); return true; },
  };
}

/** A distance. */
export function measure(page) {
  let from = null, to = null;
  return {
    name: "measure", label: "Measure", shortcut: "m", cursor: "crosshair", hint: "Drag from one point to another.",
    down(point) { from = to = point; return true; },
    move(point) { to = point; },
    draw(overlay) { if (from && Math.hypot(to[0] - from[0], to[1] - from[1]) > 0) overlay.measure(from, to, page.slide.mpp); },
    leave() { from = to = null; },
  };
}

/** A region: a rectangle by a drag, a polygon by clicks, freehand with shift. */
export function region(page) {
  let points = [], hover = null, mode = null;
  const finish = () => {
    const ring = points;
    points = []; mode = null; hover = null;
    if (ring.length >= 3 && ringArea(ring) > 0) page.addArea(ring);
  };
  return {
    name: "region", label: "Region", shortcut: "r", cursor: "crosshair",
    hint: "Drag a rectangle, hold Shift to draw freehand, or click corner by corner and end with a double click or Enter.",
    down(point, event) {
      if (mode === "corners") return false;
      points = [point];
      mode = event.shiftKey ? "freehand" : "rectangle";
      return true;
    },
    move(point, at) {
      if (mode === "rectangle") { const [[x, y]] = points; points = [[x, y], [point[0], y], point, [x, point[1]]]; }
      else if (mode === "freehand") {
        const [px, py] = page.stage.camera.toScreen(...points.at(-1));
        if (Math.hypot(at[0] - px, at[1] - py) > 3) points.push(point);
      }
    },
    up(point) {
      if (mode === "rectangle" && points.length < 4) { points = [point]; mode = "corners"; } // a click: the first corner
      else finish();
    },
    click(point) { if (mode === "corners") points.push(point); return true; },
    hover(point) { hover = point; if (mode === "corners") page.stage.refresh(); },
    double() { if (mode !== "corners") return false; points.pop(); finish(); return true; },
    key(key) {
      if (key === "Enter" && mode === "corners") { finish(); return true; }
      if (key === "Escape" && mode) { points = []; mode = null; return true; }
      return false;
    },
    draw(overlay) {
      if (!points.length) return;
      const ring = mode === "corners" && hover ? [...points, hover] : points;
      overlay.ring(ring, LOOK, { closed: mode !== "corners" || ring.length > 2, handles: mode === "corners" });
    },
    leave() { points = []; mode = null; },
  };
}

/** Corners of the tissue's outline: drag one, click the line for a new one, Delete or Alt-click takes one away. */
export function tissue(page) {
  let held = null, polygons = null;
  const near = (point, each) => {
    const reach = 9 / page.stage.camera.scale;
    let best = null;
    polygons.forEach((rings, polygon) => rings.forEach((ring, number) => each(ring, (index, place, x, y) => {
      const distance = Math.hypot(x - point[0], y - point[1]);
      if (distance <= (best?.distance ?? reach)) best = { polygon, number, index, place, distance };
    })));
    return best;
  };
  const corner = (point) => near(point, (ring, tell) => ring.forEach(([x, y], index) => tell(index, "corner", x, y)));
  const edge = (point) => near(point, (ring, tell) => ring.forEach(([x0, y0], index) => {
    const [x1, y1] = ring[(index + 1) % ring.length], along = (x1 - x0) ** 2 + (y1 - y0) ** 2;
    const share = along ? Math.min(1, Math.max(0, ((point[0] - x0) * (x1 - x0) + (point[1] - y0) * (y1 - y0)) / along)) : 0;
    tell(index, "edge", x0 + share * (x1 - x0), y0 + share * (y1 - y0));
  }));
  return {
    name: "tissue", label: "Tissue", shortcut: "t", cursor: "default",
    hint: "Drag corners of the outline; click the line for a new corner; Alt-click takes one away. Draw a new piece with Region, then “make tissue”.",
    enter() { polygons = page.tissue.map((rings) => rings.map((ring) => open(ring))); },
    down(point, event) {
      let found = corner(point);
      if (found && event.altKey) {
        const ring = polygons[found.polygon][found.number];
        if (ring.length > 3) ring.splice(found.index, 1);
        else polygons[found.polygon].length > 1 && found.number ? polygons[found.polygon].splice(found.number, 1) : polygons.splice(found.polygon, 1);
        page.setTissue(polygons);
        return true;
      }
      if (!found && (found = edge(point))) {
        polygons[found.polygon][found.number].splice(found.index + 1, 0, point);
        found.index += 1;
      }
      held = found;
      return Boolean(found);
    },
    move(point) {
      if (!held) return;
      const { slide } = page;
      polygons[held.polygon][held.number][held.index] = [Math.min(slide.width, Math.max(0, point[0])), Math.min(slide.height, Math.max(0, point[1]))];
    },
    up() { if (held) { held = null; page.setTissue(polygons); } },
    draw(overlay, camera) {
      const few = polygons.flat().reduce((sum, ring) => sum + ring.filter(([x, y]) => isSeen(camera, x, y)).length, 0) < 1500;
      for (const rings of polygons) for (const ring of rings) overlay.ring(ring, { colour: "#00b377", width: 2.5 }, { handles: few });
    },
    refresh() { this.enter(); },
  };
}

const isSeen = ({ box }, x, y) => x >= box.left && x <= box.right && y >= box.top && y <= box.bottom;

/** A ring without its last point where that is the first again. */
export function open(ring) {
  const [first] = ring, last = ring.at(-1);
  const ends = first[0] === last[0] && first[1] === last[1] ? ring.slice(0, -1) : ring;
  return ends.map((point) => [...point]);
}
