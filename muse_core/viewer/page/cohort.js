// All slides as cards: picture, counts, doubt, notes and failures; sort, filter, choose, CSV.

import { address, ask } from "./api.js";
import { count, download, h, percent, stacked, swatch, words } from "./dom.js";
import { teachPanel } from "./teach.js";

const SORTS = {
  name: ["Name", (one) => one.slide_id],
  nuclei: ["Most nuclei", (one) => -(one.n_nuclei ?? -1)],
  density: ["Densest", (one) => -(one.tissue_mm2 ? one.n_nuclei / one.tissue_mm2 : -1)],
  tissue: ["Most tissue", (one) => -(one.tissue_mm2 ?? -1)],
  doubt: ["Most doubt", (one, summary) => -(one.unlike ?? summary?.doubt ?? -1)],
  notes: ["Notes first", (one, summary) => -(summary?.notes.filter((note) => note.kind === "look").length ?? -1)],
  labels: ["Most labels", (one) => -one.n_labels],
};

export class CohortPage {
  constructor(app, view) {
    this.app = app;
    this.chosen = new Set();
    this.cards = new Map();
    this.sort = view.sort in SORTS ? view.sort : "name";
    this.text = view.find ?? ""; this.status = view.status ?? "all";
    this.build();
    this.show();
    this.observer = new IntersectionObserver((seen) => seen.filter((one) => one.isIntersecting).forEach(({ target }) => this.want(target.dataset.slide)), { rootMargin: "300px" });
    this.queue = [];
    this.onRun = (event) => this.takeRun(event.detail);
    app.marks.addEventListener("run", this.onRun);
    this.watch();
  }

  build() {
    const option = (value, text, now) => h("option", { value, selected: value === now }, text);
    this.find = h("input", { type: "search", placeholder: "Find a slide, case or project", value: this.text, "aria-label": "Find", oninput: (event) => { this.text = event.target.value; this.show(); } });
    this.grid = h("div", { class: "cards", role: "list" });
    this.figures = h("dl", { class: "figures" });
    this.csv = h("button", { onclick: () => this.save() }, "CSV");
    this.teach = teachPanel(this.app, null);
    this.element = h("div", { class: "cohort-page" },
      h("div", { class: "head" }, h("div", {}, h("h1", {}, this.app.run.name), h("p", { class: "sub" }, this.app.run.source)), this.figures),
      this.legend = h("ul", { class: "legend" }),
      h("div", { class: "filters" }, this.find,
        h("label", {}, "Sort ", h("select", { onchange: (event) => { this.sort = event.target.value; this.show(); } }, Object.entries(SORTS).map(([name, [text]]) => option(name, text, this.sort)))),
        h("label", {}, "Show ", h("select", { onchange: (event) => { this.status = event.target.value; this.show(); } }, [["all", "all"], ["done", "with nuclei"], ["failed", "failed or skipped"], ["look", "with notes"], ["labels", "with labels"]].map(([value, text]) => option(value, text, this.status)))),
        h("span", { class: "grow" }), this.csv,
        h("button", { onclick: () => this.app.go({ ask: "doubtful" }) }, "Ask me about doubtful nuclei"),
        h("button", { onclick: () => this.app.go({ ask: "typical" }) }, "Typical ones")),
      this.grid, h("section", { class: "teach-all" }, h("h2", {}, "Teach the model"), h("p", { class: "sub" }, "On all labels of this lab folder; what is better on labels held back is taken into use."), this.teach.element));
  }

  summaryOf(one) { return this.app.summaries.get(one.slide_id + one.version); }

