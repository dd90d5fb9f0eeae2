// What a user of Cloudflare's TypeScript library does with a finetune, from creation to answers; prints what came back.
// Arguments: base URL, account id, API token, model, name, PEFT folder, raw prompt.
import fs from "node:fs";
import path from "node:path";
import Cloudflare, { toFile } from "cloudflare";

const [baseURL, account_id, apiToken, model, name, folder, prompt] = process.argv.slice(2);
const client = new Cloudflare({ baseURL, apiToken, maxRetries: 0 });
const { assets } = client.ai.finetunes;

const created = await client.ai.finetunes.create({ account_id, model, name, description: "By the library" });
const config = await toFile(fs.readFileSync(path.join(folder, "adapter_config.json")), "adapter_config.json");
const weights = fs.createReadStream(path.join(folder, "adapter_model.safetensors"));
const uploads = [
  await assets.create(created.id, { account_id, file: config, file_name: "adapter_config.json" }),
  await assets.create(created.id, { account_id, file: weights, file_name: "adapter_model.safetensors" }),
];

const answer = async (lora) => {
  const input = { account_id, prompt, raw: true, temperature: 0, max_tokens: 24, ...lora };
  return (await client.ai.run(model, input)).response;
};

const collected = async (pages) => {
  const items = [];
  for await (const item of pages) items.push(item);
  return items;
};

console.log(
  JSON.stringify({
    created,
    uploads: uploads.map((upload) => upload.success),
    listed: await client.ai.finetunes.list({ account_id }),
    shelf: (await collected(client.ai.finetunes.public.list({ account_id }))).map((item) => item.name),
    models: (await collected(client.ai.models.list({ account_id }))).map((item) => item.name),
    base: await answer({}),
    by_name: await answer({ lora: name }),
    by_id: await answer({ lora: created.id }),
  }),
);
