/**
 * Counterpoint for the pages of a shop: decide, show, and report what visitors saw and did. Types: client.d.ts.
 *
 * 1. `decide` always answers, with the fallback after `timeout` ms at the latest; it never throws.
 * 2. Seen is what was half in view for a second of a visible page, or was clicked.
 * 3. What is tracked stays stored until the server has taken it. Sent twice, it counts once.
 * 4. Without consent nothing is stored and nothing is reported.
 * 5. Offers are written as text and their links are checked. There is no inline style or script.
 */

const ID = "counterpoint.id";
const QUEUE = "counterpoint.queue.";
const SEEN_MS = 1000;
const FLUSH_MS = 400;
const BATCH = 50;
const MOST_WAITING = 1000;
const BEACON_BYTES = 60_000; // a page that leaves may send 64 kB
const STEPS = [0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1];
const RETRYABLE = [408, 425, 429, 500, 502, 503, 504];

export class Decision {
  constructor(answer) {
    const empty = { decision_id: "", customer: "", degraded: true, ttl: 0, experiments: {}, offers: {}, resume: {} };
    Object.assign(this, empty, answer);
    const { offers } = this;
    for (const name in offers) offers[name].items?.forEach((item, at) => (offers[`${name}[${at + 1}]`] = item));
  }

  variant(experiment, fallback) {
    return this.experiments[experiment]?.variant ?? fallback;
  }

  payload(experiment, fallback) {
    return this.experiments[experiment]?.payload ?? fallback;
  }

  /** The rendering of a placement's offer: empty if nothing is to be shown, `fallback` if there is no answer. */
  rendering(placement, fallback) {
    return this.offers[placement]?.rendering ?? fallback;
  }
}

export class Counterpoint {
  #url;
  #key;
  #proof;
  #preview = /counterpoint_preview=([^&]+)/.exec(location.search)?.[1];
  #consented;
  #fixedId;
  #ids;
  #queue = [];
  #slot = QUEUE + newId();
  #timer = 0;
  #failures = 0;
  #flushing = null;
  #owners = new WeakMap(); // decision -> the identifiers it was asked with, and what of it was reported as seen
  #shown = new Map(); // element -> what it shows, and the timer while it is in view
  #observer = null;

