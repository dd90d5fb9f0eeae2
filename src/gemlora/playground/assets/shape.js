/** The answer's shape: text, JSON, JSON by a schema, and tools. Offered as far as the server's description has them. */

import { byId } from "./dom.js";

const SCHEMA = {
  type: "object",
  properties: { title: { type: "string", maxLength: 40 }, stars: { type: "integer", minimum: 1, maximum: 5 } },
  required: ["title", "stars"],
};
const TOOLS = [
  {
    name: "weather",
    description: "Tells the weather of a city",
    parameters: {
      type: "object",
      properties: { city: { type: "string", maxLength: 40 }, unit: { enum: ["celsius", "fahrenheit"] } },
      required: ["city"],
    },
  },
];

export class Shape {
  #schema = new JsonField("schema", "Schema", schemaFault, SCHEMA);
  #tools = new JsonField("tools", "Tools", toolsFault, TOOLS, () => this.#show());
  #offered;

  /** `offered` is the names that the run route takes. */
  constructor(offered) {
    this.#offered = offered;
    for (const radio of document.querySelectorAll("[name=answer]")) radio.onchange = () => this.#show();
    this.#show();
  }

  /** What a request says of it, by name; nothing for what is left as it is. Throws `Error` for what is no JSON. */
  get members() {
    return { ...(this.#offered.has("response_format") ? this.#format() : {}), ...(this.#offered.has("tools") ? this.#called() : {}) };
  }

  #format() {
    const type = chosen("answer");
    if (type === "text") return {};
    return { response_format: type === "json_schema" ? { type, json_schema: this.#schema.value } : { type } };
  }

  /** No tools are no member; `auto` is what the server does anyway. */
  #called() {
    if (this.#tools.isEmpty || !this.#tools.value.length) return {};
    const choice = chosen("tool-choice");
    return { tools: this.#tools.value, ...(choice === "auto" ? {} : { tool_choice: choice }) };
  }

  #show() {
    byId("answer-field").hidden = !this.#offered.has("response_format");
    byId("schema-field").hidden = byId("answer-field").hidden || chosen("answer") !== "json_schema";
    byId("tools-field").hidden = !this.#offered.has("tools");
    byId("tool-choice-field").hidden = this.#tools.isEmpty;
  }
}

/** A text of JSON that is checked while it is typed. The ids of its parts begin with `id`. */
class JsonField {
  #input;
  #name;
  #fault;
  #changed;

  constructor(id, name, fault, example, changed = () => {}) {
    this.#input = byId(id);
    this.#name = name;
    this.#fault = fault;
    this.#changed = changed;
    this.#input.oninput = () => this.#check();
    byId(`${id}-example`).onclick = () => {
      this.#input.value = JSON.stringify(example, null, 2);
      this.#check();
    };
    this.#mark();
  }

  get isEmpty() {
    return this.#input.value.trim() === "";
  }

  get value() {
    const { value, fault } = this.#read();
    if (fault) throw new Error(`${this.#name}: ${fault}`);
    return value;
  }

  #check() {
    this.#mark();
    this.#changed();
  }

  #mark() {
    const fault = this.isEmpty ? "" : this.#read().fault;
    byId(`${this.#input.id}-error`).textContent = fault;
    this.#input.setAttribute("aria-invalid", String(fault !== ""));
  }

  #read() {
    if (this.isEmpty) return { fault: "nothing is there yet." };
    try {
      const value = JSON.parse(this.#input.value);
      return { value, fault: this.#fault(value) };
    } catch (error) {
      return { fault: `This is not JSON: ${error.message}` };
    }
  }
}

function schemaFault(value) {
  return value !== null && typeof value === "object" && !Array.isArray(value) ? "" : "A schema is an object, in braces.";
}

function toolsFault(value) {
  return Array.isArray(value) ? "" : "Tools are a list, in brackets.";
}

function chosen(name) {
  return document.querySelector(`[name=${name}]:checked`).value;
}
