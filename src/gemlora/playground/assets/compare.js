/** The same prompt for the base model and one or two adapters, at the same time, with a verdict on each pair. */

import { ask } from "./answer.js";
import { callCards, callsText } from "./calls.js";
import { announce, byId, element, save } from "./dom.js";
import { compared } from "./diff.js";
import { comparisonsCsv, comparisonsJson } from "./export.js";
import { BARE_BASE } from "./session.js";
import { BASE, fill } from "./settings.js";

const HIGHEST_SEED = 9_999_999_999;
const VERDICTS = ["better", "same", "worse"];

export class Compare {
  #session;
  #settings;
  #running = null;
  #seed = null; // of the last comparison
  #kept = []; // comparisons with their verdicts, oldest first

  constructor(session, settings) {
    this.#session = session;
    this.#settings = settings;
    byId("compare-form").onsubmit = (event) => {
      event.preventDefault();
      this.#run();
    };
    byId("compare-prompt").onkeydown = (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      this.#run();
    };
    byId("compare-stop").onclick = () => this.stop();
    byId("mark").onchange = () => byId("answers").classList.toggle("unmarked", !byId("mark").checked);
    byId("export-json").onclick = () => save(comparisonsJson(this.#kept), "comparisons.json", "application/json");
    byId("export-csv").onclick = () => save(comparisonsCsv(this.#kept), "comparisons.csv", "text/csv");
    session.addEventListener("adapters", () => this.#listAdapters());
    this.clear();
    this.#listAdapters();
  }

  /** The request of the first adapter's side, with the seed of the last comparison, so that it gives the same answer. */
  get request() {
    const content = byId("compare-prompt").value.trim() || byId("compare-prompt").placeholder;
    const body = this.#settings.body([{ role: "user", content }], byId("first-adapter").value || BARE_BASE);
    return this.#seed === null ? body : { seed: this.#seed, ...body };
  }

  /** Choose the adapter that stands beside the base. */
  choose(name) {
    byId("first-adapter").value = name;
  }

  stop() {
    this.#running?.abort();
  }

  clear() {
    this.stop();
    this.#kept = [];
    this.#seed = null;
    byId("answers").replaceChildren();
    byId("verdicts").replaceChildren();
    byId("compare-error").textContent = "";
    this.#show();
  }

  #listAdapters() {
    fill(byId("first-adapter"), this.#session, "Choose an adapter");
    fill(byId("second-adapter"), this.#session, "None");
    byId("no-adapters").hidden = this.#session.usable.length > 0;
  }

  async #run() {
    const prompt = byId("compare-prompt").value.trim();
    if (this.#running || !prompt) return;
    const chosen = [byId("first-adapter").value, byId("second-adapter").value].filter(Boolean);
    const adapters = [BARE_BASE, ...new Set(chosen)];
    byId("compare-error").textContent = adapters.length > 1 ? "" : "Choose an adapter to compare the base model with.";
    if (adapters.length < 2) return;
    let bodies;
    try {
      bodies = this.#bodies(prompt, adapters);
    } catch (error) {
      byId("compare-error").textContent = error.message;
      return;
    }
    this.#running = new AbortController();
    byId("verdicts").replaceChildren();
    const sides = adapters.map((adapter) => new Side(adapter === BARE_BASE ? BASE : adapter));
    byId("answers").replaceChildren(...sides.map((side) => side.node));
    this.#show();
    const asking = sides.map((side, i) =>
      ask(this.#session.client, this.#session.model.name, bodies[i], this.#running.signal, (answer) => side.grow(answer.text)));
    const answers = await Promise.all(asking);
    sides.forEach((side, i) => side.finish(answers[i]));
    this.#running = null;
    if (sides[0].node.isConnected) this.#judge(prompt, bodies[0], sides);
    this.#show();
  }

  /** One body for each adapter, all with the same seed. */
  #bodies(prompt, adapters) {
    const turns = [{ role: "user", content: prompt }];
    const seed = this.#settings.body(turns).seed ?? 1 + Math.floor(Math.random() * HIGHEST_SEED);
    this.#seed = seed;
    return adapters.map((adapter) => this.#settings.body(turns, adapter, { seed }));
  }

  #judge(prompt, body, sides) {
    if (sides.some((side) => side.answer.failure || side.answer.stopped)) {
      announce("The comparison is not complete");
      return;
    }
    mark(sides);
    const { messages, prompt: _, lora, seed, ...parameters } = body;
    const system = messages?.find(({ role }) => role === "system")?.content ?? "";
    const comparison = {
      time: new Date().toISOString(), model: this.#session.model.name, weights: this.#session.property("weights"),
      form: messages ? "messages" : "prompt", system, prompt, seed, parameters,
      answers: sides.map(({ name, answer }) => ({
        adapter: answer.adapter, name, response: answer.text, usage: answer.usage, finish_reason: answer.finish,
        ...(answer.toolCalls.length ? { tool_calls: answer.toolCalls } : {}),
        first_token_seconds: answer.firstSeconds, tokens_per_second: answer.rate,
      })),
      pairs: pairs(sides).map(([left, right]) => ({ left: left.name, right: right.name, verdict: null })),
    };
    this.#kept.push(comparison);
    byId("verdicts").replaceChildren(...comparison.pairs.map((pair, i) => this.#verdict(pair, i)));
    announce("The comparison is complete");
  }

  #verdict(pair, index) {
    const choice = (verdict) => {
      const input = element("input", {
        type: "radio", name: `verdict-${index}`, value: verdict, on: { change: () => { pair.verdict = verdict; this.#show(); } },
      });
      return element("label", {}, input, element("span", {}, verdict));
    };
    const legend = element("legend", {}, element("strong", {}, pair.right), " beside ", element("strong", {}, pair.left), " is");
    return element("fieldset", { class: "verdict" }, legend, element("div", { class: "segments" }, ...VERDICTS.map(choice)));
  }

  #show() {
    byId("compare-run").hidden = this.#running !== null;
    byId("compare-stop").hidden = this.#running === null;
    const pairs = this.#kept.flatMap((comparison) => comparison.pairs);
    const judged = pairs.filter(({ verdict }) => verdict !== null).length;
    byId("kept").textContent = pairs.length
      ? `${this.#kept.length} ${this.#kept.length === 1 ? "comparison" : "comparisons"}, ${judged} of ${pairs.length} pairs judged`
      : "Comparisons stay here until the page is closed.";
    for (const id of ["export-json", "export-csv"]) byId(id).disabled = !pairs.length;
  }
}

/** One column. */
class Side {
  constructor(name) {
    this.name = name;
    this.text = element("div", { class: "text plain" });
    this.facts = element("span", { class: "facts" });
    this.note = element("p", { class: "about note" });
    const foot = element("footer", {}, this.facts);
    this.node = element("article", { class: "side", "aria-busy": "true", "aria-label": name }, element("h3", {}, name), this.text, this.note, foot);
  }

  grow(text) {
    this.text.textContent = text;
  }

  finish(answer) {
    this.answer = answer;
    this.grow(answer.text);
    this.node.removeAttribute("aria-busy");
    this.facts.textContent = answer.facts.join(" · ");
    if (answer.toolCalls.length) this.note.before(callCards(answer.toolCalls));
    if (answer.failure) this.text.append(element("p", { class: "error", role: "alert" }, answer.failure.line));
  }
}

/** Everything that differs from the base; in the base's own text what differs from the first adapter. */
function mark([base, ...others]) {
  others.forEach((side, i) => {
    const [left, right] = compared(base.answer.text, side.answer.text);
    if (i === 0) base.text.replaceChildren(...parts(left, "del"));
    side.text.replaceChildren(...parts(right, "ins"));
    side.note.textContent = likeness(base.answer, side.answer);
  });
}

function likeness(base, answer) {
  const [before, after] = [callsText(base.toolCalls), callsText(answer.toolCalls)];
  if (base.text !== answer.text) return "";
  if (before !== after) return "Other calls than the base model's.";
  return before ? "The same calls as the base model's." : "The same text as the base model's.";
}

function parts(list, tag) {
  return list.map(({ text, changed }) => (changed ? element(tag, {}, text) : text));
}

function pairs([base, ...others]) {
  const withBase = others.map((side) => [base, side]);
  return others.length > 1 ? [...withBase, others] : withBase;
}
