/** How to ask: form, system message, adapter, the answer's shape and parameters. Chat and comparison share it. */

import { byId, element } from "./dom.js";
import { Parameters } from "./parameters.js";
import { BARE_BASE } from "./session.js";
import { Shape } from "./shape.js";

const NONE_NAMED = "";

/** What the page calls the base without any adapter. */
export const BASE = "Base model";

export class Settings {
  #session;
  #parameters;
  #shape;

  constructor(session) {
    this.#session = session;
    byId("parameters").replaceChildren();
    this.#parameters = new Parameters(session.schema, byId("parameters"));
    this.#shape = new Shape(session.inputs);
    byId("reset-parameters").onclick = () => this.#parameters.reset();
    for (const radio of document.querySelectorAll("[name=form]")) radio.onchange = () => this.#showForm();
    byId("settings-toggle").onclick = () => this.#toggle();
    session.addEventListener("adapters", () => this.#listAdapters());
    this.#listAdapters();
    this.#showForm();
  }

  /** Whether each question stands alone, as a `prompt`. */
  get isPrompt() {
    return document.querySelector("[name=form]:checked").value === "prompt";
  }

  /** Whether the question is sent without the chat template. */
  get isRaw() {
    return this.isPrompt && Boolean(byId("parameter-raw")?.checked);
  }

  /** The name of the chosen adapter, or null to name none. */
  get adapter() {
    return byId("adapter").value || null;
  }

  set adapter(name) {
    byId("adapter").value = name ?? NONE_NAMED;
  }

  /** Who answers: the adapter that is named, else the server's default, which raw prompts do not get, else the base. */
  get answering() {
    const name = this.adapter ?? (this.isRaw ? null : this.#session.defaultAdapter);
    return name === null || name === BARE_BASE ? BASE : name;
  }

  get system() {
    return byId("system").value.trim();
  }

  /** The body of a request. `turns` are the messages so far; a prompt takes the last. Throws `Error` for bad values. */
  body(turns, adapter = this.adapter, more = {}) {
    if (this.isPrompt && turns.at(-1).role === "tool") throw new Error("A prompt stands alone: choose Messages to send results of tools.");
    const question = this.isPrompt ? { prompt: turns.at(-1).content } : { messages: this.#messages(turns) };
    const lora = adapter ? { lora: adapter } : {};
    return { ...question, ...this.#parameters.values(this.isPrompt ? [] : ["raw"]), ...this.#shape.members, ...lora, ...more };
  }

  #messages(turns) {
    const system = this.system ? [{ role: "system", content: this.system }] : [];
    return [...system, ...turns.map(message)];
  }

  #showForm() {
    byId("system-field").hidden = this.isPrompt;
    this.#parameters.show("raw", this.isPrompt);
  }

  #toggle() {
    const open = byId("settings").classList.toggle("open");
    byId("settings-toggle").setAttribute("aria-expanded", String(open));
  }

  #listAdapters() {
    const standard = this.#session.defaultAdapter;
    const bare = element("option", { value: BARE_BASE }, `Bare base (${BARE_BASE})`);
    if (standard) fill(byId("adapter"), this.#session, `Default: ${standard}`, bare);
    else fill(byId("adapter"), this.#session, `${BASE}, no adapter`);
  }
}

/** A turn as a message; calls stay with the answer that made them, and results name the function. */
function message({ role, content, name, calls = [] }) {
  return { role, ...(name === undefined ? {} : { name }), content, ...(calls.length ? { tool_calls: calls } : {}) };
}

/** Offer the session's adapters in a select, behind `none` and `more`; what was chosen stays chosen while it exists. */
export function fill(select, session, none, ...more) {
  const chosen = select.value;
  const group = (label, adapters) =>
    adapters.length ? element("optgroup", { label }, ...adapters.map(({ name }) => element("option", { value: name }, name))) : null;
  const own = new Set(session.adapters.filter((adapter) => !adapter.public).map(({ id }) => id));
  const usable = session.usable;
  select.replaceChildren(
    ...[
      element("option", { value: NONE_NAMED }, none),
      ...more,
      group("Yours", usable.filter(({ id }) => own.has(id))),
      group("On the shelf", usable.filter(({ id }) => !own.has(id))),
    ].filter(Boolean),
  );
  select.value = chosen;
  if (select.selectedIndex < 0) select.value = NONE_NAMED;
}
