/**
 * An OpenFeature hook for pages that evaluate all flags at once: it reports each flag that the page uses as seen.
 *
 *   import { OpenFeature } from "@openfeature/web-sdk";
 *   import { ExposureHook } from "https://decide.example/exposure-hook.js";
 *   OpenFeature.addHooks(new ExposureHook({ url: "https://decide.example", key: "pk-web-1", proof }));
 *
 * An evaluation of all flags is a prefetch, which no report counts. This file has no dependency; a copy of it works too.
 * Each flag of a decision is reported once. A report that fails is sent once more, then dropped: it must never delay a
 * page. An evaluation of a single flag counts by itself, and is not reported again.
 */
const PREFETCHED = "p"; // the 13th character of a prefetched decision's id

export class ExposureHook {
  /**
   * @param {{url: string, key?: string, proof?: string, fetch?: typeof fetch}} options where the engine is, the
   *   publishable key, and the proof of the customer that a publishable key needs
   */
  constructor({ url, key, proof, fetch: send = globalThis.fetch.bind(globalThis) }) {
    this.url = url.replace(/\/$/, "");
    this.send = send;
    this.headers = { "content-type": "application/json" };
    if (key) this.headers.authorization = `Bearer ${key}`;
    if (proof) this.headers["x-customer-proof"] = proof;
    this.reported = new Set();
  }

  /** Report a flag that was used; called by the SDK after each evaluation. */
  after(context, details) {
    const decision = details.flagMetadata?.decisionId;
    if (typeof decision !== "string" || decision[12] !== PREFETCHED || !details.variant) return;
    const name = `${decision} ${context.flagKey}`;
    if (this.reported.has(name)) return;
    this.reported.add(name);
    void this.report({ decision_id: decision, experiments: [context.flagKey] });
  }

  /** Send one report; true where the engine took it. */
  async report(body, attempts = 2) {
    try {
      const answer = await this.send(`${this.url}/v1/exposures`, {
        method: "POST",
        headers: this.headers,
        body: JSON.stringify(body),
        keepalive: true,
      });
      if (answer.ok) return true;
      if (answer.status < 500 && answer.status !== 429) return false;
    } catch {
      // the network failed: once more
    }
    return attempts > 1 ? this.report(body, attempts - 1) : false;
  }
}
