// The page of one slide: stage, tools, and the panel beside it.

import { ask } from "./api.js";
import { areasPanel } from "./areas.js";
import { area, count, h, isTyping, percent, settled, swatch, words } from "./dom.js";
import { Minimap } from "./minimap.js";
import { Stage } from "./stage.js";
import { teachPanel } from "./teach.js";
import * as tools from "./tools.js";

const PICK_PX = 12;

export class SlidePage {
  constructor(app, slide, view) {
    this.app = app; this.slide = slide; this.marks = app.marks;
    this.stage = new Stage(slide);
    this.current = view.class ?? slide.classes[0]?.name ?? ""; // class of what is added
    this.target = null; // the chosen nucleus
    this.tissue = slide.tissue;
    this.tools = [tools.choose, tools.add(this), tools.measure(this), tools.region(this), tools.tissue(this)];
    this.build();
    this.stage.layers.push((overlay, camera) => this.drawOver(overlay, camera));
    this.listen();
    this.useTool("choose");
    this.applyView(view);
    this.takeMarks();
    this.loadSummary();
  }

  build() {
    const { slide, stage } = this;
    this.tip = h("div", { class: "tip", hidden: true });
    this.hint = h("p", { class: "hint", role: "status" });
    this.toolbar = h("div", { class: "tools", role: "toolbar", "aria-label": "Tools" }, this.tools.map((tool) =>
      h("button", { "data-tool": tool.name, "aria-pressed": "false", title: `${tool.hint} (${tool.shortcut.toUpperCase()})`, onclick: () => this.useTool(tool.name) }, tool.label)));
    this.zoomer = h("div", { class: "zoomer" },
      h("button", { title: "Closer (+)", "aria-label": "Zoom in", onclick: () => this.zoom(2) }, "+"),
      h("button", { title: "Farther (−)", "aria-label": "Zoom out", onclick: () => this.zoom(0.5) }, "−"),
      h("button", { title: "The whole slide (0)", "aria-label": "Whole slide", onclick: () => this.fit() }, "⤢"));
    this.magnification = h("span", { class: "magnification" });
    this.minimap = new Minimap(stage, slide);
    this.chosen = h("div", { class: "chosen", hidden: true });
    const missing = slide.no_pixels && h("p", { class: "notice" }, `The slide's picture is not shown. ${slide.no_pixels}`);
    const none = !slide.has_nuclei && h("p", { class: "notice" }, `No nuclei: ${slide.message || slide.reason || "this slide is not finished"}`);
    const nothing = !slide.has_nuclei && slide.width <= 1; // a file that no reader opens: no pixels, no size
    if (nothing) slide.no_pixels ||= "it cannot be read";
    for (const one of [this.toolbar, this.zoomer, this.magnification, this.minimap.element]) one.hidden = nothing;
    stage.element.append(this.toolbar, this.zoomer, this.magnification, this.minimap.element, this.hint, this.tip, this.chosen, ...[missing, none].filter(Boolean));
    this.classList = h("ul", { class: "classes" });
    this.facts = h("div", { class: "facts" });
    this.notes = h("ul", { class: "notes" });
    this.areas = areasPanel(this);
    this.labels = h("div", {});
    const section = (isWanted, ...parts) => h("section", { hidden: !isWanted }, ...parts);
    this.panel = h("aside", { class: "panel", "aria-label": "About this slide" },
      section(true, h("h1", {}, slide.slide_id), this.facts),
      section(slide.has_nuclei, h("div", { class: "row" }, h("h2", {}, "Nuclei"), this.nucleiToggle()), this.classList, this.sliders()),
      section(slide.has_nuclei, h("h2", {}, "Labels"), this.labels),
      section(!nothing, h("h2", {}, "Regions"), this.areas.element),
      section(slide.has_nuclei, h("h2", {}, "Notes"), this.notes));
    this.teach = teachPanel(this.app, slide.slide_id);
    this.labels.after(this.teach.element);
    this.element = h("div", { class: "slide-page" }, stage.element, this.panel);
    this.showFacts();
    this.showClasses();
  }

  nucleiToggle() {
    return h("label", { class: "check" }, this.allBox = h("input", { type: "checkbox", checked: true, onchange: (event) => this.showNuclei(event.target.checked) }), "shown");
  }

  showNuclei(shown) {
    this.allBox.checked = shown;
    this.stage.nuclei.shown = shown;
    this.changed();
  }

