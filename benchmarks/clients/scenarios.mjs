// What every JavaScript client is asked, and how its script tells what came of it: as scenarios.py does.
import {readFileSync} from "node:fs";

const said = JSON.parse(readFileSync(new URL("scenarios.json", import.meta.url)));
export const {question, weather, extract, tool, schema: form} = said;
export const fn = {type: "function", function: tool};
export const format = {type: "json_schema", json_schema: {name: "person", schema: form, strict: true}};
export const asked = [{role: "user", content: question}];
export const askedWeather = [{role: "user", content: weather}];
export const askedPerson = [{role: "user", content: extract}];
export const endless = {ignore_eos: true, max_tokens: 30000};
export const address = process.argv[2], v1 = `${address}/v1`, model = "demo", key = "none";

export async function report(...scenarios) {
  for (const scenario of scenarios) {
    let told;
    try {
      told = {value: await scenario()};
    } catch (error) {
      told = {failed: `${error.name}: ${error.message}`.slice(0, 500)};
    }
    console.log(JSON.stringify({scenario: scenario.name, ...told}));
  }
}

export async function errorOf(ask) {
  let answer;
  try {
    answer = await ask();
  } catch (error) {
    return `${error.message} ${error.responseBody ?? ""} ${JSON.stringify(error.httpResponse?.body ?? "")}`;
  }
  throw new Error(`no error, but ${JSON.stringify(answer).slice(0, 200)}`);
}