  visible() {
    const wanted = this.text.trim().toLowerCase(), [, by] = SORTS[this.sort];
    const fits = (one) => {
      if (wanted && ![one.slide_id, one.case_id, one.project].some((text) => text?.toLowerCase().includes(wanted))) return false;
      if (this.status === "done") return one.has_nuclei;
      if (this.status === "failed") return !one.has_nuclei;
      if (this.status === "labels") return one.n_labels > 0;
      if (this.status === "look") return this.summaryOf(one)?.notes.some((note) => note.kind === "look");
      return true;
    };
    const order = (one, other) => (one < other ? -1 : one > other ? 1 : 0);
    return this.app.run.slides.filter(fits).sort((one, other) => order(by(one, this.summaryOf(one)), by(other, this.summaryOf(other))) || order(one.slide_id, other.slide_id));
  }

  show() {
    const { run } = this.app, done = run.slides.filter((one) => one.has_nuclei);
    const figure = (name, value) => h("div", {}, h("dt", {}, name), h("dd", {}, value));
    const sum = (field) => done.reduce((total, one) => total + (one[field] ?? 0), 0);
    this.figures.replaceChildren(...[
      figure("slides", count(run.slides.length)), figure("nuclei", count(sum("n_nuclei"))), figure("mm² tissue", count(+sum("tissue_mm2").toFixed(1))),
      run.slides.length > done.length && figure("without nuclei", count(run.slides.length - done.length)),
      run.is_being_written && figure("state", "being written"),
    ].filter(Boolean));
    this.legend.replaceChildren(...run.classes.map(({ name, colour }) => h("li", {}, swatch(colour), words(name))));
    const shown = this.visible();
    for (const one of shown) {
      const known = this.cards.get(one.slide_id);
      if (!known || known.version !== one.version + one.n_labels) this.cards.set(one.slide_id, { version: one.version + one.n_labels, ...this.card(one) });
    }
    this.grid.replaceChildren(...shown.map((one) => this.cards.get(one.slide_id).element));
    if (!shown.length) this.grid.append(h("p", { class: "sub" }, run.slides.length ? "No slide fits." : "No slide is finished yet; they appear here as they are."));
    this.csv.textContent = this.chosen.size ? `CSV of ${this.chosen.size} chosen` : `CSV of ${shown.length} shown`;
    if (this.observer) this.watch();
  }

  watch() {
    this.observer.disconnect();
    for (const element of this.grid.children) if (element.dataset.slide) this.observer.observe(element);
  }

  card(one) {
    const link = this.app.linkTo({ slide: one.slide_id });
    const picture = h("a", { class: "thumb", href: link, tabindex: "-1", "aria-hidden": "true" });
    const figures = h("div", { class: "card-figures" }), notes = h("ul", { class: "notes" });
    const box = h("input", { type: "checkbox", checked: this.chosen.has(one.slide_id), "aria-label": `Choose ${one.slide_id}`, onchange: (event) => { event.target.checked ? this.chosen.add(one.slide_id) : this.chosen.delete(one.slide_id); this.show(); } });
    const where = [one.case_id !== one.slide_id && one.case_id, one.project !== "unknown" && one.project].filter(Boolean).join(" · ");
    const element = h("div", { class: `card ${one.has_nuclei ? "" : "without"}`, role: "listitem", "data-slide": one.slide_id }, picture,
      h("div", { class: "card-body" }, h("div", { class: "row" }, h("a", { class: "card-name", href: link }, one.slide_id), h("span", { class: "grow" }), box), where && h("p", { class: "sub" }, where), figures, notes));
    if (!one.has_nuclei) {
      notes.append(h("li", { class: "look" }, h("span", { class: "mark", "aria-hidden": "true" }, "!"), `${words(one.reason || one.status || "not finished")}: ${one.message || "no nuclei"}`));
    } else {
      if (one.reason) notes.append(h("li", { class: "look" }, h("span", { class: "mark", "aria-hidden": "true" }, "!"), `${words(one.reason)}: ${one.message || "nuclei of an earlier time"}`));
      const line = [`${count(one.n_nuclei)} nuclei`, one.tissue_mm2 && `${+one.tissue_mm2.toPrecision(3)} mm²`, one.n_labels && `${count(one.n_labels)} labels`];
      figures.append(h("p", {}, line.filter(Boolean).join(" · ")));
    }
    return { element, picture, figures, notes };
  }

