/** Simulated customers with tastes that the engine does not know, on the public API. */

import { ask, sendEvents } from "/shop/api.js";

const AT_ONCE = 4;
const CHANNELS = ["web", "web", "app"];

/** Lets `count` customers shop, some at a time; `report` gets the tally as it grows, `stopped` says when to end. */
export async function letShop(count, report, stopped) {
  const tally = { done: 0, offers: {}, variants: {} };
  const name = Math.random().toString(36).slice(2, 8);
  let next = 0;
  const work = async () => {
    while (next < count && !stopped()) {
      await visit(`crowd-${name}-${next++}`, tally);
      tally.done += 1;
      report(tally);
    }
  };
  await Promise.all(Array.from({ length: AT_ONCE }, work));
  return tally;
}

async function visit(id, tally) {
  const coffee = Math.random();
  const tier = [0, 0, 1, 1, 2, 3][Math.floor(Math.random() * 6)];
  const channel = CHANNELS[Math.floor(Math.random() * 3)];
  const who = { user_id: id, channel };
  const traits = { "loyalty.tier": tier, "affinity.coffee": Math.round(coffee * 100) / 100 };
  await sendEvents({ type: "identify", ...who, traits });
  const body = { customer: { user_id: id }, channel, placements: ["home_hero"], experiments: ["checkout_layout"] };
  const decision = await ask("/v1/decide", body);
  if (decision.degraded) return; // the store was too slow for this answer, a fallback that teaches nothing
  const offer = decision.offers.home_hero?.offer;
  const layout = decision.experiments.checkout_layout?.variant;
  const seen = (table, key) => (table[key] ??= { shown: 0, taken: 0 });
  const events = [];
  const caused = { ...who, decision_id: decision.decision_id };
  if (offer) {
    seen(tally.offers, offer).shown += 1;
    if (Math.random() < likes(offer, coffee, tier)) {
      tally.offers[offer].taken += 1;
      events.push({ ...caused, event: "click", properties: { offer } });
    }
  }
  if (layout) seen(tally.variants, layout).shown += 1;
  if (Math.random() < (layout === "one_page" ? 0.16 : 0.1)) {
    if (layout) tally.variants[layout].taken += 1;
    const revenue = Math.round((8 + 14 * Math.random()) * 100) / 100;
    events.push({ ...caused, event: "purchase", properties: { revenue, order_id: crypto.randomUUID() } });
  }
  if (events.length) await sendEvents(...events);
}

function likes(offer, coffee, tier) {
  const rates = {
    free_delivery: 0.05,
    second_coffee: 0.02 + 0.5 * coffee,
    birthday_drink: 0.04 + 0.05 * tier,
    tasting_set: 0.02 + 0.45 * (1 - coffee),
    grinder_discount: 0.02 + 0.02 * tier,
  };
  return rates[offer] ?? 0.02;
}
