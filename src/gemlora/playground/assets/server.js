/** What is served, and how it does: from the catalogue and the metrics. */

import { Chart } from "./charts.js";
import { byId, element } from "./dom.js";
import { bytes } from "./format.js";

const CHARTS = [
  { title: "Tokens per second", of: (metrics) => metrics.rate("gemlora_output_tokens_total"), format: (value) => value.toFixed(1) },
  { title: "Time to first token", of: (metrics) => metrics.mean("gemlora_first_token_seconds"), format: (value) => `${value.toFixed(2)} s` },
  { title: "Running", of: (metrics) => metrics.gauge("gemlora_engine_running"), format: String },
  { title: "Waiting", of: (metrics) => metrics.gauge("gemlora_engine_waiting"), format: String },
];

export class ServerView {
  #metrics;
  #charts = CHARTS.map(({ title, of, format }) => ({ chart: new Chart(title, format), of }));

  constructor(session, metrics) {
    this.#metrics = metrics;
    byId("served").replaceChildren(...served(session));
    byId("charts").replaceChildren(...this.#charts.map(({ chart }) => chart.node));
    metrics.addEventListener("sample", () => this.show());
    this.show();
  }

  /** Draw it, if somebody looks. */
  show() {
    if (byId("server").hidden) return;
    const { failed } = this.#metrics;
    byId("metrics-state").textContent = failed ? "The server cannot be reached; what is shown is old." : "";
    byId("tiles").replaceChildren(...this.#tiles().map(([name, value]) => element("div", {}, element("dt", {}, name), element("dd", {}, value))));
    for (const { chart, of } of this.#charts) chart.show(of(this.#metrics));
  }

  #tiles() {
    const now = (name) => this.#metrics.now(`gemlora_engine_${name}`);
    const used = now("blocks") - now("free_blocks");
    return [
      ["Running", String(now("running"))],
      ["Waiting in the queue", String(now("waiting"))],
      ["Resident adapters", `${now("adapters")} (${bytes(now("adapter_bytes"))})`],
      ["KV cache in use", now("blocks") ? `${Math.round((100 * used) / now("blocks"))} %` : "–"],
      ["Tokens written", Math.round(this.#metrics.now("gemlora_output_tokens_total")).toLocaleString("en")],
      ["Prompt tokens", Math.round(this.#metrics.now("gemlora_prompt_tokens_total")).toLocaleString("en")],
    ];
  }
}

function served(session) {
  const facts = {
    Model: element("code", {}, session.model.name),
    Weights: session.property("weights"),
    Quantisation: session.property("quantization"),
    Context: `${session.property("context_window")} tokens`,
    "Where no adapter is named": session.defaultAdapter ?? "the base, without one",
    Account: element("code", {}, session.client.account),
    "This token may": [...session.scopes].join(", "),
  };
  return [
    element("p", { class: "served" }, session.model.description),
    element("dl", { class: "facts" }, ...Object.entries(facts).map(([name, value]) => element("div", {}, element("dt", {}, name), element("dd", {}, value)))),
  ];
}
