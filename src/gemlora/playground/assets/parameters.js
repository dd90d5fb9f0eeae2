/** The model's parameters, as its schema describes them: one field each, with range, default and explanation. */

import { element } from "./dom.js";

/** What other fields ask for, or nothing here. */
const ELSEWHERE = new Set(["prompt", "messages", "stream", "lora", "image", "functions", "tools", "tool_choice", "response_format"]);
/** What the schema leaves open. */
const WIDEST_SLIDER = 1000;
const LEAST = { max_tokens: 1 };
const WITHOUT = {
  top_p: "off", top_k: "off", seed: "random", repetition_penalty: "off", frequency_penalty: "0", presence_penalty: "0",
};

/** The fields of a form. What the reader left empty is not sent, so that the server's default holds. */
export class Parameters {
  #fields = new Map();

  constructor(schema, holder) {
    for (const [name, rule] of described(schema)) {
      const field = rule.type === "boolean" ? new Switch(name, rule) : new NumberField(name, rule);
      this.#fields.set(name, field);
      holder.append(field.node);
    }
  }

  /** What was set, by name, without `left`. Throws `Error` for a value out of range. */
  values(left = []) {
    const entries = [...this.#fields].filter(([name]) => !left.includes(name)).map(([name, { value }]) => [name, value]);
    return Object.fromEntries(entries.filter(([, value]) => value !== undefined));
  }

  /** Show or hide one field. */
  show(name, shown) {
    const field = this.#fields.get(name);
    if (field) field.node.hidden = !shown;
  }

  /** Leave everything to the server's defaults. */
  reset() {
    for (const field of this.#fields.values()) field.clear();
  }
}

/** Pairs of name and rule, over both forms of a request. */
function described(schema) {
  const forms = (schema.input.oneOf ?? [schema.input]).map((form) => form.properties);
  return Object.entries(Object.assign({}, ...forms.reverse())).filter(
    ([name, rule]) => !ELSEWHERE.has(name) && ["integer", "number", "boolean"].includes(rule.type),
  );
}

class NumberField {
  constructor(name, rule) {
    this.name = name;
    this.rule = { ...rule, minimum: rule.minimum ?? LEAST[name] };
    const { minimum, maximum } = this.rule;
    const step = rule.type === "integer" ? "1" : "any";
    const label = element("label", { for: `parameter-${name}` }, element("code", {}, name));
    this.input = element("input", {
      id: `parameter-${name}`, type: "number", inputmode: "decimal", step, min: minimum, max: maximum,
      placeholder: this.#without(), "aria-describedby": `about-${name}`, on: { input: () => this.#changed() },
    });
    const about = element("p", { id: `about-${name}`, class: "about" }, this.#about());
    this.slider = this.#slides() ? this.#slide() : null;
    this.node = element("div", { class: "parameter" }, element("div", { class: "pair" }, label, this.input), this.slider, about);
    this.#changed();
  }

  get value() {
    if (!this.input.validity.valid) throw new Error(`${this.name}: ${this.input.validationMessage}`);
    return this.input.value === "" ? undefined : Number(this.input.value);
  }

  clear() {
    this.input.value = "";
    this.#changed();
  }

  #slides() {
    const { minimum, maximum } = this.rule;
    return minimum !== undefined && maximum !== undefined && maximum - minimum <= WIDEST_SLIDER;
  }

  /** For pointers; everybody else has the number. */
  #slide() {
    const { minimum, maximum, type } = this.rule;
    return element("input", {
      type: "range", min: minimum, max: maximum, step: type === "integer" ? "1" : "0.05", tabindex: "-1", "aria-hidden": "true",
      on: { input: (event) => { this.input.value = event.target.value; this.#changed(); } },
    });
  }

  #changed() {
    if (!this.slider) return;
    this.slider.classList.toggle("unset", this.input.value === "");
    this.slider.value = this.input.value || this.rule.default || this.rule.minimum;
  }

  #without() {
    return this.rule.default === undefined ? WITHOUT[this.name] ?? "" : String(this.rule.default);
  }

  #about() {
    const { minimum, maximum, description } = this.rule;
    const range = maximum === undefined ? `${minimum} and more` : `${minimum} to ${maximum.toLocaleString("en")}`;
    return `${description} ${range}, default ${this.#without() || "none"}.`;
  }
}

class Switch {
  constructor(name, rule) {
    this.input = element("input", { id: `parameter-${name}`, type: "checkbox", "aria-describedby": `about-${name}` });
    const label = element("label", { for: `parameter-${name}` }, element("code", {}, name));
    const about = element("p", { id: `about-${name}`, class: "about" }, `${rule.description} Default ${rule.default}.`);
    this.node = element("div", { class: "parameter" }, element("div", { class: "pair" }, label, this.input), about);
  }

  get value() {
    return this.input.checked || undefined;
  }

  clear() {
    this.input.checked = false;
  }
}
