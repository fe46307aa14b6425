// The page's start: which view the address asks for, what all views share, and the bar above them.

import { ask } from "./api.js";
import { CohortPage } from "./cohort.js";
import { h } from "./dom.js";
import { GamePage } from "./game.js";
import { Marks } from "./marks.js";
import { SlidePage } from "./slide.js";

const KEYS = [
  ["Wheel, pinch, + −", "closer, farther"], ["Drag, arrows", "move"], ["0", "the whole slide"], ["Click", "choose a nucleus"],
  ["1 … 9", "its class"], ["Delete", "it is no nucleus"], ["U, Ctrl Z", "take back"], ["A", "add a nucleus"], ["M", "measure"],
  ["R", "draw a region"], ["T", "edit the tissue"], ["N", "nuclei on, off"], ["V, Esc", "choose again"], ["?", "these keys"],
];

class App {
  constructor() {
    this.main = document.getElementById("main");
    this.status = document.getElementById("status");
    this.crumbs = document.getElementById("crumbs");
    this.marks = new Marks();
    this.summaries = new Map();
    this.extra = []; // classes that people named and no model knows
  }

  async start() {
    this.theme(localStorage.getItem("muse-theme"));
    document.getElementById("theme").addEventListener("click", () => this.theme(isDark() ? "light" : "dark"));
    await this.loadRun();
    this.marks.open(this.run.lab);
    const who = document.getElementById("who");
    this.marks.user = this.run.who;
    who.value = this.marks.who;
    who.addEventListener("change", () => { this.marks.who = who.value; });
    this.marks.addEventListener("state", () => this.showState());
    this.marks.addEventListener("change", () => this.showState());
    window.addEventListener("hashchange", () => this.route());
    await this.route();
    this.marks.start();
  }

  async loadRun() { this.run = await ask("run"); }

  classes() {
    const known = new Set(this.run.classes.map((one) => one.name));
    for (const { mark } of this.marks.inForce()) if (mark.kind === "nucleus" && mark.class_name !== null && !known.has(mark.class_name)) this.classNamed(mark.class_name);
    return [...this.run.classes, ...this.extra];
  }

  classNamed(name) {
    if (![...this.run.classes, ...this.extra].some((one) => one.name === name)) this.extra.push({ name, colour: this.run.spare_colours[this.extra.length % this.run.spare_colours.length] });
  }

  colourOf(name) {
    this.classNamed(name);
    return [...this.run.classes, ...this.extra].find((one) => one.name === name).colour;
  }

  // --- addresses: everything after # ---

  linkTo(view) { return `#${new URLSearchParams(Object.entries(view).filter(([, value]) => value !== null && value !== undefined))}`; }
  go(view) { location.hash = this.linkTo(view); }
  keep(view) { this.kept = this.linkTo(view); history.replaceState(null, "", this.kept); }

  async route() {
    if (this.kept === location.hash && this.page) return;
    this.kept = null;
    const view = Object.fromEntries(new URLSearchParams(location.hash.slice(1)));
    this.page?.close();
    this.page = null;
    this.marks.slide = view.ask ? null : view.slide ?? null;
    document.body.classList.toggle("on-slide", Boolean(view.slide && !view.ask));
    try {
      if (view.ask) this.page = new GamePage(this, view);
      else if (view.slide) this.page = new SlidePage(this, await ask("slide", { slide: view.slide }), view);
      else { await this.loadRun(); this.page = new CohortPage(this, view); }
      this.main.replaceChildren(this.page.element);
    } catch (error) {
      this.marks.slide = null;
      this.main.replaceChildren(h("div", { class: "wrong" }, h("p", { class: "notice" }, error.message), h("a", { href: "#" }, "All slides")));
    }
    this.showCrumbs(view);
    window.muse = this; // for tests and the curious
  }

  showCrumbs(view) {
    const parts = [h("a", { href: "#" }, this.run.name)];
    if (view.slide) parts.push(h("a", { href: this.linkTo({ slide: view.slide }) }, view.slide));
    if (view.ask) parts.push(h("span", {}, "ask me"));
    this.crumbs.replaceChildren(...parts.flatMap((part, at) => (at ? [" / ", part] : [part])));
    document.title = [view.slide, this.run.name, "muse view"].filter(Boolean).join(" · ");
  }

  // --- the bar ---

  theme(name) {
    if (name) { document.documentElement.dataset.theme = name; localStorage.setItem("muse-theme", name); }
    if (this.page?.stage) { this.page.stage.background = null; this.page.stage.refresh(); }
  }

  showState() {
    const { online, problem, outbox } = this.marks;
    const text = problem || (online ? "" : `The server does not answer; ${outbox.length ? `${outbox.length} marks are kept in this browser` : "start muse view again"}, this page goes on by itself.`);
    if (text || this.said === "state") { this.status.textContent = text; this.said = text ? "state" : ""; }
    this.status.classList.toggle("warn", Boolean(text));
  }

  /** A word to the person, gone after a while. */
  say(text) {
    this.status.textContent = text;
    this.said = "word";
    clearTimeout(this.saying);
    this.saying = setTimeout(() => { if (this.said === "word") this.status.textContent = ""; }, 6000);
  }

  help() {
    const dialog = h("dialog", { class: "help", "aria-label": "Keys" }, h("h2", {}, "Keys"), h("dl", {}, KEYS.map(([key, what]) => [h("dt", {}, key), h("dd", {}, what)]).flat()), h("button", { onclick: () => dialog.close() }, "Close"));
    dialog.addEventListener("close", () => dialog.remove());
    document.body.append(dialog);
    dialog.showModal();
  }
}

const isDark = () => (document.documentElement.dataset.theme ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";

new App().start().catch((error) => {
  document.getElementById("main").replaceChildren(h("p", { class: "notice" }, error.message));
});
