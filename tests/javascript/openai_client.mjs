// The official npm client against a server: node openai_client.mjs ADDRESS. Prints one JSON object; fails on any surprise.
import OpenAI from "openai";

const client = new OpenAI({baseURL: process.argv[2] + "/v1", apiKey: "none", maxRetries: 0});
const model = (await client.models.list()).data[0].id;
const messages = [{role: "user", content: "What is the capital of France?"}];
const tools = [{type: "function", function: {name: "get_weather", parameters: {type: "object",
  properties: {city: {type: "string"}}, required: ["city"]}}}];
const found = {};

const whole = await client.chat.completions.create({model, messages});
found.whole = whole.choices[0].message.content;

found.streamed = "";
for await (const chunk of await client.chat.completions.create({model, messages, stream: true}))
  found.streamed += chunk.choices[0].delta.content ?? "";

const stream = client.chat.completions.stream({model, messages, stream_options: {include_usage: true}});
found.helper = await stream.finalContent();
found.tokens = (await stream.totalUsage()).completion_tokens;

const called = await client.chat.completions.stream({model, tools,
  messages: [{role: "user", content: "What is the weather in Paris?"}]}).finalChatCompletion();
found.call = called.choices[0].message.tool_calls[0].function;

found.completion = (await client.completions.create({model, prompt: "Once upon a time", max_tokens: 4})).choices[0].text;
const first = await client.responses.create({model, input: "My name is Anna and I live in Paris."});
found.response = (await client.responses.create({model, input: "What is my name?", previous_response_id: first.id})).output_text;

found.events = [];
for await (const event of await client.responses.create({model, input: "What is the capital of France?", stream: true}))
  found.events.push(event.type);

const aborted = await client.chat.completions.create({model, messages, stream: true, temperature: 5});
for await (const _ of aborted) break;  // leaves the stream

try {
  await client.chat.completions.create({model, messages, temperature: -1});
} catch (error) {
  found.refused = [error.constructor.name, error.status, error.message];
}
console.log(JSON.stringify(found));
