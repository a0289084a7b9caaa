/** Under the counter: why an offer is shown, the experiments, a crowd, and the report. */

import { ask, quietly } from "/shop/api.js";
import { letShop } from "/shop/crowd.js";
import { barRow, make, text } from "/shop/page.js";

const $ = (id) => document.getElementById(id);
const CUSTOMERS = 500;
const REPORT_MS = 2500;
const REPORTED = "checkout_layout";
const WHERE = {
  web: { title: "web", placements: ["home_hero"] },
  app: { title: "app", placements: ["home_hero"] },
  store: { title: "till", placements: ["till_prompt"] },
  call_centre: { title: "care", placements: ["till_prompt"] },
};
const NOT_NOW = {
  dates: "not at this time",
  channel: "not offered on this channel",
  consent: "needs the customer's consent",
  audience: "not for this customer",
  suppressed: "declined or ignored before",
  cap: "shown often enough",
  coupon: "no codes left",
  place: "not near",
  stock: "out of stock",
  budget: "its budget is used up",
  shown: "shown in another place already",
  price: "kept for customers who want it more",
  moment: "another offer is for this very moment",
};

export class Under {
  #channel = "web";
  #ids = null;
  #plan = "";
  #stop = false;
  #decideAgain;

  constructor(decideAgain) {
    this.#decideAgain = decideAgain;
    for (const [channel, { title }] of Object.entries(WHERE)) {
      const tab = make("button", title);
      tab.type = "button";
      tab.dataset.channel = channel;
      tab.addEventListener("click", () => {
        this.#channel = channel;
        this.#explain();
      });
      $("why-tabs").append(tab);
    }
    $("crowd").addEventListener("change", () => ($("crowd").checked ? this.#crowd() : (this.#stop = true)));
    this.#followReport();
  }

  async refresh(ids) {
    this.#ids = ids;
    await this.#explain();
  }

  /** True if the plan is another than at the last look. */
  async followPlan(plan, problems) {
    text("plan", problems.length ? `${plan}; the new files have ${problems.length} problems` : plan);
    const changed = this.#plan !== "" && this.#plan !== plan;
    this.#plan = plan;
    return changed;
  }

  async #explain() {
    for (const tab of $("why-tabs").children) {
      tab.setAttribute("aria-pressed", String(tab.dataset.channel === this.#channel));
    }
    const body = { customer: this.#ids, channel: this.#channel, placements: WHERE[this.#channel].placements };
    const found = await ask("/v1/explain", { ...body, experiments: "*" });
    const [choice] = Object.values(found.placements);
    const rows = choice.candidates.map((one) => [one.offer, one.propensity]).sort((a, b) => b[1] - a[1]);
    if (!rows.length) rows.push([choice.offer ?? "nothing", 1]);
    const caption = $("why").querySelector("caption");
    $("why").replaceChildren(
      caption,
      ...rows.map(([offer, share]) => barRow(offer.replaceAll("_", " "), share, percent(share))),
    );
    const closed = Object.entries(choice.closed ?? {});
    const policy = choice.policy ? `by ${choice.policy}` : `because: ${choice.moment ?? choice.reason}`;
    const features = Object.entries(choice.features ?? {})
      .filter(([, value]) => value !== null)
      .map(([name, value]) => `${name} ${short(value)}`);
    $("closed").replaceChildren(
      make("li", [policy, ...features].join(" · "), "policy"),
      ...closed.map(([offer, gate]) => make("li", `${offer.replaceAll("_", " ")}: ${NOT_NOW[gate] ?? gate}`)),
    );
    this.#experiments(found.experiments);
  }

  #experiments(answers) {
    const rows = Object.entries(answers).map(([key, { variant, reason }]) => {
      const row = make("div", "", "experiment");
      const paused = reason === "paused";
      const action = make("button", paused ? "Resume" : "Pause");
      action.type = "button";
      action.setAttribute("aria-label", `${action.textContent} ${key}`);
      action.addEventListener("click", () => this.#switch(key, paused ? "resume" : "pause"));
      row.append(make("b", key), make("span", variant ?? reason, variant ? "pill" : "pill off"), action);
      return row;
    });
    for (const key of this.#paused) {
      if (key in answers) continue;
      const row = make("div", "", "experiment");
      const action = make("button", "Resume");
      action.type = "button";
      action.setAttribute("aria-label", `Resume ${key}`);
      action.addEventListener("click", () => this.#switch(key, "resume"));
      row.append(make("b", key), make("span", "paused", "pill off"), action);
      rows.push(row);
    }
    $("experiments").replaceChildren(...(rows.length ? rows : [make("p", "None is for this customer.", "note")]));
  }

  #paused = new Set();

  /** The kill switch; every server follows within a second. */
  async #switch(key, verb) {
    await ask(`/v1/experiments/${key}/${verb}`, { reason: "tried in the demo shop" });
    if (verb === "pause") this.#paused.add(key);
    else this.#paused.delete(key);
    setTimeout(this.#decideAgain, 1000);
  }

  async #crowd() {
    this.#stop = false;
    $("crowd-bar").value = 0;
    try {
      const began = performance.now();
      const tally = await quietly(() => letShop(CUSTOMERS, (now) => this.#drawCrowd(now), () => this.#stop));
      const seconds = ((performance.now() - began) / 1000).toFixed(0);
      text("crowd-note", `${tally.done} customers shopped in ${seconds} s. Another crowd meets a wiser policy.`);
    } catch (error) {
      text("crowd-note", `The crowd left: ${error.message}`);
    }
    $("crowd").checked = false;
    await this.#explain();
  }

  #drawCrowd({ done, offers, variants }) {
    $("crowd-bar").value = done;
    if (done % 10 && done < CUSTOMERS) return;
    const rows = Object.entries(offers).sort((a, b) => b[1].shown - a[1].shown);
    const most = Math.max(1, ...rows.map(([, one]) => one.shown));
    const caption = $("crowd-offers").querySelector("caption");
    $("crowd-offers").replaceChildren(
      caption,
      ...rows.map(([offer, { shown, taken }]) =>
        barRow(offer.replaceAll("_", " "), shown / most, `${shown}, ${percent(taken / shown)}`),
      ),
    );
    const orders = Object.entries(variants).sort();
    const parts = orders.map(([key, one]) => `${key} ${percent(one.taken / one.shown)}`);
    text("crowd-note", `${done} of ${CUSTOMERS} have shopped. Ordered: ${parts.join(", ") || "nobody yet"}.`);
  }

  /** The report that the dashboard computes from the log; its rows are those of the page's table. */
  async #followReport() {
    if (!document.hidden) await this.#report().catch(() => this.#noReport());
    setTimeout(() => this.#followReport(), REPORT_MS);
  }

  async #report() {
    const { links } = await ask("/");
    if (!links.dashboard) return this.#noReport();
    const { metrics = [] } = await ask(`/experiments/${REPORTED}?format=json`);
    if (!metrics.length) return this.#noReport("The report begins with the first customers in the log.");
    drawReport($("report"), metrics);
    return undefined;
  }

  #noReport(why = "The dashboard does not run here. In a terminal:") {
    if ($("report").dataset.why === why) return;
    $("report").dataset.why = why;
    const command = make("code", `counterpoint analyze ${REPORTED} --data .data/demo`);
    $("report").replaceChildren(make("p", why, "note"), command);
  }
}

function drawReport(place, metrics) {
  delete place.dataset.why;
  const rows = metrics.flatMap((one) => {
    const known = typeof one.effect === "number";
    const name = one.metric.replaceAll("_", " ");
    const chance = one.chance_to_win ?? 0.5;
    const span = known ? `${signed(one.effect)}, between ${signed(one.low)} and ${signed(one.high)}` : "too early to say";
    const detail = make("tr", "", "detail");
    detail.append(Object.assign(make("td", span), { colSpan: 3 }));
    return [barRow(name, chance, percent(chance)), detail];
  });
  const table = make("table", "", "bars");
  table.append(make("caption", `${REPORTED}: chance that ${metrics[0].variant.replaceAll("_", " ")} is better`), ...rows);
  const link = Object.assign(make("a", "The whole report"), { href: `/experiments/${REPORTED}` });
  place.replaceChildren(table, link);
}

function percent(share) {
  if (share > 0.99 && share < 1) return "> 99 %";
  return `${(100 * share).toFixed(share > 0 && share < 0.1 ? 1 : 0)} %`;
}

function signed(share) {
  const size = Math.abs(100 * share);
  return `${share < 0 ? "−" : "+"}${size.toFixed(size < 10 ? 1 : 0)} %`;
}

function short(value) {
  return typeof value === "number" ? Number(value.toFixed(2)) : value;
}
