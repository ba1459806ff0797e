// ai and @ai-sdk/openai-compatible, Vercel's AI SDK.
import {createOpenAICompatible} from "@ai-sdk/openai-compatible";
import {generateText, jsonSchema, Output, stepCountIs, streamText, tool as define} from "ai";
import {errorOf, extract, form, key, model as name, question, report, tool, v1, weather} from "./scenarios.mjs";

const provider = createOpenAICompatible({name: "edge", baseURL: v1, apiKey: key, supportsStructuredOutputs: true});
const model = provider(name);
const called = [];
const get_weather = define({
  description: tool.description,
  inputSchema: jsonSchema(tool.parameters),
  execute: async (given) => {
    called.push(given);
    return "22 degrees and sunny";
  },
});
const output = Output.object({schema: jsonSchema(form)});
const ask = (prompt, more) => generateText({model, prompt, maxRetries: 0, ...more});

async function chat() {
  return (await ask(question)).text;
}

async function stream() {
  const pieces = [];
  for await (const text of streamText({model, prompt: question, maxRetries: 0}).textStream) pieces.push(text);
  return pieces;
}

async function tools() {
  const prepareStep = ({stepNumber}) => ({toolChoice: stepNumber === 0 ? "required" : "none"});
  const answer = await ask(weather, {tools: {get_weather}, stopWhen: stepCountIs(2), prepareStep});
  if (!answer.text) throw new Error("no text after the tool's result");
  return called[0];
}

async function schema() {
  return (await ask(extract, {output})).output;
}

async function tools_with_schema() {
  called.length = 0;
  const answer = await ask(weather, {tools: {get_weather}, output, stopWhen: stepCountIs(3)});
  return called[0] ?? answer.output;
}

async function error() {
  return await errorOf(() => ask(question, {temperature: -1}));
}

async function cancel() {
  const leaving = new AbortController();
  const providerOptions = {edge: {ignore_eos: true}};
  const onError = () => {};
  const ask = {model, prompt: question, maxOutputTokens: 30000, providerOptions, abortSignal: leaving.signal, onError};
  for await (const _ of streamText(ask).textStream) {
    leaving.abort();
    break;
  }
  return 1;
}

await report(chat, stream, tools, schema, tools_with_schema, error, cancel);
