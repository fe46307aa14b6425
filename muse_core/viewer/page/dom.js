// Small helpers: elements are made by calls, text goes in as text, so that no name from a file is ever read as HTML.

/** An element: properties that begin with `on` are listeners, `class` and attributes are set as they are. */
export function h(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name in element && typeof value !== "string") element[name] = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

const SVG = "http://www.w3.org/2000/svg";

/** An SVG element. */
export function s(tag, attributes = {}, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children.flat());
  return element;
}

const NUMBERS = new Intl.NumberFormat("en");

export const count = (value) => (value === null || value === undefined ? "–" : NUMBERS.format(value));
export const percent = (share) => `${(100 * share).toFixed(share < 0.0995 ? 1 : 0)} %`;
export const words = (name) => name.replaceAll("_", " ");

/** A length in µm or mm. */
export function length(um) {
  if (um >= 1000) return `${+(um / 1000).toPrecision(3)} mm`;
  return `${+um.toPrecision(3)} µm`;
}

/** An area in µm² or mm². */
export function area(um2) {
  return um2 >= 1e4 ? `${+(um2 / 1e6).toPrecision(3)} mm²` : `${Math.round(um2)} µm²`;
}

/** A coloured square for a class. */
export const swatch = (colour) => s("svg", { class: "swatch", viewBox: "0 0 10 10", "aria-hidden": "true" },
  s("rect", { width: 10, height: 10, rx: 2, fill: colour }));

/** A bar of parts, each [name, colour, share 0..1]. */
export function stacked(parts, label) {
  let left = 0;
  const rects = parts.map(([name, colour, share]) => {
    const rect = s("rect", { x: 100 * left, y: 0, width: Math.max(0, 100 * share), height: 10, fill: colour },
      s("title", {}, `${words(name)}: ${percent(share)}`));
    left += share;
    return rect;
  });
  return s("svg", { class: "stacked", viewBox: "0 0 100 10", preserveAspectRatio: "none", role: "img", "aria-label": label }, rects);
}

/** "#rrggbb" as [r, g, b], 0..255. */
export const rgb = (colour) => [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16));

/** A file for the person at the browser. */
export function download(name, text, type) {
  const url = URL.createObjectURL(new Blob([text], { type }));
  h("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10000);
}

/** The function, called once calls have paused for some ms. */
export function settled(act, ms) {
  let timer = 0;
  return (...values) => { clearTimeout(timer); timer = setTimeout(() => act(...values), ms); };
}

/** Whether keys are for the element: text, sliders, lists and dialogs take them, boxes to tick do not. */
export const isTyping = (element) => Boolean(element.closest("input:not([type='checkbox']), textarea, select, dialog"));
