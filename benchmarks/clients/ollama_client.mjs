// ollama, Ollama's package for JavaScript, at /api.
import {Ollama} from "ollama";
import {address, asked, askedPerson, askedWeather, errorOf, fn, form, model, report} from "./scenarios.mjs";

const client = new Ollama({host: address});
const ask = async (messages, more) => (await client.chat({model, messages, ...more})).message;

async function chat() {
  return (await ask(asked)).content;
}

async function stream() {
  const pieces = [];
  for await (const part of await client.chat({model, messages: asked, stream: true})) pieces.push(part.message.content);
  return pieces;
}

async function tools() {
  return (await ask(askedWeather, {tools: [fn]})).tool_calls?.[0].function.arguments ?? null;
}

async function schema() {
  return JSON.parse((await ask(askedPerson, {format: form})).content);
}

async function tools_with_schema() {
  const answer = await ask(askedWeather, {tools: [fn], format: form});
  return answer.tool_calls?.[0].function.arguments ?? JSON.parse(answer.content);
}

async function error() {
  return await errorOf(() => ask(asked, {options: {temperature: -1}}));
}

async function cancel() {
  const options = {num_predict: 30000, ignore_eos: true};
  const parts = await client.chat({model, messages: asked, stream: true, options});
  setTimeout(() => parts.abort(), 1);
  try {
    for await (const _ of parts);
  } catch (error) {
    if (error.name !== "AbortError") throw error;
  }
  return 1;
}

await report(chat, stream, tools, schema, tools_with_schema, error, cancel);
