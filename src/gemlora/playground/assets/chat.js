/** A conversation: ask, follow the answer, stop it, ask again, mend a question, give the results of what was called. */

import { ask } from "./answer.js";
import { callCards, callsText } from "./calls.js";
import { announce, button, byId, copy, element } from "./dom.js";
import { jsonText, Live } from "./live.js";
import { markdown } from "./markdown.js";
import { resultsForm } from "./results.js";

export class Chat {
  #session;
  #settings;
  #turns = []; // { role, content, node }, of answers also calls, of results the function's name
  #running = null; // AbortController of the answer that is being written

  constructor(session, settings) {
    this.#session = session;
    this.#settings = settings;
    byId("chat-form").onsubmit = (event) => {
      event.preventDefault();
      this.#send();
    };
    byId("question").onkeydown = (event) => this.#key(event);
    byId("stop").onclick = () => this.stop();
    byId("clear").onclick = () => this.clear();
    for (const example of document.querySelectorAll("#examples button")) {
      example.onclick = () => {
        byId("question").value = example.textContent;
        byId("question").focus();
      };
    }
    this.clear();
  }

  /** The request that would be sent, or was sent last. */
  get request() {
    const draft = byId("question").value.trim();
    const turns = draft ? [...this.#turns, { role: "user", content: draft }] : this.#untilQuestion();
    return this.#settings.body(turns.length ? turns : [{ role: "user", content: byId("question").placeholder }]);
  }

  stop() {
    this.#running?.abort();
  }

  clear() {
    this.stop();
    this.#turns = [];
    byId("turns").replaceChildren();
    this.#show();
  }

  #untilQuestion() {
    const last = this.#turns.findLastIndex(({ role }) => role !== "assistant");
    return this.#turns.slice(0, last + 1);
  }

  #key(event) {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      this.#send();
    }
  }

  #send() {
    const content = byId("question").value.trim();
    if (!content || this.#running) return;
    byId("question").value = "";
    this.#add("user", content);
    this.#answer();
  }

  async #answer() {
    const node = this.#place("assistant", this.#settings.answering);
    let body;
    try {
      body = this.#settings.body(this.#turns);
    } catch (error) {
      this.#finish(node, { failure: { line: error.message }, facts: [], toolCalls: [], text: "" });
      return;
    }
    this.#running = new AbortController();
    this.#show();
    const live = new Live(node.querySelector(".text"), body.response_format ? jsonText : markdown);
    const answer = await ask(this.#session.client, this.#session.model.name, body, this.#running.signal, (answer) =>
      live.show(answer.text));
    live.end(answer.text);
    this.#running = null;
    if (node.isConnected) this.#finish(node, answer);
  }

  #finish(node, answer) {
    node.removeAttribute("aria-busy");
    const calls = answer.toolCalls;
    if (answer.text || calls.length) this.#turns.push({ role: "assistant", content: answer.text, calls, node });
    if (calls.length) node.querySelector(".text").append(callCards(calls), resultsForm(calls, (texts) => this.#give(calls, texts)));
    if (answer.failure) node.querySelector(".text").append(element("p", { class: "error", role: "alert" }, answer.failure.line));
    else if (!answer.text && !calls.length) node.querySelector(".text").append(element("p", { class: "about" }, "An empty answer."));
    node.querySelector(".facts").textContent = answer.facts.join(" · ");
    const tools = node.querySelector(".actions");
    const written = answer.text || callsText(calls);
    const copies = written ? button("Copy", (event) => copy(written, event.target)) : null;
    tools.replaceChildren(...[copies, button("Regenerate", () => this.#again(node), { class: "quiet again" })].filter(Boolean));
    announce(answer.failure ? answer.failure.line : `Answer complete. ${answer.facts.join(", ")}`);
    this.#show();
    node.scrollIntoView({ block: "nearest" });
  }

  /** Ask for the last answer once more. */
  #again(node) {
    if (this.#running) return;
    const at = this.#turns.findIndex((turn) => turn.node === node);
    if (at >= 0) this.#turns.length = at;
    node.remove();
    this.#answer();
  }

  /** Answer an answer's calls, one message for each. */
  #give(calls, texts) {
    if (this.#running) return;
    texts.forEach((text, i) => this.#add("tool", text, calls[i].name));
    this.#answer();
  }

  #add(role, content, name) {
    const node = this.#place(role, role === "tool" ? `Result of ${name}` : "You");
    node.querySelector(".text").textContent = content;
    const turn = { role, content, name, node };
    node.querySelector(".actions").append(
      button("Copy", (event) => copy(turn.content, event.target)),
      button("Edit", () => this.#edit(turn)),
    );
    this.#turns.push(turn);
  }

  #edit(turn) {
    if (this.#running) return;
    const text = turn.node.querySelector(".text");
    const field = element("textarea", { rows: "3", "aria-label": turn.role === "tool" ? "Edit the result" : "Edit the question" });
    field.value = turn.content;
    const leave = () => text.replaceChildren(turn.content);
    const resend = () => {
      const content = field.value.trim();
      if (!content || this.#running || !this.#turns.includes(turn)) return;
      turn.content = content;
      leave();
      this.#forgetBehind(turn);
      this.#answer();
    };
    const row = element("div", { class: "row" }, element("button", { type: "button", on: { click: resend } }, "Send again"), button("Cancel", leave));
    text.replaceChildren(field, row);
    field.focus();
  }

  /** Drop what came after a question or a result; results of the same answer stay. */
  #forgetBehind(turn) {
    let last = this.#turns.indexOf(turn);
    while (turn.role === "tool" && this.#turns[last + 1]?.role === "tool") last += 1;
    const { node } = this.#turns[last];
    while (node.nextSibling) node.nextSibling.remove();
    this.#turns.length = last + 1;
  }

  #place(role, name) {
    const text = element("div", { class: "text" });
    const foot = element("footer", {}, element("span", { class: "facts" }), element("span", { class: "actions" }));
    const node = element("article", { class: role, "aria-label": name }, element("h3", {}, name), text, foot);
    if (role === "assistant") node.setAttribute("aria-busy", "true");
    byId("turns").append(node);
    node.scrollIntoView({ block: "nearest" });
    return node;
  }

  #show() {
    const running = this.#running !== null;
    byId("send").hidden = running;
    byId("stop").hidden = !running;
    byId("welcome").hidden = byId("turns").childElementCount > 0;
    byId("clear").disabled = byId("turns").childElementCount === 0;
    const last = byId("turns").lastElementChild;
    for (const again of document.querySelectorAll("#turns .again")) again.hidden = running || !last.contains(again);
  }
}