  want(slideId) {
    const one = this.app.run.slides.find((slide) => slide.slide_id === slideId), card = this.cards.get(slideId);
    if (!one || card.wanted) return;
    card.wanted = true;
    this.queue.push([one, card]);
    this.work();
  }

  /** One card after the other: a summary may take the server a second. */
  async work() {
    if (this.working) return;
    this.working = true;
    while (this.queue.length && !this.closed) {
      const [one, card] = this.queue.shift();
      const image = h("img", { alt: "", loading: "lazy", src: address("thumbnail", { slide: one.slide_id }) });
      image.addEventListener("error", () => image.replaceWith(h("span", { class: "no-picture" }, "no picture")));
      card.picture.replaceChildren(image);
      if (!one.has_nuclei) continue;
      try {
        const key = one.slide_id + one.version;
        if (!this.app.summaries.has(key)) this.app.summaries.set(key, await ask("summary", { slide: one.slide_id }));
        this.fill(card, this.app.summaries.get(key), one.tissue_mm2);
      } catch (error) {
        card.notes.append(h("li", { class: "look" }, h("span", { class: "mark", "aria-hidden": "true" }, "!"), error.message));
      }
    }
    this.working = false;
    if (!this.closed && ["doubt", "notes"].includes(this.sort)) this.show();
  }

  fill(card, { counts, in_tissue: inTissue, doubt, notes }, mm2) {
    const sum = (numbers) => Object.values(numbers).reduce((total, one) => total + one, 0), total = sum(counts) || 1;
    if (mm2) card.figures.append(h("p", { class: "sub" }, `${count(Math.round(sum(inTissue) / mm2))} per mm² of tissue`)); // as the report has it
    card.figures.append(stacked(Object.entries(counts).map(([name, n]) => [name, this.app.colourOf(name), n / total]), Object.entries(counts).map(([name, n]) => `${words(name)} ${percent(n / total)}`).join(", ")));
    if (doubt !== null) card.figures.append(h("p", { class: "sub" }, `nuclei of doubtful class: ${percent(doubt)}`));
    card.notes.append(...notes.filter((note) => note.kind === "look").map(({ text }) => h("li", { class: "look" }, h("span", { class: "mark", "aria-hidden": "true" }, "!"), text)));
  }

  async takeRun({ is_being_written: writing, n_slides: n }) {
    const { run } = this.app;
    if (n === run.slides.length && !writing && !run.is_being_written) return;
    if (performance.now() - (this.lastLook ?? 0) < 4000) return;
    this.lastLook = performance.now();
    await this.app.loadRun();
    if (!this.closed) this.show();
  }

  save() {
    const rows = this.chosen.size ? this.app.run.slides.filter((one) => this.chosen.has(one.slide_id)) : this.visible();
    const names = this.app.run.classes.map((one) => one.name);
    const head = ["slide_id", "case_id", "project", "status", "reason", "n_nuclei", "tissue_mm2", "n_labels", "doubt", ...names.map((name) => `n_${name}`)];
    const lines = rows.map((one) => {
      const summary = this.summaryOf(one);
      return [one.slide_id, one.case_id, one.project, one.status, one.reason, one.n_nuclei, one.tissue_mm2, one.n_labels, summary?.doubt, ...names.map((name) => summary?.counts[name])].map(quoted).join(",");
    });
    download("slides.csv", [head.map(quoted).join(","), ...lines].join("\n") + "\n", "text/csv");
  }

  close() {
    this.closed = true;
    this.observer.disconnect();
    this.teach.close();
    this.app.marks.removeEventListener("run", this.onRun);
  }
}

/** A CSV cell; what a spreadsheet would take for a formula begins with an apostrophe. */
function quoted(value) {
  let text = String(value ?? "");
  if (typeof value === "string" && /^[=+\-@\t\r]/.test(text)) text = `'${text}`;
  return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}
