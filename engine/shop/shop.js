/** The demo shop: one customer on four channels. The web page and the app use `client.js`; till and care plain HTTP. */

import { ask, sendEvents } from "/shop/api.js";
import { fillTheme, make, text } from "/shop/page.js";
import { Under } from "/shop/under.js";
import { connect, fill } from "/client.js";

const NAMES = ["Mara", "Jonas", "Aylin", "Pavel", "Lina", "Noor", "Tomasz", "Freya", "Iris", "Samir"];
const GOODS = [
  { key: "espresso", title: "Espresso, 250 g", category: "coffee", price: 8.9 },
  { key: "filter", title: "Filter roast, 250 g", category: "coffee", price: 9.4 },
  { key: "tea", title: "Assam, 100 g", category: "tea", price: 6.2 },
  { key: "cake", title: "Carrot cake", category: "cake", price: 4.1 },
];
const TILL = { revenue: 12.4, points: 62 };
const PLAN_MS = 400;
const CONTEXT = { store: "S12" };
const $ = (id) => document.getElementById(id);
const count = (items) => `${items} item${items === 1 ? "" : "s"}`;
const euro = (amount) => `€ ${amount.toFixed(2)}`;

let person; // who shops now
const under = new Under(() => decideAll());

/** A customer with a browser and a phone, that the engine has never seen. */
function start() {
  const name = NAMES[Math.floor(Math.random() * NAMES.length)];
  const anonymous = crypto.randomUUID().slice(0, 8);
  person = {
    name,
    user: `${name.toLowerCase()}-${anonymous.slice(0, 4)}`,
    visitor: `visitor-${anonymous}`,
    loggedIn: false,
    scanned: false,
    cart: [],
    step: 0,
    decisions: {},
  };
  person.web = connect({ channel: "web", anonymousId: person.visitor, timeout: 3000 });
  person.app = connect({ channel: "app", anonymousId: person.visitor, timeout: 3000 });
  for (const step of document.querySelectorAll(".steps li")) step.classList.remove("done");
  for (const box of document.querySelectorAll(".device")) box.classList.remove("fresh");
  $("marketing").checked = $("cancel").checked = false;
  text("till-say", "Scan the card first");
  text("till-code", "");
  text("till-note", "");
  text("push", "");
  text("call-say", "Nobody is on the line");
  text("call-why", "Callers are known by their login.");
  drawFacts({ Customer: "unknown", Stage: "–", Points: "–", Orders: "–", "Seen on": "–", Cart: "–" });
  $("not-now").replaceChildren();
  drawPerson();
  drawCart();
  return decideAll();
}

function ids() {
  return person.loggedIn ? { user_id: person.user } : { anonymous_id: person.visitor };
}

/** Asks for everything again, as pages do when they are opened; on a busy machine until the store answered in time. */
async function decideAll(tries = 4) {
  const draw = (element, rendering, offer) => {
    fill(element, { headline: rendering.headline });
    const picture = String(rendering.image ?? "roast.jpg").replace(/\W*\w+$/, "");
    element.querySelector("img").src = `/shop/pictures/${picture}.svg`;
    element.dataset.offer = offer.offer;
  };
  const asked = [person.web.show({ root: $("web"), draw }).then((decision) => (person.decisions.web = decision))];
  if (person.loggedIn) {
    asked.push(person.app.show({ root: $("app"), draw }).then((decision) => (person.decisions.app = decision)));
    asked.push(care());
    if (person.scanned) asked.push(prompt());
  }
  await Promise.all(asked);
  resume();
  await under.refresh(ids());
  await drawPoints();
  const { web, app } = person.decisions;
  if (tries > 1 && (web?.degraded || app?.degraded)) setTimeout(() => decideAll(tries - 1), 600);
}

function resume() {
  const cart = person.decisions.app?.resume?.cart;
  $("resume").hidden = !cart;
  if (cart) text("resume", `Your cart from the web is here: ${count(cart.items)}.`);
}

async function drawPoints() {
  if (!person.loggedIn) return;
  const profile = await ask(`/v1/profiles/${person.user}`);
  const loyalty = profile.attributes.loyalty;
  text("points", String(loyalty.points));
  text("tier", `tier ${loyalty.tier}`);
}

