/** Requests of the page, by every script on it, with a feed of what was sent. */

const feed = document.querySelector("#feed");
const MOST_LINES = 40;
const send = window.fetch;
let quiet = 0;

/** Runs `work` without its requests in the feed: a crowd would fill it. */
export async function quietly(work) {
  quiet += 1;
  try {
    return await work();
  } finally {
    quiet -= 1;
  }
}

// `client.js` uses the page's fetch, so its requests are shown too.
window.fetch = async (address, options = {}) => {
  const began = performance.now();
  const shown = !quiet && options.method === "POST" && !/explain|agent/.test(address);
  const answer = await send(address, options);
  if (shown) note(String(address), options.body, answer.status, performance.now() - began);
  return answer;
};

/** The answer to a request, decoded; throws with the problem's own words. */
export async function ask(path, body, method = body === undefined ? "GET" : "POST") {
  const headers = { accept: "application/json", ...(body !== undefined && { "content-type": "application/json" }) };
  const answer = await fetch(path, { method, headers, body: body === undefined ? undefined : JSON.stringify(body) });
  const reply = await answer.json();
  if (!answer.ok) throw Object.assign(new Error(reply.detail), { status: answer.status });
  return reply;
}

/** Sends events; each gets a message id. */
export function sendEvents(...events) {
  const batch = events.map((event) => ({ type: "track", message_id: crypto.randomUUID(), ...event }));
  return ask("/v1/events", { batch });
}

function note(address, body, status, ms) {
  const line = document.createElement("li");
  const details = document.createElement("details");
  const summary = document.createElement("summary");
  const path = address.replace(location.origin, "");
  for (const [name, text] of [["b", path], ["span", summarize(path, body)], ["i", `${status} · ${ms.toFixed(0)} ms`]]) {
    summary.append(Object.assign(document.createElement(name), { textContent: text }));
  }
  const json = Object.assign(document.createElement("pre"), { textContent: pretty(body) });
  details.append(summary, json);
  line.append(details);
  feed.prepend(line);
  while (feed.childElementCount > MOST_LINES) feed.lastElementChild.remove();
}

function pretty(body) {
  try {
    return JSON.stringify(JSON.parse(body), null, 1);
  } catch {
    return String(body ?? "");
  }
}

function summarize(path, body) {
  const sent = JSON.parse(body || "{}");
  if (path.endsWith("/decide")) return `${sent.channel}: ${[sent.placements ?? [], sent.experiments ?? []].flat().join(", ")}`;
  if (path.endsWith("/events")) return sent.batch.map((one) => one.event ?? one.type).join(", ");
  if (path.endsWith("/exposures")) return `seen: ${[...(sent.placements ?? []), ...(sent.experiments ?? [])].join(", ")}`;
  return "";
}
