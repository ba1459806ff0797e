// @huggingface/inference, the hub's package for JavaScript, at an endpoint of one's own.
import {InferenceClient} from "@huggingface/inference";
import {asked, askedPerson, askedWeather, endless, errorOf, fn, format, key, model, report, v1} from "./scenarios.mjs";

const client = new InferenceClient(key, {endpointUrl: v1});
const ask = async (messages, more) => (await client.chatCompletion({model, messages, ...more})).choices[0].message;

async function chat() {
  return (await ask(asked)).content;
}

async function stream() {
  const pieces = [];
  for await (const chunk of client.chatCompletionStream({model, messages: asked}))
    pieces.push(chunk.choices[0].delta.content ?? "");
  return pieces;
}

async function tools() {
  const answer = await ask(askedWeather, {tools: [fn], tool_choice: "required"});
  return JSON.parse(answer.tool_calls[0].function.arguments);
}

async function schema() {
  return JSON.parse((await ask(askedPerson, {response_format: format})).content);
}

async function tools_with_schema() {
  const answer = await ask(askedWeather, {tools: [fn], response_format: format});
  return JSON.parse(answer.tool_calls?.[0].function.arguments ?? answer.content);
}

async function error() {
  return await errorOf(() => ask(asked, {temperature: -1}));
}

async function cancel() {
  const leaving = new AbortController();
  const chunks = client.chatCompletionStream({model, messages: asked, ...endless}, {signal: leaving.signal});
  for await (const _ of chunks) break;
  leaving.abort();
  return 1;
}

await report(chat, stream, tools, schema, tools_with_schema, error, cancel);