function drawPerson() {
  text("name", person.name);
  text("known", person.loggedIn ? `known as ${person.user} on every channel` : "an unknown visitor so far");
  text("web-who", person.loggedIn ? `recognised: ${person.name}` : "not logged in");
  $("app-in").hidden = !person.loggedIn;
  $("app-out").hidden = person.loggedIn;
  text("login", `Log in as ${person.name}`);
  $("scan").disabled = person.scanned || !person.loggedIn;
  for (const id of ["pay", "till-take", "till-refuse"]) $(id).disabled = !person.scanned;
  for (const id of ["call-take", "call-refuse", "cancel"]) $(id).disabled = !person.loggedIn;
}

function drawGoods() {
  for (const one of GOODS) {
    const item = document.createElement("li");
    const button = document.createElement("button");
    const picture = Object.assign(document.createElement("img"), { src: `/shop/pictures/${one.key}.svg`, alt: "" });
    button.type = "button";
    button.append(picture, make("span", one.title), make("b", euro(one.price)));
    button.addEventListener("click", () => add(one));
    item.append(button);
    $("goods").append(item);
  }
}

/** Looking at something and putting it into the cart: two events, which the next decision on any channel knows. */
async function add(one) {
  done("browse");
  person.cart.push(one);
  person.step = 0;
  person.web.track("view", { category: one.category });
  person.web.track("cart_updated", { items: person.cart.length, value: total() });
  drawCart();
  await person.web.flush();
  await decideAll();
}

function total() {
  return Math.round(person.cart.reduce((sum, one) => sum + one.price, 0) * 100) / 100;
}

function drawCart() {
  text("cart", person.cart.length ? `${count(person.cart.length)}, ${euro(total())}` : "empty");
  const pages = document.querySelectorAll(".pages li");
  pages.forEach((page, at) => page.toggleAttribute("aria-current", at === person.step));
  text("advance", ["To the address", "To the payment", "Order"][person.step]);
}

async function order(event) {
  event.preventDefault();
  if (!person.cart.length) return flash("Put something into the cart first.");
  const layout = person.decisions.web?.variant("checkout_layout", "control");
  if (layout === "control" && person.step < 2) {
    person.step += 1;
    return drawCart();
  }
  const revenue = total();
  person.web.track("purchase", { revenue, order_id: crypto.randomUUID() }, person.decisions.web);
  person.cart = [];
  person.step = 0;
  drawCart();
  await person.web.flush();
  flash(`Ordered for ${euro(revenue)}. The cart is empty on every channel.`);
  return decideAll();
}

async function login() {
  await person.web.flush(); // what was seen as a visitor is reported before, so that its variants stay
  person.app.login(person.user, { first_name: person.name });
  await person.app.flush();
  person.loggedIn = true;
  done("login");
  flash(`${person.name} is known now: all that the visitor did on the web belongs to them, and their variants stay.`);
  drawPerson();
  await decideAll();
}

async function walk() {
  person.app.track("beacon", { place: "coffee_bar" });
  await person.app.flush();
  const body = { customer: ids(), channel: "push", placements: ["push_message"] };
  const { offers } = await ask("/v1/decide", body);
  const found = offers.push_message;
  const until = found.not_before ? new Date(found.not_before).toLocaleTimeString([], { timeStyle: "short" }) : "";
  const reasons = { deferred: `Held back until ${until}: nobody is woken up.`, dropped: "Nothing is sent now." };
  text("push", found.rendering.line ?? reasons[found.reason] ?? `Nothing is sent: ${found.reason}.`);
  await decideAll();
}

async function consent() {
  const granted = $("marketing").checked;
  person.app.track(granted ? "consent_given" : "consent_withdrawn", { purpose: "marketing" });
  await person.app.flush();
  await decideAll();
}

/** The till asks before the customer pays; what staff says counts as seen. */
async function prompt() {
  const body = { customer: ids(), channel: "store", placements: ["till_prompt"], context: CONTEXT };
  const decision = await ask("/v1/decide", body);
  person.decisions.till = decision;
  const found = decision.offers.till_prompt;
  text("till-say", found.rendering.prompt ?? "Thank you");
  text("till-code", found.rendering.code ? `Code ${found.rendering.code}` : "");
}

async function scan() {
  person.scanned = true;
  drawPerson();
  await decideAll();
}

