/** A request as programs that run when they are pasted. Each takes `{ origin, account, token, model, body }`. */

const OPENAI_OWN = new Set(["messages", "prompt", "max_tokens", "temperature", "top_p", "seed", "frequency_penalty", "presence_penalty"]);
/** What OpenAI's chats have besides, and its completions have not. */
const CHAT_OWN = new Set([...OPENAI_OWN, "response_format", "tools", "tool_choice"]);

/** In the order of the dialog: id, label, what to do with it, and the code. */
export const SNIPPETS = [
  { id: "curl", label: "curl", about: "Paste it into a terminal.", code: curl },
  { id: "requests", label: "Python requests", about: "Needs pip install requests.", code: requests },
  { id: "cloudflare", label: "Python cloudflare", about: "Needs pip install cloudflare.", code: cloudflare },
  { id: "openai", label: "Python openai", about: "Needs pip install openai.", code: openai },
  { id: "worker", label: "Worker", about: "Save it as src/index.ts in the folder that gemlora worker init my-worker writes, after npm install there.", code: worker },
  { id: "wrangler", label: "wrangler upload", about: "Uploads the folder ./my-adapter, which holds adapter_config.json and adapter_model.safetensors.", code: wrangler },
];

function curl({ origin, account, token, model, body }) {
  return [
    `curl ${shell(`${origin}/client/v4/accounts/${account}/ai/run/${model}`)} \\`,
    `  -H ${shell(`Authorization: Bearer ${token}`)} \\`,
    `  -d ${shell(JSON.stringify(body))}`,
  ].join("\n");
}

function requests({ origin, account, token, model, body }) {
  return `${imports(body)}import requests

response = requests.post(
    ${python(`${origin}/client/v4/accounts/${account}/ai/run/${model}`)},
    headers={"Authorization": ${python(`Bearer ${token}`)}},
    json=${python(body, 1)},
)
answer = response.json()
print(${written('answer["result"]', body)} if answer["success"] else answer["errors"])`;
}

function cloudflare({ origin, account, token, model, body }) {
  const { lora, raw, tool_choice, ...known } = body;
  const extra = Object.fromEntries(Object.entries({ lora, raw, tool_choice }).filter(([, value]) => value !== undefined));
  const more = Object.keys(extra).length ? `\n    extra_body=${python(extra, 1)},` : "";
  return `${imports(body)}from cloudflare import Cloudflare

client = Cloudflare(base_url=${python(`${origin}/client/v4`)}, api_token=${python(token)})
answer = client.ai.run(
    ${python(model)},
    account_id=${python(account)},
${named(known)}${more}
)
print(${written("answer", body)})`;
}

function openai({ origin, account, token, model, body }) {
  const asked = body.raw ? completion(body) : chat(body);
  const names = body.raw ? OPENAI_OWN : CHAT_OWN;
  const own = Object.fromEntries(Object.entries(asked).filter(([name]) => names.has(name)));
  const extra = Object.fromEntries(Object.entries(asked).filter(([name]) => !names.has(name)));
  const more = Object.keys(extra).length ? `\n    extra_body=${python(extra, 1)},` : "";
  const call = body.raw ? "client.completions.create" : "client.chat.completions.create";
  return `from openai import OpenAI

client = OpenAI(base_url=${python(`${origin}/client/v4/accounts/${account}/ai/v1`)}, api_key=${python(token)})
answer = ${call}(
    model=${python(model)},
${named(own)}${more}
)
${openaiWritten(asked, body)}`;
}

/** For `completions`: no chat, so no tools. */
function completion(body) {
  return without(body, "raw", "tools", "tool_choice");
}

/** For `chat.completions`, with calls and tools as OpenAI has them. */
function chat(body) {
  const { prompt, messages = [{ role: "user", content: prompt }], tools, response_format, ...rest } = without(body, "raw");
  return {
    messages: openaiMessages(messages), ...rest,
    ...(response_format ? { response_format: openaiFormat(response_format) } : {}),
    ...(tools ? { tools: tools.map((tool) => (tool?.function ? tool : { type: "function", function: without(tool ?? {}, "type") })) } : {}),
  };
}