  sliders() {
    const slider = (name, label) => {
      const told = h("output", {}, "0"), input = h("input", { type: "range", min: "0", max: "1", step: "0.01", value: "0", "aria-label": label });
      input.addEventListener("input", () => {
        told.textContent = input.value;
        this.stage.nuclei.setCut({ [name]: Number(input.value) });
        this.changed();
      });
      this[`${name}Slider`] = { set: (value) => { input.value = value; told.textContent = value; } };
      return h("label", { class: "slider" }, h("span", {}, label), told, input);
    };
    return h("div", { class: "cuts" }, slider("score", "Score at least"), slider("chance", "Class probability at least"));
  }

  showFacts() {
    const { slide } = this, um2 = slide.mpp && slide.width * slide.height * slide.mpp[0] * slide.mpp[1];
    const facts = [
      slide.mpp ? `${count(slide.width)} × ${count(slide.height)} px at ${+slide.mpp[0].toPrecision(4)} µm/px` : "µm/px not known",
      slide.tissue_mm2 ? `${+slide.tissue_mm2.toPrecision(3)} mm² tissue` : um2 ? area(um2) : "",
      slide.n_nuclei === null ? "" : `${count(slide.n_nuclei)} nuclei`,
      slide.model.model_id ? `model ${slide.model.model_id}` : "",
    ];
    this.facts.replaceChildren(h("p", { class: "sub" }, facts.filter(Boolean).join(" · ")));
  }

  showClasses() {
    const total = Object.values(this.summary?.counts ?? {}).reduce((sum, one) => sum + one, 0);
    this.classList.replaceChildren(...this.stage.nuclei.classes.map(({ name, colour, shown }, number) => {
      const n = this.summary?.counts[name];
      return h("li", { class: name === this.current ? "current" : "" },
        h("label", { class: "check grow" },
          h("input", { type: "checkbox", checked: shown, "aria-label": `Show ${words(name)}`, onchange: (event) => { this.stage.nuclei.setShown(name, event.target.checked); this.changed(); } }),
          swatch(colour), h("span", { class: "grow" }, words(name)),
          h("span", { class: "n" }, n === undefined ? "" : count(n)), h("span", { class: "n share" }, n === undefined || !total ? "" : percent(n / total))),
        h("button", { class: "key", title: `New nuclei get this class; with a nucleus chosen: it is ${words(name)} (${number + 1})`, "aria-pressed": String(name === this.current), onclick: () => this.classKey(number) }, String(number + 1)));
    }), h("li", {}, h("button", { class: "link", onclick: () => this.newClass() }, "another class…")));
  }

  newClass() {
    const name = (prompt("Name of the class") ?? "").trim();
    if (!name) return;
    this.app.classNamed(name);
    this.stage.nuclei.addClass({ name, colour: this.app.colourOf(name) });
    this.current = name;
    this.showClasses();
  }

  async loadSummary() {
    if (!this.slide.has_nuclei) return;
    try {
      this.summary = await ask("summary", { slide: this.slide.slide_id });
    } catch (error) {
      this.app.say(error.message);
      return;
    }
    if (this.closed) return;
    this.stage.nuclei.setLevels(this.summary);
    this.stage.refresh();
    this.showClasses();
    this.notes.replaceChildren(...this.summary.notes.map(({ kind, text }) => h("li", { class: kind }, h("span", { class: "mark", "aria-hidden": "true" }, kind === "good" ? "✓" : "!"), text)));
  }

  // --- marks ---

  takeMarks() {
    const inForce = this.marks.inForce(this.slide.slide_id);
    this.nucleusMarks = inForce.filter((entry) => entry.mark.kind === "nucleus");
    for (const { mark } of this.nucleusMarks) {
      if (mark.class_name !== null && !this.stage.nuclei.classes.some((one) => one.name === mark.class_name)) {
        this.stage.nuclei.addClass({ name: mark.class_name, colour: this.app.colourOf(mark.class_name) });
        this.showClasses();
      }
    }
    this.stage.nuclei.setMarks(this.nucleusMarks.map((entry) => entry.mark));
    const tissue = inForce.filter((entry) => entry.mark.kind === "tissue").at(-1);
    this.tissue = tissue ? tissue.mark.polygons : this.slide.tissue;
    this.stage.overlay.setTissue(this.tissue);
    if (this.tool?.name === "tissue") this.tool.refresh();
    this.areas.take(inForce.filter((entry) => entry.mark.kind === "area"));
    this.showLabels();
    this.stage.refresh();
  }

