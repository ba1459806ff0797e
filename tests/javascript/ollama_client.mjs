// Ollama's npm client against a server: node ollama_client.mjs ADDRESS. Prints one JSON object; fails on any surprise.
import {Ollama} from "ollama";

const client = new Ollama({host: process.argv[2]});
const model = (await client.list()).models[0].model;
const asked = {model, options: {temperature: 0}, messages: [{role: "user", content: "What is the capital of France?"}]};
const tools = [{type: "function", function: {name: "get_weather", description: "The weather in a city.",
  parameters: {type: "object", properties: {city: {type: "string"}}, required: ["city"]}}}];
const format = {type: "object", properties: {city: {type: "string", maxLength: 8}}, required: ["city"]};
const found = {};

found.whole = (await client.chat(asked)).message.content;
found.streamed = "";
for await (const part of await client.chat({...asked, stream: true})) found.streamed += part.message.content;
found.generated = (await client.generate({model, prompt: asked.messages[0].content, options: asked.options})).response;
found.call = (await client.chat({...asked, tools,
  messages: [{role: "user", content: "What is the weather in Paris?"}]})).message.tool_calls?.[0].function;
found.bound = JSON.parse((await client.chat({...asked, format})).message.content);
found.able = (await client.show({model})).capabilities;

for await (const _ of await client.chat({...asked, stream: true})) break;  // leaves the stream

try {
  await client.chat({...asked, options: {temperature: -1}});
} catch (error) {
  found.refused = [error.status_code, error.message];
}
console.log(JSON.stringify(found));
