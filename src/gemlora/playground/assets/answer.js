/** One answer from its first byte to its last, measured. Chat and comparison both get theirs here. */

import { Failure } from "./failure.js";
import { counted } from "./format.js";

const LEAST_SECONDS = 0.02;

/** What is known of an answer; `seconds` are from sending the request. */
export class Answer {
  constructor() {
    this.text = "";
    this.toolCalls = [];
    this.usage = null;
    this.finish = null;
    this.adapter = null;
    this.firstSeconds = null;
    this.seconds = null;
    this.stopped = false;
    this.failure = null;
  }

  /** Tokens per second after the first one; null where there is too little to measure. */
  get rate() {
    const tokens = (this.usage?.completion_tokens ?? 0) - 1;
    const seconds = this.seconds - this.firstSeconds;
    return tokens > 0 && seconds >= LEAST_SECONDS ? tokens / seconds : null;
  }

  /** Short facts for the line below an answer. */
  get facts() {
    const facts = [];
    if (this.usage) {
      facts.push(counted(this.usage.completion_tokens, "token"));
      if (this.rate !== null) facts.push(`${this.rate.toFixed(1)} tokens/s`);
    }
    if (this.firstSeconds !== null) facts.push(`first after ${this.firstSeconds.toFixed(2)} s`);
    if (this.usage) facts.push(`prompt ${counted(this.usage.prompt_tokens, "token")}`);
    if (this.finish === "length") facts.push("cut at max_tokens");
    if (this.stopped) facts.push("stopped");
    return facts;
  }
}

/** Ask and follow the stream; `changed` is called with the answer as it grows. Failures are in the answer. */
export async function ask(client, model, body, signal, changed) {
  const answer = new Answer();
  const begin = performance.now();
  const elapsed = () => (performance.now() - begin) / 1000;
  try {
    for await (const event of client.run(model, body, signal)) {
      if (event instanceof Headers) {
        answer.adapter = adapterName(event.get("gemlora-adapter"));
        continue;
      }
      if (event.response || event.tool_calls?.length) answer.firstSeconds ??= elapsed();
      if (typeof event.response === "string") answer.text += event.response;
      answer.toolCalls.push(...(event.tool_calls ?? []));
      if (event.usage) Object.assign(answer, { usage: event.usage, finish: event.finish_reason, seconds: elapsed() });
      changed(answer);
    }
  } catch (error) {
    if (error.name === "AbortError") answer.stopped = true;
    else answer.failure = error instanceof Failure ? error : new Failure(String(error.message ?? error));
  }
  answer.seconds ??= elapsed();
  return answer;
}

/** The name in the header's `NAME@DIGEST`; null for `none`. */
function adapterName(header) {
  if (header === null || header === "none") return null;
  const name = header.slice(0, header.lastIndexOf("@"));
  try {
    return decodeURIComponent(name);
  } catch {
    return name; // a percent sign of its own
  }
}
