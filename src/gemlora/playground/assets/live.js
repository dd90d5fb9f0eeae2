/** An answer's text while it grows. */

import { element } from "./dom.js";

/** Shows a growing text, once a frame at most, and keeps its end in view for readers who are there. */
export class Live {
  #node;
  #shown;
  #text = "";
  #frame = 0;

  /** `shown` makes a node of the text so far. */
  constructor(node, shown) {
    this.#node = node;
    this.#shown = shown;
  }

  show(text) {
    this.#text = text;
    this.#frame ||= requestAnimationFrame(() => this.#draw());
  }

  end(text) {
    cancelAnimationFrame(this.#frame);
    this.#text = text;
    this.#draw();
  }

  #draw() {
    this.#frame = 0;
    const page = document.scrollingElement;
    const following = page.scrollHeight - page.scrollTop - page.clientHeight < 160;
    this.#node.replaceChildren(this.#shown(this.#text));
    if (following) page.scrollTop = page.scrollHeight;
  }
}

/** JSON on lines of its own; as it is while it grows, and if it was cut off. */
export function jsonText(text) {
  if (!text) return "";
  try {
    return element("pre", { class: "json" }, element("code", {}, JSON.stringify(JSON.parse(text), null, 2)));
  } catch {
    return element("pre", { class: "json" }, element("code", {}, text));
  }
}
