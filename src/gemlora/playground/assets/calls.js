/** Calls of tools, as cards and as text. */

import { element } from "./dom.js";

/** A list with a card for each call: its name and its arguments. */
export function callCards(calls) {
  return element("ul", { class: "calls", "aria-label": "Tool calls" }, ...calls.map(card));
}

/** The calls as the wire has them, for the clipboard and for comparing; empty without calls. */
export function callsText(calls) {
  return calls.length ? JSON.stringify(calls, null, 2) : "";
}

function card(call) {
  return element(
    "li", { class: "call" },
    element("p", { class: "pair" }, element("code", { class: "name" }, String(call.name)), element("span", { class: "badge" }, "Tool call")),
    element("pre", { class: "json" }, element("code", {}, JSON.stringify(call.arguments ?? {}, null, 2))),
  );
}
