// The pages work without this file. It renews figures, copies links, checks drafts and draws the live page.
"use strict";

const main = document.getElementById("main");
const token = document.body.dataset.token ?? "";

// ---- Renew: fetch the same page and replace its content, unless somebody is using it.
const isBusy = () => {
  const at = document.activeElement;
  return document.hidden || (main.contains(at) && /^(INPUT|SELECT|TEXTAREA|BUTTON|SUMMARY)$/.test(at.tagName)) || String(getSelection()).length > 0;
};

async function renew() {
  if (isBusy()) return;
  try {
    const answer = await fetch(location.href, { headers: { "x-renew": "1" }, redirect: "error" });
    if (!answer.ok) return;
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    const fresh = page.getElementById("main");
    if (!fresh || isBusy()) return;
    const open = new Set([...main.querySelectorAll("details[open][id]")].map((one) => one.id));
    for (const one of fresh.querySelectorAll("details[id]")) one.open = open.has(one.id);
    const focused = main.contains(document.activeElement) ? document.activeElement.id : "";
    if (main.innerHTML !== fresh.innerHTML) main.replaceChildren(...fresh.childNodes);
    if (focused) document.getElementById(focused)?.focus({ preventScroll: true });
    prepare();
  } catch { /* the next time may work; the page shows its age */ }
}

const every = Number(main?.dataset.renew ?? 0);
if (every) {
  const next = () => setTimeout(async () => { await renew(); next(); }, 1000 * (main.querySelector("[data-waits]") ? 2 : every));
  next();
}

// ---- Parts of a page that are read after it.
async function load(place) {
  try {
    const answer = await fetch(place.dataset.load);
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    const part = page.getElementById("part");
    place.replaceChildren(...(part ? part.childNodes : [document.createTextNode("This could not be read; load the page again.")]));
  } catch { place.textContent = "The dashboard does not answer; load the page again."; }
}
for (const place of document.querySelectorAll("[data-load]")) load(place);

// ---- Links to share.
function prepare() {
  for (const button of document.querySelectorAll("button[data-copy]")) {
    button.hidden = !navigator.clipboard;
    button.onclick = async () => {
      await navigator.clipboard.writeText(new URL(button.dataset.copy, location.href).href);
      button.textContent = "Copied";
    };
  }
  for (const select of document.querySelectorAll("form.filters[method=get] select")) select.onchange = () => select.form.submit();
}
prepare();

// ---- Answers that follow a form while it is changed.
for (const form of document.querySelectorAll("form[data-live]")) {
  let timer;
  const answer = document.getElementById(form.dataset.live);
  const follow = async () => {
    const address = `${form.action}?${new URLSearchParams(new FormData(form))}`;
    const page = new DOMParser().parseFromString(await (await fetch(address)).text(), "text/html");
    answer.replaceChildren(...page.getElementById(form.dataset.live).childNodes);
    history.replaceState(null, "", address);
  };
  form.addEventListener("input", (event) => {
    const at = event.target;
    if (at.dataset.fills && at.value) form.elements[at.dataset.fills].value = at.value;
    if (at.type === "range") at.nextElementSibling.textContent = at.value;
    clearTimeout(timer);
    timer = setTimeout(() => follow().catch(() => {}), 200);
  });
}

// ---- Print with every table.
addEventListener("beforeprint", () => { for (const one of document.querySelectorAll("details.behind")) one.open = true; });

// ---- Ask before what cannot be undone.
for (const form of document.querySelectorAll("form[data-confirm]")) {
  form.addEventListener("submit", (event) => { if (!confirm(form.dataset.confirm)) event.preventDefault(); });
}

// ---- The live page.
const live = document.getElementById("live");
if (live) {
  const source = new EventSource("/live/events");
  const state = document.getElementById("live-state");
  const history = {};
  source.onmessage = (event) => {
    const figures = JSON.parse(event.data);
    for (const [name, one] of Object.entries(figures)) {
      const place = document.querySelector(`[data-figure="${CSS.escape(name)}"]`);
      if (place) place.textContent = one.text;
      const line = document.querySelector(`[data-line="${CSS.escape(name)}"]`);
      if (!line || one.value === null) continue;
      const values = (history[name] ??= []);
      values.push(one.value);
      if (values.length > 120) values.shift();
      const top = Math.max(...values, 1e-9);
      line.setAttribute("points", values.map((value, at) => `${(at * 1000) / 119},${100 - (value / top) * 92}`).join(" "));
    }
    state.textContent = "Live";
  };
  source.onerror = () => { state.textContent = "Waiting for the engine to answer again"; };
  addEventListener("pagehide", () => source.close());
}

// ---- The editor: problems as you type, plan and preview of the draft beside it.
const draft = document.getElementById("draft");
if (draft) {
  const problems = document.getElementById("problems");
  const beside = document.getElementById("beside");
  let timer, running, again = false;
  const check = async () => {
    if (running) { again = true; return; }
    running = true;
    try {
      const body = new URLSearchParams(new FormData(draft));
      const answer = await fetch("/editor/check", { method: "POST", body, headers: { "x-token": token } });
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      problems.replaceChildren(...page.getElementById("problems").childNodes);
      beside.replaceChildren(...page.getElementById("beside").childNodes);
      for (const button of draft.querySelectorAll("button[data-needs-valid]")) button.disabled = problems.querySelector(".problems") !== null;
    } catch { problems.textContent = "The dashboard does not answer; the draft is still in this page."; }
    running = false;
    if (again) { again = false; check(); }
  };
  const text = draft.elements.text;
  draft.addEventListener("input", () => { clearTimeout(timer); timer = setTimeout(check, 350); });
  text.addEventListener("keydown", (event) => {
    if (event.key !== "Tab" || event.shiftKey || !text.dataset.tab) return;
    event.preventDefault();
    text.setRangeText("  ", text.selectionStart, text.selectionEnd, "end");
  });
  check();
}