function openaiFormat({ type, json_schema }) {
  if (!json_schema) return { type };
  return { type, json_schema: "schema" in json_schema ? json_schema : { name: "answer", schema: json_schema } };
}

/** Calls get ids, by which their results know them. */
function openaiMessages(messages) {
  let made = 0;
  let answered = 0;
  return messages.map(({ tool_calls, name, ...message }) => {
    if (message.role === "tool") return { role: "tool", tool_call_id: `call_${answered++}`, content: message.content };
    if (!tool_calls) return message;
    answered = made;
    return { ...message, tool_calls: tool_calls.map((call) => openaiCall(call, `call_${made++}`)) };
  });
}

function openaiCall({ name, arguments: given }, id) {
  return { id, type: "function", function: { name, arguments: spaced(given) } };
}

/** JSON on one line with a blank behind commas and colons: what the server makes of arguments, so that the prompt is the same. */
function spaced(value) {
  return JSON.stringify(value, null, 1).replace(/,\n */g, ", ").replace(/\n */g, "");
}

function openaiWritten(asked, body) {
  if (body.raw && body.tools) return "print(answer.choices[0].text)  # completions take no tools: they are left out here";
  if (body.raw) return "print(answer.choices[0].text)";
  if (!asked.tools) return "print(answer.choices[0].message.content)";
  return `message = answer.choices[0].message
print([call.function.to_dict() for call in message.tool_calls or []] or message.content)`;
}

function worker({ origin, token, model, body }) {
  return `// GEMLORA_URL=${origin} GEMLORA_API_TOKEN=${shell(token)} npm start
export interface Env {
  AI: Ai;
}
export default {
  async fetch(request, env): Promise<Response> {
    const response = await env.AI.run(${JSON.stringify(model)}, ${indented(JSON.stringify(body, null, 2), "    ")});
    return Response.json(response);
  },
} satisfies ExportedHandler<Env>;`;
}

function wrangler({ origin, account, token, model }) {
  return [
    `export CLOUDFLARE_API_BASE_URL=${shell(`${origin}/client/v4`)}`,
    `export CLOUDFLARE_ACCOUNT_ID=${shell(account)}`,
    `export CLOUDFLARE_API_TOKEN=${shell(token)}`,
    `npx wrangler ai finetune create ${shell(model)} my-adapter ./my-adapter`,
  ].join("\n");
}

function without(body, ...names) {
  return Object.fromEntries(Object.entries(body).filter(([key]) => !names.includes(key)));
}

/** What a Python program needs to print the answer. */
function imports(body) {
  return body.response_format ? "import json\n\n" : "";
}

/** The calls or the response in `result`, for Python's `print`; JSON comes as an object, and is printed as JSON. */
function written(result, body) {
  const value = body.tools ? `${result}.get("tool_calls") or ${result}["response"]` : `${result}["response"]`;
  return body.response_format ? `json.dumps(${value}, ensure_ascii=False)` : value;
}

/** For a POSIX shell. */
function shell(text) {
  return /^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`;
}

function named(values) {
  return Object.entries(values).map(([name, value]) => `    ${name}=${python(value, 1)},`).join("\n");
}

/** A value of JSON as Python writes it. JSON's strings are Python's, apart from lone halves of surrogate pairs. */
function python(value, depth = 0) {
  if (value === true) return "True";
  if (value === false) return "False";
  if (value === null) return "None";
  if (typeof value !== "object") return JSON.stringify(value);
  const inner = "    ".repeat(depth + 1);
  const entries = Array.isArray(value)
    ? value.map((item) => `${inner}${python(item, depth + 1)},`)
    : Object.entries(value).map(([key, item]) => `${inner}${JSON.stringify(key)}: ${python(item, depth + 1)},`);
  const [open, close] = Array.isArray(value) ? "[]" : "{}";
  return [open, ...entries, "    ".repeat(depth) + close].join("\n");
}

function indented(text, by) {
  return text.replaceAll("\n", `\n${by}`);
}
