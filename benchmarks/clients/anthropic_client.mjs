// @anthropic-ai/sdk, Anthropic's package for JavaScript, at /v1/messages.
import Anthropic from "@anthropic-ai/sdk";
import {address, asked, askedPerson, askedWeather, endless, errorOf, form, key, model, report, tool} from "./scenarios.mjs";

const client = new Anthropic({baseURL: address, apiKey: key, maxRetries: 0});
const ask = (more) => ({model, max_tokens: 200, ...more});
const first = async (more) => (await client.messages.create(ask(more))).content[0];
const ours = [{name: tool.name, description: tool.description, input_schema: tool.parameters}];
const output_config = {format: {type: "json_schema", schema: form}};

async function chat() {
  return (await first({messages: asked})).text;
}

async function stream() {
  const pieces = [];
  await client.messages.stream(ask({messages: asked})).on("text", (text) => pieces.push(text)).finalMessage();
  return pieces;
}

async function tools() {
  return (await first({messages: askedWeather, tools: ours, tool_choice: {type: "any"}})).input;
}

async function schema() {
  return JSON.parse((await first({messages: askedPerson, output_config})).text);
}

async function tools_with_schema() {
  const block = await first({messages: askedWeather, tools: ours, output_config});
  return block.input ?? JSON.parse(block.text);
}

async function error() {
  return await errorOf(() => first({messages: asked, temperature: -1}));
}

async function cancel() {
  for await (const _ of await client.messages.create(ask({messages: asked, stream: true, ...endless}))) break;
  return 1;
}

await report(chat, stream, tools, schema, tools_with_schema, error, cancel);
