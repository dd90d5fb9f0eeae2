/** The dialog that shows the current request as a program. */

import { byId, copy, element } from "./dom.js";
import { SNIPPETS } from "./snippets.js";

const HIDDEN_TOKEN = "••••••••";

export class Code {
  #session;
  #request;
  #chosen = SNIPPETS[0];

  constructor(session) {
    this.#session = session;
    const tabs = SNIPPETS.map((snippet) =>
      element("button", { type: "button", role: "tab", id: `code-${snippet.id}`, "aria-controls": "code-panel", on: { click: () => this.#choose(snippet) } }, snippet.label));
    byId("code-tabs").replaceChildren(...tabs);
    byId("code-tabs").onkeydown = (event) => this.#key(event);
    byId("code-copy").onclick = (event) => copy(this.text, event.target);
    byId("code-token").onchange = () => this.#show();
    byId("code-close").onclick = () => byId("code").close();
  }

  /** Show what `request` returns, a body of the run route, or why there is none if it throws. */
  open(request) {
    let fault = "";
    try {
      this.#request = request();
      byId("code-token").checked = false;
      this.#choose(this.#chosen);
    } catch (error) {
      fault = error.message;
    }
    byId("code-program").hidden = fault !== "";
    byId("code").showModal();
    byId("code-error").textContent = fault;
  }

  /** The program that runs, with the token. */
  get text() {
    return this.#text(this.#session.client.token);
  }

  #text(token) {
    const { client, model } = this.#session;
    return this.#chosen.code({ origin: location.origin, account: client.account, token, model: model.name, body: this.#request });
  }

  #choose(snippet) {
    this.#chosen = snippet;
    for (const tab of byId("code-tabs").children) {
      const chosen = tab.id === `code-${snippet.id}`;
      tab.setAttribute("aria-selected", String(chosen));
      tab.tabIndex = chosen ? 0 : -1;
    }
    byId("code-panel").setAttribute("aria-labelledby", `code-${snippet.id}`);
    this.#show();
  }

  #show() {
    const shown = byId("code-token").checked;
    byId("code-text").textContent = shown ? this.text : this.#text(HIDDEN_TOKEN);
    const { expires } = this.#session;
    const until = expires ? ` The token in it is this page's own and opens nothing after ${new Date(expires).toLocaleString()}.` : "";
    byId("code-about").textContent = `${this.#chosen.about}${until}`;
  }

  #key(event) {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    const next = SNIPPETS.at((SNIPPETS.indexOf(this.#chosen) + step) % SNIPPETS.length);
    this.#choose(next);
    byId(`code-${next.id}`).focus();
  }
}