  showLabels() {
    const counts = new Map();
    for (const { mark } of this.nucleusMarks) counts.set(mark.class_name, (counts.get(mark.class_name) ?? 0) + 1);
    const rows = [...counts].map(([name, n]) => h("li", {}, name === null ? h("span", { class: "swatch none", "aria-hidden": "true" }, "×") : swatch(this.app.colourOf(name)), h("span", { class: "grow" }, name === null ? "no nucleus" : words(name)), h("span", { class: "n" }, count(n))));
    const waiting = this.marks.outbox.length;
    this.labels.replaceChildren(
      rows.length ? h("ul", { class: "classes plain" }, rows) : h("p", { class: "sub" }, "None yet. Choose a nucleus and press 1, 2, 3 … for its class, or Delete if it is none."),
      h("div", { class: "buttons" },
        h("button", { onclick: () => this.app.go({ ask: "doubtful", slide: this.slide.slide_id }) }, "Ask me"),
        h("button", { disabled: !this.marks.mine.length, title: "Take back the last mark (U)", onclick: () => this.undo() }, "Undo")),
      waiting ? h("p", { class: "sub warn" }, `${waiting} not on disk yet`) : "");
  }

  label(nucleus, className) {
    if (!this.slide.has_nuclei) return;
    this.marks.add({ kind: "nucleus", slide_id: this.slide.slide_id, x: nucleus.x, y: nucleus.y, class_name: className, was: nucleus.class_name ?? null });
    this.showChosen(className === null ? null : { ...nucleus, class_name: className });
  }

  addNucleus([x, y]) {
    if (x < 0 || y < 0 || x >= this.slide.width || y >= this.slide.height || !this.current) return;
    this.marks.add({ kind: "nucleus", slide_id: this.slide.slide_id, x, y, class_name: this.current, was: null });
  }

  addArea(ring) {
    const inside = ring.map(([x, y]) => [Math.min(this.slide.width, Math.max(0, x)), Math.min(this.slide.height, Math.max(0, y))]);
    this.marks.add({ kind: "area", slide_id: this.slide.slide_id, rings: [inside], name: "", whole: false, dots: [] });
  }

  setTissue(polygons) {
    const whole = polygons.map((rings) => rings.filter((ring) => ring.length >= 3)).filter((rings) => rings.length);
    this.marks.add({ kind: "tissue", slide_id: this.slide.slide_id, polygons: whole });
  }

  undo() {
    const gone = this.marks.undo();
    this.app.say(gone ? "Taken back." : "Nothing of this page to take back.");
    this.showChosen(null);
  }

  classKey(number) {
    const one = this.stage.nuclei.classes[number];
    if (!one) return;
    if (this.target) this.label(this.target, one.name);
    else { this.current = one.name; this.showClasses(); }
  }

  // --- choosing ---

  pick({ point }) {
    const reach = PICK_PX / this.stage.camera.scale;
    this.showChosen(this.stage.nuclei.nearest(...point, reach) ?? this.markedNear(point, reach));
  }

  markedNear([x, y], reach) {
    const found = this.nucleusMarks.findLast(({ mark }) => mark.class_name !== null && Math.hypot(mark.x - x, mark.y - y) < reach);
    return found ? { x: found.mark.x, y: found.mark.y, class_name: found.mark.class_name, score: null } : null;
  }

