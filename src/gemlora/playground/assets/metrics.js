/** The server's metrics, read again and again, and what their differences say. */

import { metricsText } from "./api.js";

const EVERY_SECONDS = 2;
const HISTORY_SECONDS = 300;

/** Keeps the samples of the last minutes. Dispatches `sample`; `failed` says whether the last reading did. */
export class Metrics extends EventTarget {
  #timer = null;
  #samples = []; // { time in seconds, values: Map of name to sum over its labels }

  failed = false;

  start() {
    this.#read();
    this.#timer = setInterval(() => this.#read(), EVERY_SECONDS * 1000);
  }

  stop() {
    clearInterval(this.#timer);
    this.#samples = [];
  }

  /** The newest value; 0 before there is one. */
  now(name) {
    return this.#samples.at(-1)?.values.get(name) ?? 0;
  }

  /** Points `{ age, value }` of a gauge, oldest first, with ages in seconds. */
  gauge(name) {
    return this.#points(({ values }) => values.get(name) ?? 0);
  }

  /** How fast a counter grew from sample to sample, per second. */
  rate(name) {
    return this.#steps((before, after) => growth(before, after, name) / (after.time - before.time));
  }

  /** The mean of what a histogram got from sample to sample; samples that got nothing have no point. */
  mean(name) {
    return this.#steps((before, after) => {
      const count = growth(before, after, `${name}_count`);
      return count > 0 ? growth(before, after, `${name}_sum`) / count : null;
    });
  }

  #points(value) {
    const now = this.#samples.at(-1)?.time ?? 0;
    return this.#samples.map((sample) => ({ age: now - sample.time, value: value(sample) }));
  }

  #steps(value) {
    const now = this.#samples.at(-1)?.time ?? 0;
    const steps = this.#samples.slice(1).map((after, i) => ({ age: now - after.time, value: value(this.#samples[i], after) }));
    return steps.filter((step) => step.value !== null);
  }

  async #read() {
    if (document.hidden) return;
    try {
      const values = parse(await metricsText());
      const time = performance.now() / 1000;
      this.#samples = [...this.#samples.filter((sample) => time - sample.time <= HISTORY_SECONDS), { time, values }];
      this.failed = false;
    } catch {
      this.failed = true;
    }
    this.dispatchEvent(new Event("sample"));
  }
}

/** A counter that went back was started anew. */
function growth(before, after, name) {
  return Math.max(0, (after.values.get(name) ?? 0) - (before.values.get(name) ?? 0));
}

function parse(text) {
  const values = new Map();
  for (const line of text.split("\n")) {
    const match = /^([a-z_]+)(?:\{[^}]*\})? (\S+)$/.exec(line);
    if (match) values.set(match[1], (values.get(match[1]) ?? 0) + Number(match[2]));
  }
  return values;
}
