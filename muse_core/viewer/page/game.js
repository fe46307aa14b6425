// The game: one nucleus after the other, a key each. Yes, no nucleus, another class; back takes the last answer back.

import { address, ask } from "./api.js";
import { count, h, isTyping, swatch, words } from "./dom.js";
import { bar } from "./slide.js";

const KINDS = { doubtful: "doubtful nuclei", typical: "typical nuclei", alike: "nuclei like the one corrected" };
const FEW = 8; // with fewer left, more are fetched

export class GamePage {
  constructor(app, view) {
    this.app = app; this.view = view;
    this.kind = view.ask in KINDS ? view.ask : "doubtful";
    this.waiting = []; this.asked = []; this.seen = new Set();
    this.build();
    this.onKey = (event) => this.key(event);
    document.addEventListener("keydown", this.onKey);
    this.more().then(() => this.show());
  }

  build() {
    const where = this.view.slide ? ` of ${this.view.slide}` : "";
    const kinds = Object.entries(KINDS).filter(([kind]) => kind !== "alike" || this.kind === "alike");
    this.picture = h("div", { class: "game-picture" });
    this.facts = h("div", { class: "game-facts" });
    this.answers = h("div", { class: "game-answers", role: "group", "aria-label": "What is it?" });
    this.strip = h("ol", { class: "strip", "aria-label": "Answers" });
    this.tally = h("p", { class: "sub", role: "status" });
    this.element = h("div", { class: "game-page" },
      h("div", { class: "row wrap" }, h("h1", {}, `What is it? ${KINDS[this.kind][0].toUpperCase()}${KINDS[this.kind].slice(1)}${where}`), h("span", { class: "grow" }),
        h("label", {}, "Ask about ", h("select", { onchange: (event) => this.app.go({ ...this.view, ask: event.target.value }) }, kinds.map(([kind, text]) => h("option", { value: kind, selected: kind === this.kind }, text)))),
        h("label", {}, "of ", h("select", { onchange: (event) => this.app.go({ ...this.view, class: event.target.value || null }) }, h("option", { value: "" }, "all classes"), this.app.classes().map(({ name }) => h("option", { value: name, selected: name === this.view.class }, words(name)))))),
      h("div", { class: "game" }, this.picture, h("div", { class: "game-side" }, this.facts, this.answers, this.tally,
        h("p", { class: "sub" }, h("kbd", {}, "Enter"), " as the model says · ", h("kbd", {}, "1"), "…", h("kbd", {}, "9"), " its class · ", h("kbd", {}, "0"), " no nucleus · ", h("kbd", {}, "Space"), " not sure · ", h("kbd", {}, "←"), " back"))),
      this.strip);
  }

  async more() {
    if (this.fetching || this.isOver) return;
    this.fetching = true;
    try {
      const n = 40, { slide, x, y, class: className } = this.view;
      const found = this.kind === "alike" ? await ask("alike", { slide, x, y, n }) : await ask("ask", { kind: this.kind, slide, class: className, n });
      const fresh = found.filter((one) => !this.seen.has(`${one.slide_id}/${one.nucleus_id}`));
      fresh.forEach((one) => this.seen.add(`${one.slide_id}/${one.nucleus_id}`));
      this.waiting.push(...fresh);
      if (!fresh.length) this.isOver = true;
      for (const one of fresh.slice(0, 6)) new Image().src = this.crop(one);
    } catch (error) {
      this.app.say(error.message);
      this.isOver = true;
    }
    this.fetching = false;
  }

  crop(one) { return address("crop", { slide: one.slide_id, x: one.x, y: one.y, um: 48 }); }

  show() {
    const one = this.waiting[0];
    if (!one) {
      this.picture.replaceChildren(h("p", { class: "sub" }, this.isOver ? "None left to ask about. Teach the model, or ask about the other kind." : "Looking for nuclei…"));
      this.facts.replaceChildren(); this.answers.replaceChildren();
      if (!this.isOver) this.more().then(() => this.show());
      return this.showTally();
    }
    const image = h("img", { alt: `A nucleus of ${one.slide_id}`, src: this.crop(one) });
    image.addEventListener("error", () => image.replaceWith(h("p", { class: "sub" }, "no picture of it")));
    this.picture.replaceChildren(image, h("span", { class: "cross", "aria-hidden": "true" }));
    if (this.waiting[1]) new Image().src = this.crop(this.waiting[1]);
    const suggested = this.kind === "alike" && this.view.class ? this.view.class : one.class_name;
    this.suggested = suggested;
    this.facts.replaceChildren(h("p", { class: "sub" }, h("a", { href: this.app.linkTo({ slide: one.slide_id, x: one.x.toFixed(1), y: one.y.toFixed(1), zoom: 2 }) }, one.slide_id), ` · score ${one.score.toFixed(2)}`),
      ...Object.entries(one.chances).map(([name, share]) => bar(words(name), share, this.app.colourOf(name))));
    this.answers.replaceChildren(
      h("button", { class: "main", onclick: () => this.answer(suggested) }, "Yes: ", words(suggested), h("kbd", {}, "Enter")),
      ...this.app.classes().map(({ name, colour }, number) => h("button", { onclick: () => this.answer(name) }, swatch(colour), words(name), h("kbd", {}, String(number + 1)))),
      h("button", { onclick: () => this.answer(null) }, "no nucleus", h("kbd", {}, "0")),
      h("button", { onclick: () => this.skip() }, "not sure", h("kbd", {}, "Space")));
    this.showTally();
  }

  showTally() {
    const answered = this.asked.filter((one) => one.answer !== undefined), changed = answered.filter((one) => one.answer !== one.class_name);
    this.tally.textContent = `${count(answered.length)} answered, ${count(changed.length)} otherwise than the model`;
    this.strip.replaceChildren(...this.asked.slice(-14).reverse().map((one) => {
      const colour = one.answer ? this.app.colourOf(one.answer) : "#888888", item = h("li", { title: one.answer === undefined ? "not sure" : words(one.answer ?? "no nucleus") }, h("img", { alt: "", src: this.crop(one) }));
      item.style.borderColor = colour;
      return item;
    }));
  }

  answer(className) {
    const one = this.waiting.shift();
    if (!one) return;
    this.app.marks.add({ kind: "nucleus", slide_id: one.slide_id, x: one.x, y: one.y, class_name: className, was: one.class_name });
    this.asked.push({ ...one, answer: className });
    this.next();
  }

  skip() {
    const one = this.waiting.shift();
    if (one) this.asked.push(one);
    this.next();
  }

  next() {
    if (this.waiting.length < FEW) this.more();
    this.show();
  }

  back() {
    const one = this.asked.pop();
    if (!one) return;
    if (one.answer !== undefined) this.app.marks.undo();
    delete one.answer;
    this.waiting.unshift(one);
    this.show();
  }

  key(event) {
    if (isTyping(event.target) || event.ctrlKey || event.metaKey || event.altKey) return;
    const { key } = event, onButton = event.target.closest("button, a");
    if (key === "Enter" && !onButton) this.answer(this.suggested);
    else if (/^[1-9]$/.test(key)) { const one = this.app.classes()[Number(key) - 1]; if (one) this.answer(one.name); }
    else if (key === "0" || key === "Delete") this.answer(null);
    else if (key === " " && !onButton) this.skip();
    else if (key === "ArrowLeft" || key === "u") this.back();
    else if (key === "?") this.app.help();
    else return;
    event.preventDefault();
  }

  close() { document.removeEventListener("keydown", this.onKey); }
}
