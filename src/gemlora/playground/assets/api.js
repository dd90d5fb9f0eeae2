/** The wire API as functions. Knows no element of the page. The token lives in this object alone. */

import { Failure } from "./failure.js";
import { events } from "./sse.js";

/** What an account is called in paths before its id is known. */
export const OWN_ACCOUNT = "your-account-id";

const OPTIONS = { credentials: "omit", cache: "no-store", redirect: "error" };

/** One account's access to the server. */
export class Client {
  #token;

  constructor(token, account = OWN_ACCOUNT) {
    this.#token = token;
    this.account = account;
    this.onRefusedToken = () => {};
  }

  /** The token's text, for code that the reader copies. */
  get token() {
    return this.#token;
  }

  /** The `result` of a call below the account; `body` is sent as JSON. */
  async call(method, path, body) {
    return (await this.#answer(method, path, body)).result;
  }

  /** Pieces of an answer as the server streams them: its events' objects. The headers come first, as a `Headers`. */
  async *run(model, body, signal) {
    const response = await this.#fetch("POST", `/ai/run/${encoded(model)}`, { ...body, stream: true }, signal);
    if (!response.ok) throw await failure(response);
    yield response.headers;
    yield* events(response.body);
  }

  /** Upload one file of a finetune; `progress` is told bytes sent and bytes in all. Resolves to the asset. */
  upload(finetune, fileName, file, progress, signal) {
    const form = new FormData();
    form.append("file_name", fileName);
    form.append("file", file, fileName);
    const request = new XMLHttpRequest(); // fetch tells nothing about the progress of what it sends
    return new Promise((resolve, reject) => {
      request.open("POST", this.#address(`/ai/finetunes/${encodeURIComponent(finetune)}/finetune-assets`));
      request.setRequestHeader("Authorization", `Bearer ${this.#token}`);
      request.upload.addEventListener("progress", (event) => progress(event.loaded, event.total));
      request.addEventListener("load", () => {
        const body = parsed(request.responseText);
        if (body?.success) resolve(body.result);
        else reject(failureOf(body, request.status));
      });
      request.addEventListener("error", () => reject(new Failure("The server could not be reached")));
      request.addEventListener("abort", () => reject(new DOMException("Stopped", "AbortError")));
      signal?.addEventListener("abort", () => request.abort());
      request.send(form);
    });
  }

  async #answer(method, path, body) {
    const response = await this.#fetch(method, path, body);
    const answer = parsed(await response.text());
    if (!response.ok || !answer?.success) throw failureOf(answer, response.status);
    return answer;
  }

  async #fetch(method, path, body, signal) {
    const headers = { Authorization: `Bearer ${this.#token}` };
    if (body !== undefined) headers["Content-Type"] = "application/json";
    const text = body === undefined ? undefined : JSON.stringify(body);
    const response = await reached(fetch(this.#address(path), { ...OPTIONS, method, headers, body: text, signal }));
    if (response.status === 401) this.onRefusedToken();
    return response;
  }

  #address(path) {
    return `/client/v4/accounts/${this.account}${path}`;
  }
}

/** Exchange the one-time code of a printed link for a token: `{ token, account_id, expires_on }`. */
export async function exchange(code) {
  const headers = { "Content-Type": "application/json" };
  const body = JSON.stringify({ code });
  const response = await reached(fetch("/client/v4/sign-in", { ...OPTIONS, method: "POST", headers, body }));
  const answer = parsed(await response.text());
  if (!response.ok || !answer?.success) throw failureOf(answer, response.status);
  return answer.result;
}

/** The server's metrics in the text format of Prometheus. */
export async function metricsText() {
  const response = await reached(fetch("/metrics", OPTIONS));
  if (!response.ok) throw new Failure("The metrics cannot be read", 0, response.status);
  return response.text();
}

/** The names that a body of the run route can have, as the server describes itself; none if it does not. */
export async function describedInputs() {
  const response = await reached(fetch("/openapi.json", OPTIONS));
  const document = response.ok ? parsed(await response.text()) : null;
  const body = Object.entries(document?.paths ?? {}).find(([path]) => path.endsWith("/ai/run/{model}"))?.[1].post?.requestBody;
  return new Set(propertyNames(document, body?.content?.["application/json"]?.schema));
}

/** The properties of a schema and of those that it is one of or all of. */
function propertyNames(document, schema) {
  const { $ref, properties = {}, oneOf = [], allOf = [] } = schema ?? {};
  const referred = $ref ? [document.components.schemas[$ref.split("/").at(-1)]] : [];
  return [...Object.keys(properties), ...[...referred, ...oneOf, ...allOf].flatMap((part) => propertyNames(document, part))];
}

async function reached(request) {
  try {
    return await request;
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Failure("The server could not be reached");
  }
}

async function failure(response) {
  return failureOf(parsed(await response.text()), response.status);
}

function failureOf(body, status) {
  const error = body?.errors?.[0];
  return new Failure(error?.message ?? "The server's answer cannot be read", error?.code ?? 0, status);
}

function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}

function encoded(model) {
  return model.split("/").map(encodeURIComponent).join("/");
}
