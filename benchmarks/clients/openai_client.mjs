// openai, OpenAI's package for JavaScript.
import OpenAI from "openai";
import {asked, askedPerson, askedWeather, endless, errorOf, fn, format, key, model, report, v1} from "./scenarios.mjs";

const completions = new OpenAI({baseURL: v1, apiKey: key, maxRetries: 0}).chat.completions;
const create = async (more) => (await completions.create({model, ...more})).choices[0].message;

async function chat() {
  return (await create({messages: asked})).content;
}

async function stream() {
  const pieces = [];
  for await (const chunk of await completions.create({model, messages: asked, stream: true}))
    pieces.push(chunk.choices[0].delta.content ?? "");
  return pieces;
}

async function tools() {
  const answer = await create({messages: askedWeather, tools: [fn], tool_choice: "required"});
  return JSON.parse(answer.tool_calls[0].function.arguments);
}

async function schema() {
  return JSON.parse((await create({messages: askedPerson, response_format: format})).content);
}

async function tools_with_schema() {
  const answer = await create({messages: askedWeather, tools: [fn], response_format: format});
  return JSON.parse(answer.tool_calls?.[0].function.arguments ?? answer.content);
}

async function error() {
  return await errorOf(() => create({messages: asked, temperature: -1}));
}

async function cancel() {
  const answer = await completions.create({model, messages: asked, stream: true, ...endless});
  for await (const _ of answer) break;
  return 1;
}

await report(chat, stream, tools, schema, tools_with_schema, error, cancel);
