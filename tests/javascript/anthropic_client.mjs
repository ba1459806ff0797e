// Anthropic's npm client against a server: node anthropic_client.mjs ADDRESS. Prints one JSON object; fails on any surprise.
import Anthropic from "@anthropic-ai/sdk";

const client = new Anthropic({baseURL: process.argv[2], apiKey: "none", maxRetries: 0});
const model = (await client.models.list()).data[0].id;
const asked = {model, max_tokens: 60, messages: [{role: "user", content: "What is the capital of France?"}]};
const tools = [{name: "get_weather", input_schema: {type: "object",
  properties: {city: {type: "string"}}, required: ["city"]}}];
const found = {};

const whole = await client.messages.create(asked);
found.whole = whole.content[0].text;
found.ended = whole.stop_reason;
found.counted = (await client.messages.countTokens({model, messages: asked.messages})).input_tokens;

found.events = [];
for await (const event of await client.messages.create({...asked, stream: true})) found.events.push(event.type);

const stream = client.messages.stream(asked);
found.streamed = "";
stream.on("text", (text) => found.streamed += text);
found.tokens = (await stream.finalMessage()).usage.output_tokens;

const called = await client.messages.stream({...asked, tools, tool_choice: {type: "any"},
  messages: [{role: "user", content: "What is the weather in Paris?"}]}).finalMessage();
found.call = called.content[0];

const aborted = client.messages.stream(asked);
for await (const _ of aborted) break;  // leaves the stream

try {
  await client.messages.create({...asked, max_tokens: 0});
} catch (error) {
  found.refused = [error.constructor.name, error.status, error.message];
}
console.log(JSON.stringify(found));
