// transformers.js on an exported folder: node transformers_js.mjs MODELS NAME IDS COUNT. Prints all ids as JSON.
import {AutoModelForCausalLM, Tensor, env} from "@huggingface/transformers";

const [models, name, ids, count] = process.argv.slice(2);
env.allowRemoteModels = false;
env.localModelPath = models;
const model = await AutoModelForCausalLM.from_pretrained(name, {dtype: "fp32", device: "cpu", use_external_data_format: true});
const tensor = (values) => new Tensor("int64", BigInt64Array.from(values, BigInt), [1, values.length]);
const prompt = JSON.parse(ids);
const output = await model.generate({
  inputs: tensor(prompt), attention_mask: tensor(prompt.map(() => 1)), max_new_tokens: Number(count), do_sample: false,
});
console.log(JSON.stringify(Array.from(output.data, Number)));