function tell(channel, event, properties = {}) {
  const { decision_id, offers } = person.decisions[channel === "store" ? "till" : "call"];
  const offer = offers.till_prompt.offer;
  return sendEvents({ ...ids(), channel, event, decision_id, properties: { offer, ...properties } });
}

async function answer(channel, taken) {
  await tell(channel, taken ? "click" : "refused");
  const where = channel === "store" ? "till-note" : "call-why";
  text(where, taken ? "Taken: the policy learns from it." : "Declined: it is not pressed again.");
  if (channel !== "store") return under.refresh(ids());
  return decideAll();
}

async function pay() {
  await tell("store", "purchase", { ...TILL, order_id: crypto.randomUUID() });
  done("pay");
  person.scanned = false;
  person.cart = []; // an order ends the cart on every channel
  drawCart();
  text("till-note", `Paid. ${TILL.points} points are in the app already.`);
  text("till-say", "Thank you – see you soon");
  text("till-code", "");
  drawPerson();
  await decideAll();
}

/** Customer care sees who calls, what to offer, and what not. */
async function care() {
  const context = $("cancel").checked ? { intent: "cancel" } : {};
  const body = { customer: ids(), channel: "call_centre", placements: ["till_prompt"], context };
  const { decision_id, history, suggestions } = await ask("/v1/agent", body);
  const found = suggestions.till_prompt;
  person.decisions.call = { decision_id, offers: { till_prompt: found } };
  text("call-say", found.rendering.prompt ?? "Nothing: just help");
  text("call-why", `Why: ${found.why}`);
  drawFacts({
    Customer: person.name,
    Stage: history.stage,
    Points: `${history.points}, tier ${history.tier}`,
    Orders: `${history.orders}, ${euro(history.revenue)}`,
    "Seen on": Object.keys(history.last_seen).join(", ") || "–",
    Cart: history.resume.cart ? `${history.resume.cart.items} waiting` : "–",
  });
  $("not-now").replaceChildren(
    ...Object.entries(found.not_now).map(([offer, why]) =>
      make("li", `${offer.replaceAll("_", " ")}: ${why}`),
    ),
  );
}

function drawFacts(facts) {
  const cells = Object.entries(facts).flatMap(([name, value]) => [make("dt", name), make("dd", value)]);
  $("facts").replaceChildren(...cells);
}

async function respond(taken) {
  await ask("/v1/exposures", { decision_id: person.decisions.call.decision_id, placements: ["till_prompt"] });
  await answer("call_centre", taken);
}

function done(step) {
  $(`step-${step}`).classList.add("done");
}

function flash(message) {
  text("flash", message);
  clearTimeout(flash.timer);
  flash.timer = setTimeout(() => text("flash", ""), 8000);
}

/** Runs a step and shows its failure in the page's words. */
function when(id, event, work) {
  $(id).addEventListener(event, (detail) =>
    Promise.resolve(work(detail)).catch((error) => flash(`That did not work: ${error.message}`)),
  );
}

async function followPlan() {
  if (!document.hidden) {
    try {
      const { plan, plan_problems: problems } = await (await fetch("/readyz/degraded")).json();
      const changed = await under.followPlan(plan, problems);
      if (changed) {
        await decideAll();
        flash("A file changed: everything was decided again by the new plan.");
      }
    } catch {
      text("plan", "the engine does not answer");
    }
  }
  setTimeout(followPlan, PLAN_MS);
}

when("next", "click", start);
when("login", "click", login);
when("walk", "click", walk);
when("marketing", "change", consent);
when("scan", "click", scan);
when("pay", "click", pay);
when("till-take", "click", () => answer("store", true));
when("till-refuse", "click", () => answer("store", false));
when("call-take", "click", () => respond(true));
when("call-refuse", "click", () => respond(false));
when("cancel", "change", () => {
  if ($("cancel").checked) done("call");
  return care();
});
when("checkout", "submit", order);
for (const take of document.querySelectorAll(".take")) {
  take.addEventListener("click", () => flash("A click: the learner gets its reward within seconds."));
}
fillTheme($("theme"));
drawGoods();
start().catch((error) => {
  const asksForKeys = "This engine asks for keys, and this page has none. Open the shop of `make demo`.";
  text("flash", error.status === 401 ? asksForKeys : `The engine does not answer: ${error.message}`);
});
followPlan();
