// Talking to the server. Addresses are relative: the token is in the page's own path.

/** What went wrong, as the server says it. */
export class Refused extends Error {
  constructor(message, reason) { super(message); this.reason = reason; }
}

const query = (values) => new URLSearchParams(Object.entries(values).filter(([, value]) => value !== undefined && value !== null)).toString();

export const address = (path, values = {}) => `api/${path}?${query(values)}`;

async function checked(response) {
  if (response.ok) return response;
  let told = {};
  try { told = await response.json(); } catch { /* no JSON: the status must do */ }
  throw new Refused(told.error || `${response.status} ${response.statusText}`, told.reason || "");
}

export async function ask(path, values = {}, signal = undefined) {
  return (await checked(await fetch(address(path, values), { signal }))).json();
}

export async function bytes(path, values = {}, signal = undefined) {
  return (await checked(await fetch(address(path, values), { signal }))).arrayBuffer();
}

export async function bitmap(path, values = {}, signal = undefined) {
  const response = await checked(await fetch(address(path, values), { signal }));
  return createImageBitmap(await response.blob());
}

export async function send(path, body) {
  const headers = { "content-type": "application/json" };
  return (await checked(await fetch(address(path), { method: "POST", headers, body: JSON.stringify(body) }))).json();
}
