// What people mark. A mark is shown at once, kept in this browser until the server says that it is on disk, and sent
// again when the server was away; its id keeps it from being counted twice. Marks of other browsers come by polling.

import { ask, send, Refused } from "./api.js";

const OUTBOX = "muse-outbox ";
const POLL_MS = 1500;

export class Marks extends EventTarget {
  constructor() {
    super();
    this.entries = []; // as the server keeps them
    this.outbox = []; // {id, mark}, not yet on disk
    this.mine = []; // ids of this page's marks, for undo
    this.slide = null; // polled with
    this.job = { state: "idle", progress: {} };
    this.online = true;
    this.problem = "";
  }

  /** Take up what a closed page of the same lab folder did not get rid of; ids keep it from being counted twice. */
  open(lab) {
    this.prefix = `${OUTBOX}${lab} `;
    this.own = this.prefix + Math.random().toString(36).slice(2);
    this.found = Object.keys(localStorage).filter((name) => name.startsWith(this.prefix));
    const marks = this.found.flatMap((name) => JSON.parse(localStorage.getItem(name) || "[]"));
    this.outbox = [...new Map(marks.map((one) => [one.id, one])).values()];
    this.keep();
  }

  start() {
    const poll = async () => {
      await this.exchange();
      setTimeout(poll, POLL_MS);
    };
    return poll();
  }

  get who() { return localStorage.getItem("muse-who") || this.user || "somebody"; }
  set who(name) { localStorage.setItem("muse-who", name.trim() || "somebody"); }

  /** Mark something; shown at once. */
  add(mark) {
    const id = crypto.randomUUID ? crypto.randomUUID() : `${Date.now()}-${Math.random().toString(36).slice(2)}`;
    this.outbox.push({ id, mark });
    this.mine.push(id);
    this.keep();
    this.dispatchEvent(new Event("change"));
    this.flush();
    return id;
  }

  /** Take back the last of this page's marks; what it was, or null. */
  undo() {
    while (this.mine.length) {
      const id = this.mine.pop();
      const waiting = this.outbox.findIndex((one) => one.id === id);
      if (waiting >= 0 && !this.sending) {
        const [gone] = this.outbox.splice(waiting, 1);
        this.keep();
        this.dispatchEvent(new Event("change"));
        return gone.mark;
      }
      const entry = this.entries.find((one) => one.id === id);
      if (entry && entry.mark.kind !== "undo") {
        this.takeBack(entry);
        return entry.mark;
      }
    }
    return null;
  }

  takeBack(entry) {
    this.add({ kind: "undo", slide_id: entry.mark.slide_id, of: entry.n });
    this.mine.pop();
  }

  /** Entries in force of a slide, or of all; marks not yet on disk come last, without a number. */
  inForce(slideId = null) {
    const all = [...this.entries, ...this.outbox.map(({ id, mark }) => ({ id, mark, n: Infinity, who: this.who }))];
    const gone = new Set();
    for (const entry of all.toReversed()) if (entry.mark.kind === "undo" && !gone.has(entry.n)) gone.add(entry.mark.of);
    return all.filter((entry) => entry.mark.kind !== "undo" && !gone.has(entry.n) && (slideId === null || entry.mark.slide_id === slideId));
  }

  async flush() {
    if (this.sending || !this.outbox.length) return;
    this.sending = true;
    const batch = this.outbox.slice(0, this.oneByOne ? 1 : 500);
    try {
      await send("marks", { who: this.who, marks: batch });
      await this.fetch();
      if (!this.oneByOne) this.problem = "";
      if (!this.outbox.length) this.oneByOne = false;
    } catch (error) {
      if (!(error instanceof Refused)) this.online = false;
      else this.refused(error, batch);
      this.dispatchEvent(new Event("state"));
      return;
    } finally {
      this.sending = false;
    }
    if (this.outbox.length) this.flush();
  }

  /** The server said no: of many marks it is found out which one it was, and that one is given up with a word. */
  refused(error, batch) {
    this.problem = `A mark is not kept: ${error.message}`;
    if (batch.length === 1 && ["config_invalid", "not_found"].includes(error.reason)) {
      this.outbox = this.outbox.filter((one) => one.id !== batch[0].id);
      this.keep();
      this.dispatchEvent(new Event("change"));
    }
    this.oneByOne = true;
  }

  async exchange() {
    try {
      await this.fetch();
      if (!this.online) { this.online = true; this.dispatchEvent(new Event("state")); }
      await this.flush();
    } catch (error) {
      if (!(error instanceof Refused) && this.online) { this.online = false; this.dispatchEvent(new Event("state")); }
    }
  }

  async fetch() {
    const told = await ask("changes", { after: this.entries.length, slide: this.slide });
    const fresh = told.entries.filter((entry) => entry.n > this.entries.length);
    const known = new Set(fresh.map((entry) => entry.id));
    const before = this.outbox.length;
    this.entries.push(...fresh);
    this.outbox = this.outbox.filter((one) => !known.has(one.id));
    this.keep();
    if (fresh.length || before !== this.outbox.length) this.dispatchEvent(new Event("change"));
    if (JSON.stringify(told.job) !== JSON.stringify(this.job)) {
      this.job = told.job;
      this.dispatchEvent(new Event("job"));
    }
    this.run = told;
    this.dispatchEvent(new CustomEvent("run", { detail: told }));
  }

  keep() {
    if (this.outbox.length) localStorage.setItem(this.own, JSON.stringify(this.outbox));
    else for (const name of [this.own, ...this.found.splice(0)]) localStorage.removeItem(name);
  }
}