  constructor({ url = "", channel = "web", key, proof, timeout = 180, consent = true, anonymousId, userId } = {}) {
    this.#url = url.replace(/\/+$/, "");
    this.channel = channel;
    this.timeout = timeout;
    this.#key = key;
    this.#proof = proof;
    this.#consented = consent;
    this.#fixedId = anonymousId;
    this.#ids = { ...(userId && { user_id: userId }), anonymous_id: anonymousId ?? ((consent && storage("getItem", ID)) || newId()) };
    if (consent) this.#remember();
    addEventListener("pagehide", () => this.#leave());
    addEventListener("pageshow", () => this.flush());
    document.addEventListener("visibilitychange", () => {
      if (document.hidden) this.flush();
      for (const [element, state] of this.#shown) this.#time(element, state);
    });
  }

  get ids() {
    return { ...this.#ids };
  }

  /** Decides; nothing counts as seen until it is. */
  async decide({ placements = [], experiments = [], context = {}, fallback, timeout = this.timeout } = {}) {
    const ids = this.#ids;
    const abort = new AbortController();
    let timer;
    const late = new Promise((resolve) => {
      timer = setTimeout(() => resolve(abort.abort()), timeout);
    });
    const body = { customer: ids, channel: this.channel, placements, experiments, context, expose: false, preview: this.#preview };
    const answer = await Promise.race([late, this.#ask(body, ids, abort.signal)]);
    clearTimeout(timer);
    const decision = new Decision(answer ?? fallback);
    this.#owners.set(decision, { ids, seen: new Set() });
    return decision;
  }

  /** The value of a flag, or `fallback`; it counts as seen. */
  async flag(key, fallback, { context } = {}) {
    const decision = await this.decide({ experiments: [key], context });
    const found = decision.experiments[key];
    if (!found?.variant) return fallback;
    this.expose(decision, { experiments: [key] });
    const payload = found.payload ?? {};
    const names = Object.keys(payload).join();
    const value = names === "value" ? payload.value : names ? payload : found.variant;
    return typeof value === typeof fallback ? value : fallback;
  }

  /** Decides for all elements with `data-placement` or `data-experiment`, and draws them in one frame. */
  async show({ root = document, experiments = [], draw = fill, ...request } = {}) {
    const elements = [...root.querySelectorAll("[data-placement], [data-experiment]")];
    // What the page hid, and shows by now, is not replaced.
    const hidden = new Set(elements.filter((element) => !isVisible(element)));
    const named = (name, more = []) =>
      [...new Set([...more, ...elements.map((element) => element.dataset[name]?.split("[")[0]).filter(Boolean)])];
    const asked = experiments === "*" ? "*" : named("experiment", experiments);
    const decision = await this.decide({ ...request, placements: named("placement"), experiments: asked });
    const late = new Set([...hidden].filter(isVisible));
    for (const element of elements) {
      if (late.has(element)) element.dataset.state = "fallback";
      else this.draw(element, decision, draw);
    }
    return decision;
  }

  /** Draws one element from a decision, reveals it, and reports when it is seen and clicked. */
  draw(element, decision, draw = fill) {
    const { placement, experiment } = element.dataset;
    const offer = decision.offers[placement];
    const variant = decision.experiments[experiment]?.variant;
    let state = "fallback";
    if (variant) {
      state = "variant";
      element.dataset.variant = variant;
      for (const part of element.querySelectorAll("[data-when]")) {
        part.hidden = !part.dataset.when.split(" ").includes(variant);
      }
    }
    if (offer) {
      state = offer.offer ? "offer" : "empty";
      if (offer.offer) draw(element, offer.rendering, offer);
    }
    element.style.visibility = state === "empty" ? "hidden" : ""; // its room stays
    element.dataset.state = state;
    this.watch(element, decision, {
      placements: state === "offer" ? [placement] : [],
      experiments: variant ? [experiment] : [],
    });
  }

  /** Reports parts of a decision as seen once `element` is, and the clicks on it. */
  watch(element, decision, { placements = [], experiments = [] } = {}) {
    const before = this.#shown.get(element);
    if (before) this.#stop(before);
    if (!placements.length && !experiments.length) {
      this.#observer?.unobserve(element);
      this.#shown.delete(element);
      return;
    }
    if (!before) element.addEventListener("click", () => this.#clicked(element));
    this.#shown.set(element, { decision, parts: { placements, experiments }, inView: false, timer: 0 });
    this.#observer ??= new IntersectionObserver((entries) => entries.forEach((one) => this.#moved(one)), {
      threshold: STEPS,
    });
    this.#observer.unobserve(element);
    this.#observer.observe(element);
  }

  /** Reports at once that parts of a decision were seen; each part of a decision counts once. */
  expose(decision, { placements = [], experiments = [] } = {}) {
    if (!decision.decision_id) return;
    const { ids, seen } = this.#owners.get(decision);
    const fresh = (names, kind) => names.filter((name) => !seen.has(kind + name) && seen.add(kind + name));
    const body = { decision_id: decision.decision_id, placements: fresh(placements, "p:") };
    body.experiments = fresh(experiments, "e:");
    if (body.placements.length + body.experiments.length) this.#push("/v1/exposures", body, ids);
  }

  /** Reports what the visitor did; `decision` is the one that caused it. */
  track(event, properties = {}, decision) {
    const more = decision?.decision_id ? { decision_id: decision.decision_id } : {};
    this.#event({ type: "track", event, properties, ...more }, this.#owners.get(decision)?.ids ?? this.#ids);
  }

  click(decision, placement) {
    const offer = decision.offers[placement]?.offer;
    this.track("click", { placement, ...(offer && { offer }) }, decision);
  }

  identify(traits = {}) {
    this.#event({ type: "identify", traits }, this.#ids);
  }

  /** Binds the visitor to a customer. */
  login(userId, traits = {}) {
    this.#ids = { user_id: userId, anonymous_id: this.#ids.anonymous_id };
    this.identify(traits);
  }

  /** Forgets the customer. */
  logout() {
    this.#ids = { anonymous_id: newId() };
    this.#fixedId = undefined;
    if (this.#consented) this.#remember();
  }

  /** Grants or withdraws the consent to storage and reports, and to the `purposes` that offers name. */
  async consent(granted, purposes = []) {
    const was = this.#consented;
    this.#consented = granted || was;
    if (granted) this.#remember();
    for (const purpose of granted || was ? purposes : []) this.track(granted ? "consent_given" : "consent_withdrawn", { purpose });
    await this.flush();
    if (granted) return;
    this.#consented = false;
    this.#queue = this.#allowed();
    storage("removeItem", this.#slot);
    storage("removeItem", ID);
    if (was && !this.#fixedId) this.#ids = { ...this.#ids, anonymous_id: newId() };
  }

  /** Sends what waits; resolves when it is sent, or has to wait longer. */
  flush() {
    clearTimeout(this.#timer);
    this.#timer = 0;
    this.#flushing ??= this.#send().finally(() => (this.#flushing = null));
    return this.#flushing;
  }

  #moved({ target, isIntersecting, intersectionRatio, intersectionRect: part, rootBounds }) {
    const state = this.#shown.get(target);
    if (!state) return;
    // Of what is larger, half of the screen is enough.
    const screen = rootBounds ? rootBounds.width * rootBounds.height : innerWidth * innerHeight;
    const area = part.width * part.height;
    state.inView = isIntersecting && area > 0 && (intersectionRatio >= 0.5 || area >= 0.5 * screen);
    this.#time(target, state);
  }

  #time(element, state) {
    if (!state.inView || document.hidden) this.#stop(state);
    else state.timer ||= setTimeout(() => this.#elapsed(element, state), SEEN_MS);
  }

  #elapsed(element, state) {
    state.timer = 0;
    if (!isVisible(element)) return this.#time(element, state);
    this.#observer.unobserve(element);
    state.inView = false;
    this.expose(state.decision, state.parts);
  }

  #stop(state) {
    clearTimeout(state.timer);
    state.timer = 0;
  }

  #clicked(element) {
    const state = this.#shown.get(element);
    if (!state) return;
    this.expose(state.decision, state.parts);
    for (const placement of state.parts.placements) this.click(state.decision, placement);
  }

  #event(item, ids) {
    const at = { message_id: newId(), channel: this.channel, timestamp: new Date().toISOString() };
    this.#push("/v1/events", { ...at, ...ids, ...item }, ids);
  }

  #push(path, body, ids) {
    if (this.#queue.length >= MOST_WAITING) {
      this.#queue.splice(0, this.#queue.length - MOST_WAITING + 1);
      console.warn(`counterpoint: more than ${MOST_WAITING} reports wait; the oldest is dropped`);
    }
    this.#queue.push({ path, body, ids });
    this.#save();
    this.#timer ||= setTimeout(() => this.flush(), FLUSH_MS);
  }

  /** The next request: an exposure, or events of one visitor. */
  #next(waiting) {
    const [first] = waiting;
    if (first.path !== "/v1/events") return { path: first.path, ids: first.ids, items: [first], body: first.body };
    const owner = JSON.stringify(first.ids);
    const end = waiting.findIndex((one) => one.path !== first.path || JSON.stringify(one.ids) !== owner);
    const items = waiting.slice(0, Math.min(end < 0 ? waiting.length : end, BATCH));
    const batch = items.map((one) => ({ ...one.body, sent_at: new Date().toISOString() }));
    return { path: first.path, ids: first.ids, items, body: { batch } };
  }

  /** What may be sent: without consent its withdrawal alone. */
  #allowed() {
    return this.#consented ? this.#queue : this.#queue.filter((item) => item.body.event === "consent_withdrawn");
  }

  async #send() {
    for (let waiting; (waiting = this.#allowed()).length; ) {
      const next = this.#next(waiting);
      for (const item of next.items) item.flying = true;
      const done = await this.#post(next);
      for (const item of next.items) item.flying = false;
      if (!done) {
        const pause = Math.min(30_000, FLUSH_MS * 2 ** ++this.#failures);
        this.#timer ||= setTimeout(() => this.flush(), pause);
        return;
      }
      this.#failures = 0;
      this.#queue = this.#queue.filter((item) => !next.items.includes(item));
      this.#save();
    }
  }

  /** True if the server has judged the request, false if it has to be sent again. */
  async #post({ path, ids, body, items }) {
    try {
      const text = JSON.stringify(body);
      const proof = await this.#proofOf(ids);
      const keepalive = text.length < BEACON_BYTES;
      const answer = await fetch(this.#url + path, { ...this.#request(text, proof), keepalive });
      if (RETRYABLE.includes(answer.status)) return false;
      const reply = await answer.json().catch(() => ({}));
      // 404: an exposure of a decision that was answered without the store.
      if (!answer.ok && answer.status !== 404) console.error(`counterpoint: ${path}: ${reply.detail ?? answer.status}`);
      for (const [at, one] of (reply.statuses ?? []).entries()) {
        if (one.status === "rejected") console.error(`counterpoint: ${items[at]?.body.event ?? path}: ${one.reason}`);
      }
      return true;
    } catch {
      return false;
    }
  }

  async #ask(body, ids, signal) {
    try {
      const request = this.#request(JSON.stringify(body), await this.#proofOf(ids));
      const answer = await fetch(`${this.#url}/v1/decide`, { ...request, signal });
      const reply = await answer.json();
      if (answer.ok) return reply;
      console.error(`counterpoint: /v1/decide: ${reply.detail}`);
      if (body.preview) // an old link
        return this.#ask({ ...body, preview: (this.#preview = undefined) }, ids, signal);
    } catch {
      // No answer in time, or none of the engine.
    }
  }

  /** Sends what waits while the page goes; it stays stored, in case the browser ends first. */
  #leave() {
    let waiting = this.#allowed().filter((item) => !item.flying);
    while (waiting.length) {
      const { path, ids, items, body } = this.#next(waiting);
      waiting = waiting.filter((item) => !items.includes(item));
      const text = JSON.stringify(body);
      if (!this.#key) {
        navigator.sendBeacon(this.#url + path, new Blob([text], { type: "application/json" }));
        continue;
      }
      // A beacon has no headers; a request that is kept alive has, and outlives the page too.
      const proof = this.#proofs.get(JSON.stringify(ids));
      if (proof !== undefined) fetch(this.#url + path, { ...this.#request(text, proof), keepalive: true }).catch(() => {});
    }
  }

  #request(body, proof) {
    const headers = { "content-type": "application/json" };
    if (this.#key) headers.authorization = `Bearer ${this.#key}`;
    if (proof) headers["x-customer-proof"] = proof;
    return { method: "POST", body, headers, credentials: "omit" };
  }

  #proofs = new Map(); // identifiers -> the proof of them that the shop's server made

  async #proofOf(ids) {
    const owner = JSON.stringify(ids);
    if (!this.#proofs.has(owner)) {
      const proof = typeof this.#proof === "function" ? await this.#proof(ids) : this.#proof;
      this.#proofs.set(owner, proof ?? "");
    }
    return this.#proofs.get(owner);
  }

  /** Stores the visitor's id, and takes over what other pages could not send. */
  #remember() {
    if (!this.#fixedId) storage("setItem", ID, this.#ids.anonymous_id);
    for (const slot of slots()) {
      if (slot === this.#slot) continue;
      try {
        this.#queue.push(...JSON.parse(storage("getItem", slot)));
      } catch {
        // Damaged.
      }
      storage("removeItem", slot);
    }
    // A page that is open still saves them again.
    const each = new Map(this.#queue.map((item) => [item.body.message_id ?? JSON.stringify(item.body), item]));
    this.#queue = [...each.values()].slice(-MOST_WAITING);
    this.#save();
    if (this.#queue.length) this.#timer ||= setTimeout(() => this.flush(), FLUSH_MS);
  }

  #save() {
    if (!this.#consented) return;
    if (!this.#queue.length) return storage("removeItem", this.#slot);
    storage("setItem", this.#slot, JSON.stringify(this.#queue.map(({ path, body, ids }) => ({ path, body, ids }))));
  }
}

export function connect(options) {
  return new Counterpoint(options);
}

/** Writes a rendering into the parts with `data-field`: text, the address of a picture, or that of a link. */
export function fill(element, rendering) {
  for (const part of element.querySelectorAll("[data-field]")) {
    const value = rendering[part.dataset.field];
    if (value === undefined || value === null) continue;
    const name = part instanceof HTMLImageElement ? "src" : part instanceof HTMLAnchorElement ? "href" : "";
    if (!name) part.textContent = String(value);
    else if (isAddress(value, part.dataset.base)) part.setAttribute(name, (part.dataset.base ?? "") + value);
  }
}

function isAddress(value, base = "") {
  try {
    return ["http:", "https:", "mailto:", "tel:"].includes(new URL(base + value, document.baseURI).protocol);
  } catch {
    return false;
  }
}

function isVisible(element) {
  return element.checkVisibility?.({ visibilityProperty: true, opacityProperty: true }) ?? true;
}

function newId() {
  // `randomUUID` is missing on pages without TLS.
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

// A browser may forbid its storage, or have no room: then what is stored lives as long as the page.
function storage(action, name, value) {
  try {
    return localStorage[action](name, value);
  } catch {
    return null;
  }
}

function slots() {
  try {
    return Object.keys(localStorage).filter((name) => name.startsWith(QUEUE));
  } catch {
    return [];
  }
}
