// What llama.cpp's build for browsers computes: log-probabilities of the whole vocabulary after the last tokens of a prompt.
//
//     npm install @wllama/wllama@3.13.0 node@26
//     node_modules/node/bin/node .../tools/llama_wasm.mjs FILE.gguf '[1, 2, 3]' POSITIONS      (where node_modules is)
//
// The prompt is given as ids; the file's vocabulary must spell id 5 as <t5> (tools/make_llama_case_goldens.py). Prints a
// JSON array of POSITIONS arrays, by token id. The package expects a browser: a worker, a document and fetch are stand-ins.
import { resolveObjectURL } from "node:buffer";
import { openAsBlob } from "node:fs";
import { createRequire } from "node:module";
import { Worker as Thread } from "node:worker_threads";

const WEB_WORKER = `
const { parentPort } = require("node:worker_threads");
const { readFileSync } = require("node:fs");
globalThis.self = globalThis;
globalThis.postMessage = (data, transfer) => parentPort.postMessage(data, transfer);
globalThis.fetch = async (address) =>
  new Response(readFileSync(new URL(address).pathname), { headers: { "content-type": "application/wasm" } });
parentPort.on("message", (data) => globalThis.onmessage({ data }));
delete globalThis.process;
`;

globalThis.document = { baseURI: "http://local/" };
globalThis.Worker = class {
  constructor(url) {
    this.started = resolveObjectURL(url).text().then((code) => {
      const thread = new Thread(WEB_WORKER + code, { eval: true });
      thread.on("message", (data) => this.onmessage({ data }));
      return thread;
    });
  }
  async postMessage(data) {
    (await this.started).postMessage(data);
  }
  terminate() {}
};

const [file, prompt, positions] = process.argv.slice(2);
const require = createRequire(`${process.cwd()}/`);
const { Wllama } = require("@wllama/wllama");
const wasm = require.resolve("@wllama/wllama/package.json").replace("package.json", "esm/wasm/wllama.wasm");
const quiet = { debug() {}, log() {}, warn() {}, error: console.error };
const wllama = new Wllama({ default: wasm }, { logger: quiet, cacheManager: {}, modelManager: {} });
await wllama.loadModel([await openAsBlob(file)], {
  n_threads: 1, n_gpu_layers: 0, n_ctx: 256, n_parallel: 1, flash_attn: false, cache_type_k: "f32", cache_type_v: "f32",
});
const { success, n_vocab: size } = wllama.getLoadedContextInfo();
if (!success) throw new Error(`${file} was not loaded`);
const ids = JSON.parse(prompt), rows = [];
for (let end = ids.length - Number(positions) + 1; end <= ids.length; end++) {
  const text = ids.slice(0, end).map((id) => `<t${id}>`).join("");
  const answer = await wllama.createCompletion({ prompt: text, max_tokens: 1, logprobs: size, cache_prompt: false });
  const row = new Array(size);
  for (const { id, logprob } of answer.choices[0].logprobs.content[0].top_logprobs) row[id] = logprob;
  rows.push(row);
}
console.log(JSON.stringify(rows));
process.exit(0);