  async showChosen(nucleus) {
    this.target = nucleus;
    this.chosen.hidden = !nucleus;
    this.stage.refresh();
    if (!nucleus) return;
    const classes = this.stage.nuclei.classes;
    const chances = h("div", { class: "chances" });
    const entry = this.nucleusMarks.findLast(({ mark }) => Math.hypot(mark.x - nucleus.x, mark.y - nucleus.y) < 2);
    this.chosen.replaceChildren(...[
      h("div", { class: "row" }, h("strong", {}, words(nucleus.class_name ?? "no nucleus")), nucleus.score === null ? null : h("span", { class: "sub" }, `score ${nucleus.score.toFixed(2)}`),
        h("span", { class: "grow" }), h("button", { class: "quiet", "aria-label": "Close", onclick: () => this.showChosen(null) }, "×")),
      entry && h("p", { class: "sub" }, `labelled by ${entry.who}`),
      chances,
      h("div", { class: "buttons tight" }, classes.map(({ name, colour }, number) => h("button", { class: name === nucleus.class_name ? "on" : "", onclick: () => this.label(nucleus, name) }, swatch(colour), words(name), h("kbd", {}, String(number + 1)))),
        h("button", { onclick: () => this.label(nucleus, null) }, "no nucleus", h("kbd", {}, "Del"))),
      this.slide.has_embeddings && h("button", { class: "link", onclick: () => this.app.go({ ask: "alike", slide: this.slide.slide_id, x: nucleus.x.toFixed(1), y: nucleus.y.toFixed(1), class: nucleus.class_name }) }, "nuclei most like this one…"),
    ].filter(Boolean));
    try {
      const row = await ask("nucleus", { slide: this.slide.slide_id, x: nucleus.x, y: nucleus.y });
      if (this.target !== nucleus) return;
      chances.replaceChildren(...this.slide.classes.filter(({ name }) => `p_${name}` in row).map(({ name, colour }) => bar(words(name), row[`p_${name}`], colour)),
        h("p", { class: "sub" }, `x ${row.x_um.toFixed(1)} µm, y ${row.y_um.toFixed(1)} µm · nucleus ${row.nucleus_id}${row.in_tissue ? "" : " · outside the tissue"}`));
    } catch { /* an added nucleus: the model knows nothing of it */ }
  }

  hover({ at, point }) {
    if (this.tool.name !== "choose") return;
    const found = this.stage.nuclei.state === "points" ? this.stage.nuclei.nearest(...point, PICK_PX / this.stage.camera.scale) : null;
    this.tip.hidden = !found;
    this.stage.front.style.cursor = found ? "pointer" : "grab";
    if (!found) return;
    this.tip.replaceChildren(swatch(this.app.colourOf(found.class_name)), `${words(found.class_name)} · ${percent(found.chance)} · score ${found.score.toFixed(2)}`);
    this.tip.style.transform = `translate(${Math.min(at[0] + 14, this.stage.camera.width - 240)}px, ${at[1] + 16}px)`;
  }

  drawOver(overlay, camera) {
    overlay.tissue("#00946a");
    this.areas.draw(overlay);
    for (const { mark } of this.nucleusMarks) overlay.mark(mark.x, mark.y, mark.class_name === null ? null : this.app.colourOf(mark.class_name), mark.class_name === null);
    if (this.target) overlay.target(this.target.x, this.target.y, "#ffd23f");
    this.tool?.draw?.(overlay, camera);
    this.minimap.draw(camera);
    this.showMagnification(camera);
  }

  showMagnification(camera) {
    const mpp = this.slide.mpp && this.slide.mpp[0] / camera.scale;
    const state = this.stage.nuclei.state === "densities" ? " · densities; closer in, each nucleus" : "";
    const text = `${mpp ? `${+mpp.toPrecision(2)} µm/px · ${+(10 / mpp).toPrecision(2)}×` : `1 : ${+(1 / camera.scale).toPrecision(2)}`}${state}`;
    if (this.magnification.textContent !== text) this.magnification.textContent = text;
  }

  // --- moving, keys, the link ---

  useTool(name) {
    this.tool?.leave?.();
    this.tool = this.tools.find((one) => one.name === name);
    this.stage.tool = this.tool;
    this.tool.enter?.();
    this.tip.hidden = true;
    this.stage.front.style.cursor = this.tool.cursor;
    this.hint.textContent = name === "choose" ? "" : this.tool.hint;
    this.hint.hidden = name === "choose";
    for (const button of this.toolbar.children) button.setAttribute("aria-pressed", String(button.dataset.tool === name));
    this.stage.refresh();
  }

  zoom(factor) { this.stage.camera.zoom(factor); this.stage.moved(); }
  fit() { this.stage.camera.fit(); this.stage.moved(); }

  listen() {
    const { stage } = this;
    stage.addEventListener("pick", (event) => this.pick(event.detail));
    stage.addEventListener("hover", (event) => this.hover(event.detail));
    stage.addEventListener("leave", () => { this.tip.hidden = true; });
    stage.addEventListener("move", settled(() => this.keepLink(), 300));
    this.onKey = (event) => this.key(event);
    this.onMarks = () => this.takeMarks();
    this.onState = () => this.showLabels();
    this.onRun = (event) => this.takeVersion(event.detail.version);
    document.addEventListener("keydown", this.onKey);
    this.marks.addEventListener("change", this.onMarks);
    this.marks.addEventListener("state", this.onState);
    this.marks.addEventListener("run", this.onRun);
  }

