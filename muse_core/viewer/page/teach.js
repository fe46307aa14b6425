// Teaching: the button, how far it is, its curve, and what came of it.

import { send } from "./api.js";
import { count, h, percent, s } from "./dom.js";

export function teachPanel(app, slideId) {
  const element = h("div", { class: "teach" }), { marks } = app;
  const show = () => element.replaceChildren(...parts(app, slideId).filter(Boolean));
  marks.addEventListener("job", show);
  marks.addEventListener("change", show);
  show();
  return { element, close() { marks.removeEventListener("job", show); marks.removeEventListener("change", show); } };
}

function parts(app, slideId) {
  const { job } = app.marks, { progress } = job, running = job.state === "running";
  const n = app.marks.inForce().filter((entry) => entry.mark.kind === "nucleus" || entry.mark.whole).length;
  const start = async () => {
    try {
      await send("teach", { slide_ids: slideId ? [slideId] : [], steps: app.steps ?? null });
      await app.marks.exchange();
    } catch (error) { app.say(error.message); }
  };
  const steps = h("input", { type: "number", min: "1", max: "5000", value: String(app.steps ?? 200), "aria-label": "Steps of training", onchange: (event) => { app.steps = Number(event.target.value) || null; } });
  app.steps ??= 200;
  return [
    h("div", { class: "buttons" },
      h("button", { class: "main", disabled: running || !n, title: "Fine-tune the model in use on all labels, compare both on labels that were held back, take the better one", onclick: start }, running ? "Teaching…" : "Teach the model"),
      h("label", { class: "sub steps" }, steps, " steps")),
    running && h("p", { class: "sub", role: "status" }, doing(progress)),
    progress.losses?.length > 1 && curve(progress),
    job.state === "failed" && h("p", { class: "notice" }, job.message || "It failed."),
    progress.decision && h("p", { class: progress.decision.taken ? "notice good" : "notice" }, verdict(progress.decision)),
  ];
}

function doing({ state, step, steps }) {
  if (state === "training") return `Training: step ${count(step)} of ${count(steps)}.`;
  if (state === "comparing") return "Comparing old and new on the labels held back.";
  if (state === "inferring") return "Looking at the slide again.";
  return "Getting ready.";
}

function verdict({ taken, reason, candidate, in_use: before }) {
  const f1 = `mean class F1 ${candidate.mean_class_f1.toFixed(3)}${before ? `, before ${before.mean_class_f1.toFixed(3)}` : ""}, on ${count(candidate.n_labels)} labels held back`;
  return taken ? `Taken into use: ${f1}.` : `Not taken, the old model stays: ${f1}.`;
}

/** Loss over steps, as a line. */
function curve({ losses, steps }) {
  const width = 260, height = 64, top = Math.max(...losses.map(([, loss]) => loss)), low = Math.min(...losses.map(([, loss]) => loss));
  const points = losses.map(([step, loss]) => `${(step / steps * width).toFixed(1)},${(height - 4 - (loss - low) / Math.max(1e-9, top - low) * (height - 8)).toFixed(1)}`);
  return h("figure", { class: "curve" },
    s("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `Loss from ${losses[0][1].toFixed(2)} to ${losses.at(-1)[1].toFixed(2)}` }, s("polyline", { points: points.join(" ") })),
    h("figcaption", {}, `loss ${losses[0][1].toFixed(2)} → ${losses.at(-1)[1].toFixed(2)}, ${percent(losses.at(-1)[0] / steps)} of the steps`));
}
