// OpenFeature's evaluation scenarios through its own SDKs and OFREP providers. Prints one JSON document.
// node scenarios.mjs BASE_URL FOLDER_WITH_NODE_MODULES
import { createRequire } from "node:module";
import { EventSource } from "./event_source.mjs";

globalThis.EventSource = EventSource;
const [base, folder] = process.argv.slice(2);
const require = createRequire(`${folder}/package.json`);
const server = require("@openfeature/server-sdk");
const web = require("@openfeature/web-sdk");
const { OFREPProvider } = require("@openfeature/ofrep-provider");
const { OFREPWebProvider } = require("@openfeature/ofrep-web-provider");
const { ExposureHook } = await import(`${base}/exposure-hook.js`).catch(async () => {
  const text = await (await fetch(`${base}/exposure-hook.js`)).text(); // Node imports no http: addresses
  return import(`data:text/javascript,${encodeURIComponent(text)}`);
});

const WHO = { targetingKey: "u-js", fn: "Sulisław", ln: "Świętopełk", age: 29, customer: false };
const ASKED = [
  ["Boolean", "boolean-flag", false],
  ["String", "string-flag", "bye"],
  ["Number", "integer-flag", 1],
  ["Number", "float-flag", 0.1],
  ["Object", "object-flag", {}],
  ["String", "context-aware", "EXTERNAL"],
  ["Number", "wrong-flag", 13],
  ["String", "missing-flag", "uh-oh"],
  ["String", "uncovered", "as-coded"],
  ["Boolean", "paused-flag", true],
];

async function ask(client) {
  const found = {};
  for (const [kind, key, fallback] of ASKED) {
    const { value, variant, reason, errorCode } = await client[`get${kind}Details`](key, fallback);
    found[key] = { value, variant, reason, errorCode };
  }
  return found;
}

const until = async (test) => {
  for (let tries = 0; tries < 600 && !(await test()); tries++) await new Promise((done) => setTimeout(done, 50));
  return test();
};

await server.OpenFeature.setProviderAndWait(new OFREPProvider({ baseUrl: base }));
const answers = { server: await ask(server.OpenFeature.getClient(WHO)) };

await web.OpenFeature.setContext(WHO);
const hook = new ExposureHook({ url: base });
const reports = [];
hook.send = async (...request) => {
  const answer = await fetch(...request);
  reports.push({ ...JSON.parse(request[1].body), status: answer.status });
  return answer;
};
web.OpenFeature.addHooks(hook);
await web.OpenFeature.setProviderAndWait(new OFREPWebProvider({ baseUrl: base, pollInterval: 0 }));
const page = web.OpenFeature.getClient();
answers.web = await ask(page);
await ask(page); // a flag is reported once
await until(() => reports.length >= 7);
answers.reports = reports;

// The kill switch reaches the open page, and nothing polls.
answers.before = page.getBooleanDetails("boolean-flag", false).reason;
await fetch(`${base}/v1/experiments/boolean-flag/pause`, {
  method: "POST",
  headers: { "content-type": "application/json" },
  body: JSON.stringify({ reason: "orders fell" }),
});
await until(() => page.getBooleanDetails("boolean-flag", false).reason === "DISABLED");
answers.after = page.getBooleanDetails("boolean-flag", false).reason;
console.log(JSON.stringify(answers));
process.exit(0);