  /** The slide was looked at again with another model. */
  async takeVersion(version) {
    if (!version || version === this.slide.version || this.closed) return;
    this.slide.version = version;
    const fresh = await ask("slide", { slide: this.slide.slide_id });
    Object.assign(this.slide, fresh);
    this.stage.nuclei.renew(fresh.version, fresh.classes);
    this.app.say("The nuclei were found again with the taught model.");
    this.showFacts();
    await this.loadSummary();
  }

  key(event) {
    if (isTyping(event.target) || event.altKey) return;
    const { key } = event, { camera } = this.stage, step = 0.2;
    if ((event.ctrlKey || event.metaKey) && key.toLowerCase() === "z") this.undo();
    else if (event.ctrlKey || event.metaKey) return;
    else if (this.tool.key?.(key)) this.stage.refresh();
    else if (key === "Escape") { if (this.target) this.showChosen(null); else this.useTool("choose"); }
    else if (key.startsWith("Arrow")) {
      const dx = { ArrowLeft: 1, ArrowRight: -1 }[key] ?? 0, dy = { ArrowUp: 1, ArrowDown: -1 }[key] ?? 0;
      const from = camera.goal ?? camera;
      camera.goTo({ scale: from.scale, x: from.x - dx * step * camera.width / camera.scale, y: from.y - dy * step * camera.height / camera.scale });
      this.stage.moved();
    } else if (key === "+" || key === "=") this.zoom(2);
    else if (key === "-") this.zoom(0.5);
    else if (key === "0") this.fit();
    else if (/^[1-9]$/.test(key)) this.classKey(Number(key) - 1);
    else if ((key === "Delete" || key === "Backspace") && this.target) this.label(this.target, null);
    else if (key === "u") this.undo();
    else if (key === "n") this.showNuclei(!this.stage.nuclei.shown);
    else if (key === "?") this.app.help();
    else {
      const tool = this.tools.find((one) => one.shortcut === key.toLowerCase());
      if (!tool) return;
      this.useTool(tool.name);
    }
    event.preventDefault();
  }

  applyView(view) {
    for (const name of view.hide?.split(",").filter(Boolean) ?? []) if (this.slide.classes.some((one) => one.name === name)) this.stage.nuclei.setShown(name, false);
    for (const name of ["score", "chance"]) if (view[name]) { this.stage.nuclei.setCut({ [name]: Number(view[name]) }); this[`${name}Slider`].set(view[name]); }
    const place = [Number(view.x), Number(view.y), Number(view.zoom)];
    const go = () => {
      if (place.every(Number.isFinite) && place[2] > 0) this.stage.camera.goTo({ x: place[0], y: place[1], scale: place[2] }, true);
      this.stage.moved();
    };
    this.stage.addEventListener("ready", go, { once: true });
    this.showClasses();
  }

  /** What the address says of the view, so that a link shows it again. */
  keepLink() {
    if (this.closed) return;
    const { camera, nuclei } = this.stage, hidden = nuclei.classes.filter((one) => !one.shown).map((one) => one.name);
    this.app.keep({
      slide: this.slide.slide_id, x: camera.x.toFixed(1), y: camera.y.toFixed(1), zoom: +camera.scale.toPrecision(4),
      hide: hidden.join(",") || null, score: nuclei.cut.score || null, chance: nuclei.cut.chance || null,
    });
  }

  changed() { this.stage.refresh(); this.keepLink(); }

  close() {
    this.closed = true;
    document.removeEventListener("keydown", this.onKey);
    this.marks.removeEventListener("change", this.onMarks);
    this.marks.removeEventListener("state", this.onState);
    this.marks.removeEventListener("run", this.onRun);
    this.teach.close();
    this.stage.close();
  }
}

/** A labelled bar of a share. */
export function bar(label, share, colour) {
  const fill = h("span", { class: "fill" });
  fill.style.width = `${100 * share}%`;
  fill.style.background = colour;
  return h("div", { class: "chance" }, h("span", { class: "name" }, label), h("span", { class: "track", role: "img", "aria-label": percent(share) }, fill), h("span", { class: "n" }, percent(share)));
}

