// Regions that were drawn: what is in them, their names, "labelled whole", and GeoJSON of them.

import { send } from "./api.js";
import { count, download, h, swatch, words } from "./dom.js";
import { ringArea } from "./overlay.js";

export function areasPanel(page) {
  const element = h("div", {}), statistics = new Map(); // by outline
  let entries = [], open = null, shownOpen = null;

  const outline = (entry) => JSON.stringify(entry.mark.rings);

  async function countIn(entry) {
    const name = outline(entry);
    if (statistics.has(name) || !page.slide.has_nuclei) return;
    statistics.set(name, null);
    try {
      statistics.set(name, await send("area", { slide_id: page.slide.slide_id, rings: entry.mark.rings }));
    } catch (error) {
      statistics.set(name, { error: error.message });
    }
    shownOpen = null; // what was counted takes room: into view with it
    show();
  }

  function renew(entry, changes) {
    // A mark is never changed: the old one is taken back and a new one made.
    page.marks.add({ kind: "undo", slide_id: page.slide.slide_id, of: entry.n });
    page.marks.add({ ...entry.mark, ...changes });
  }

  function labelWhole(entry) {
    const dots = page.stage.nuclei.inside(entry.mark.rings[0]);
    if (!dots) {
      const box = bounds(entry.mark.rings[0]), { camera } = page.stage;
      camera.goTo({ x: (box[0] + box[2]) / 2, y: (box[1] + box[3]) / 2, scale: 0.8 * Math.min(camera.width / (box[2] - box[0]), camera.height / (box[3] - box[1])) }, true);
      page.stage.moved();
      page.app.say("The region is brought into view; look at its nuclei, then press again.");
      return;
    }
    renew(entry, { whole: true, dots: dots.map((one) => [one.x, one.y, one.class_name]) });
    page.app.say(`${count(dots.length)} nuclei in this region count as labelled.`);
  }

  function makeTissue(entry) {
    page.marks.add({ kind: "tissue", slide_id: page.slide.slide_id, polygons: [...page.tissue, entry.mark.rings] });
    page.app.say("Added to the tissue. muse infer --tissue takes it from the lab folder.");
  }

  function describe(entry) {
    const found = statistics.get(outline(entry));
    if (!found) return h("p", { class: "sub" }, page.slide.has_nuclei ? "counting…" : "");
    if (found.error) return h("p", { class: "sub warn" }, found.error);
    const rows = found.classes.map(({ name, n, share, per_mm2: density }) => h("tr", {}, h("th", { scope: "row" }, swatch(page.app.colourOf(name)), words(name)), h("td", {}, count(n)), h("td", {}, `${(100 * share).toFixed(0)} %`), h("td", {}, count(Math.round(density)))));
    const near = found.neighbours.filter(({ of, to }) => of !== to).map(({ of, to, median_um: um }) => h("tr", {}, h("th", { scope: "row" }, `${words(of)} → ${words(to)}`), h("td", {}, `${um.toFixed(1)} µm`)));
    return h("div", {},
      h("table", {}, h("thead", {}, h("tr", {}, h("th", {}, ""), h("th", { scope: "col" }, "n"), h("th", { scope: "col" }, "share"), h("th", { scope: "col" }, "per mm²"))), h("tbody", {}, rows)),
      near.length ? h("details", {}, h("summary", {}, "Nearest of another class, median"), h("table", {}, h("tbody", {}, near))) : "");
  }

  function row(entry, number) {
    const { mark } = entry, isOpen = open === outline(entry), name = mark.name || `Region ${number + 1}`;
    const mm2 = page.slide.mpp ? ringArea(mark.rings[0]) * page.slide.mpp[0] * page.slide.mpp[1] / 1e6 : null;
    const toggle = () => { open = isOpen ? null : outline(entry); if (open) countIn(entry); show(); };
    const head = h("button", { class: "link area-name", "aria-expanded": String(isOpen), onclick: toggle }, name, mark.whole ? " ✓" : "");
    const size = h("span", { class: "n" }, mm2 === null ? "" : `${+mm2.toPrecision(3)} mm²`);
    if (!isOpen) return h("li", {}, h("div", { class: "row" }, head, h("span", { class: "grow" }), size));
    const ready = Number.isFinite(entry.n);
    return h("li", { class: "open" }, h("div", { class: "row" }, head, h("span", { class: "grow" }), size), describe(entry),
      h("div", { class: "buttons tight" },
        h("button", { disabled: !ready, onclick: () => { const given = prompt("Name of the region", mark.name); if (given !== null) renew(entry, { name: given.slice(0, 200) }); } }, "Rename"),
        h("button", { disabled: !ready || mark.whole, title: "Every nucleus in it is labelled as it is shown now", onclick: () => labelWhole(entry) }, mark.whole ? "Labelled whole" : "All right here"),
        h("button", { disabled: !ready, onclick: () => makeTissue(entry) }, "Make tissue"),
        h("button", { disabled: !ready, onclick: () => page.marks.add({ kind: "undo", slide_id: page.slide.slide_id, of: entry.n }) }, "Remove")));
  }

  function show() {
    element.replaceChildren(...[
      entries.length ? h("ul", { class: "areas" }, entries.map(row)) : h("p", { class: "sub" }, "None yet. Press R and draw one."),
      entries.length && h("button", { class: "link", onclick: save }, "Save as GeoJSON"),
    ].filter(Boolean));
    page.stage.refresh();
    if (open !== shownOpen) element.querySelector("li.open")?.scrollIntoView({ block: "nearest" });
    shownOpen = open;
  }

  function save() {
    const features = entries.map(({ mark }, number) => ({
      type: "Feature",
      geometry: { type: "Polygon", coordinates: mark.rings.map((ring) => [...ring, ring[0]].map(([x, y]) => [x - page.slide.origin[0], y - page.slide.origin[1]])) },
      properties: { objectType: "annotation", name: mark.name || `Region ${number + 1}` },
    }));
    download(`${page.slide.slide_id}.geojson`, JSON.stringify({ type: "FeatureCollection", features }), "application/geo+json");
  }

  return {
    element,
    take(found) {
      const isNew = found.length > entries.length && entries.length + 1 === found.length && page.summary;
      entries = found;
      if (isNew) { open = outline(found.at(-1)); countIn(found.at(-1)); }
      show();
    },
    draw(overlay) {
      for (const entry of entries) {
        const isOpen = open === outline(entry);
        for (const ring of entry.mark.rings) overlay.ring(ring, { colour: isOpen ? "#ffd23f" : "#3d5afe", width: isOpen ? 3 : 2, fill: isOpen ? "#ffd23f18" : "#3d5afe10", dash: entry.mark.whole ? [] : [8, 5] });
      }
    },
  };
}

function bounds(ring) {
  const xs = ring.map((point) => point[0]), ys = ring.map((point) => point[1]);
  return [Math.min(...xs), Math.min(...ys), Math.max(...xs), Math.max(...ys)];
}
