/** What tools gave back: the page runs nothing, so whoever reads the calls writes their results. */

import { element } from "./dom.js";

/** A form with a field for each call; `give` gets the texts in the order of the calls. It goes once something follows. */
export function resultsForm(calls, give) {
  const fields = calls.map(() => element("textarea", { class: "json", rows: "2", maxlength: "131072", spellcheck: "false", required: true }));
  const submit = (event) => {
    event.preventDefault();
    give(fields.map((field) => field.value.trim()));
  };
  return element("form", { class: "results again", on: { submit } },
    ...fields.map((field, i) => element("label", {}, "Result of ", element("code", {}, String(calls[i].name)), field)),
    element("div", { class: "row end" },
      element("span", { class: "about" }, "Text or JSON. While tool_choice is required, the model calls again."),
      element("button", { type: "submit" }, calls.length === 1 ? "Send the result" : "Send the results")));
}
