/** The account's adapters and the shelf: facts, upload, rename, publish, delete. */

import { announce, button, byId, copy, element } from "./dom.js";
import { adapterFiles, droppedFiles } from "./files.js";
import { bytes, counted, percent } from "./format.js";

const PUBLIC_PREFIX = "cf-public-";

export class Adapters {
  #session;
  #open; // (view, adapter name) → show the adapter there
  #picked = null;
  #uploading = null;

  constructor(session, open) {
    this.#session = session;
    this.#open = open;
    this.#listen();
    session.addEventListener("adapters", () => this.#list());
    this.#list();
    this.#pick(null);
    byId("upload").hidden = !session.may("finetunes:write");
    this.#say("");
  }

  stop() {
    this.#uploading?.abort();
  }

  #listen() {
    const zone = byId("drop-zone");
    for (const id of ["pick-files", "pick-folder"]) {
      byId(id).onchange = (event) => {
        this.#take([...event.target.files]);
        event.target.value = "";
      };
    }
    zone.ondragover = (event) => {
      event.preventDefault();
      zone.classList.add("over");
    };
    zone.ondragleave = () => zone.classList.remove("over");
    zone.ondrop = async (event) => {
      event.preventDefault();
      zone.classList.remove("over");
      this.#take(await droppedFiles(event.dataTransfer));
    };
    byId("upload-form").onsubmit = (event) => {
      event.preventDefault();
      this.#upload();
    };
    byId("upload-stop").onclick = () => this.stop();
  }

  #take(list) {
    try {
      this.#pick(adapterFiles(list));
      this.#say("");
    } catch (error) {
      this.#pick(null);
      this.#say(error.message, "refused");
    }
  }

  #pick(picked) {
    this.#picked = picked;
    const shown = picked ? Object.values(picked.files).map((file) => `${file.name}, ${bytes(file.size)}`) : [];
    byId("picked").replaceChildren(...shown.map((text) => element("li", {}, text)));
    byId("upload-start").disabled = !picked;
    if (picked && !byId("upload-name").value) byId("upload-name").value = picked.name;
  }

  async #upload() {
    const name = byId("upload-name").value.trim();
    if (!this.#picked || this.#uploading) return;
    if (!name) {
      this.#say("Give the adapter a name.", "refused");
      return;
    }
    this.#uploading = new AbortController();
    this.#showProgress(0, "Starting");
    try {
      const description = byId("upload-description").value.trim();
      const made = await this.#session.client.call("POST", "/ai/finetunes", { model: this.#session.model.name, name, description });
      const adapter = await this.#send(made.id);
      this.#pick(null);
      byId("upload-form").reset();
      this.#say(verdict(name, adapter), "accepted");
      await this.#session.refresh();
    } catch (error) {
      this.#say(error.name === "AbortError" ? "Stopped. Nothing was kept." : error.line ?? error.message, "refused");
    } finally {
      this.#uploading = null;
      this.#showProgress(null);
    }
  }

  /** Both files; the weights are the second, so that their answer is the verdict. Leaves nothing of a refused one. */
  async #send(id) {
    const files = Object.entries(this.#picked.files);
    const total = files.reduce((sum, [, file]) => sum + file.size, 0);
    let before = 0;
    let adapter;
    try {
      for (const [fileName, file] of files) {
        const progress = (sent, all) =>
          this.#showProgress(Math.min(1, (before + file.size * (sent / all)) / total), sent < all ? "Sending" : "The server checks and tries it out");
        adapter = await this.#session.client.upload(id, fileName, file, progress, this.#uploading.signal);
        before += file.size;
      }
    } catch (error) {
      await this.#session.client.call("DELETE", `/ai/finetunes/${id}`).catch(() => {});
      throw error;
    }
    return adapter;
  }

  #showProgress(part, doing = "") {
    byId("upload-progress").hidden = part === null;
    byId("upload-stop").hidden = part === null;
    byId("upload-start").hidden = part !== null;
    byId("upload-bar").value = part ?? 0;
    byId("upload-doing").textContent = part === null ? "" : `${doing}, ${Math.round(part * 100)} %`;
  }

  #say(text, kind = "") {
    byId("verdict").className = `verdict-text ${kind}`;
    byId("verdict").textContent = text;
    byId("verdict").scrollIntoView({ block: "nearest" });
  }

  #list() {
    const { adapters, shelf } = this.#session;
    const yours = adapters.filter((adapter) => !adapter.public).toReversed().map((adapter) => this.#card(adapter, true));
    const published = adapters.filter((adapter) => adapter.public).map((adapter) => this.#card(adapter, true));
    const shared = [...published, ...shelf.map((adapter) => this.#card(adapter, false))];
    byId("adapter-list").replaceChildren(...yours);
    byId("shelf-list").replaceChildren(...shared);
    byId("own-empty").hidden = yours.length > 0;
    byId("shelf").hidden = shared.length === 0;
  }

  #card(adapter, own) {
    const state = adapter.public ? "on the shelf" : adapter.ready === false ? "files missing" : "ready";
    const head = element("header", {}, element("h3", {}, adapter.name), element("span", { class: `badge ${adapter.ready === false ? "warn" : ""}` }, state));
    const card = element("article", { class: "card", "aria-label": adapter.name }, head);
    if (adapter.description) card.append(element("p", {}, adapter.description));
    if (adapter.digest) card.append(this.#facts(adapter));
    else if (adapter.ready === undefined) card.append(button("Show facts", async () => card.replaceWith(this.#card(await this.#session.show(adapter.id), own))));
    for (const warning of adapter.warnings ?? []) card.append(element("p", { class: "warning" }, warning));
    card.append(element("footer", { class: "actions" }, ...this.#actions(adapter, own)));
    return card;
  }

  #facts(adapter) {
    const facts = {
      Rank: String(adapter.rank),
      Modules: adapter.modules.join(", "),
      Size: bytes(adapter.size),
      Base: `${adapter.model}, served by ${this.#session.property("weights")}`,
      Effect: adapter.difference === null ? "not measured yet" : `moves the logits by ${percent(adapter.difference)}`,
      Uploaded: new Date(adapter.created_at).toLocaleString(),
      Used: used(adapter),
      Hash: hash(adapter.digest),
    };
    return element("dl", { class: "facts" }, ...Object.entries(facts).map(([name, value]) => element("div", {}, element("dt", {}, name), element("dd", {}, value))));
  }

  #actions(adapter, own) {
    const usable = adapter.ready !== false;
    const write = own && this.#session.may("finetunes:write");
    return [
      usable ? button("Chat", () => this.#open("chat", adapter.name)) : null,
      usable ? button("Compare", () => this.#open("compare", adapter.name)) : null,
      write ? button("Rename", () => this.#rename(adapter)) : null,
      own && usable && !adapter.public && this.#session.may("admin") ? button("Publish", () => this.#publish(adapter)) : null,
      write ? button("Delete", () => this.#remove(adapter), { class: "quiet danger" }) : null,
    ].filter(Boolean);
  }

  #rename(adapter) {
    const change = (name) => this.#session.client.call("PATCH", `/ai/finetunes/${adapter.id}`, { name });
    this.#confirm(`Rename ${adapter.name}`, "Requests name it by its new name from then on; its id stays.", "Rename", change, adapter.name);
  }

  #publish(adapter) {
    const publish = (name) => this.#session.client.call("POST", `/ai/finetunes/${adapter.id}/publish`, { name });
    const about = "Every account of this server can use what is on the shelf. What is put there is a copy.";
    this.#confirm(`Publish ${adapter.name}`, about, "Publish", publish, PUBLIC_PREFIX + adapter.name);
  }

  #remove(adapter) {
    const remove = () => this.#session.client.call("DELETE", `/ai/finetunes/${adapter.id}`);
    this.#confirm(`Delete ${adapter.name}?`, "Answers that are being written are completed. This cannot be undone.", "Delete", remove);
  }

  /** Ask in a dialog, for a name too if there is one to begin with; what the server refuses is shown there. */
  #confirm(title, about, label, act, name = null) {
    const dialog = byId("confirm");
    const refused = element("p", { class: "error", role: "alert" });
    const field = element("input", { id: "confirm-name", type: "text", maxlength: "255", autocomplete: "off", spellcheck: "false" });
    field.value = name ?? "";
    const submit = async (event) => {
      event.preventDefault();
      try {
        await act(field.value.trim());
        dialog.close();
        announce(`${label}: done`);
        await this.#session.refresh();
      } catch (error) {
        refused.textContent = error.line ?? error.message;
      }
    };
    dialog.replaceChildren(
      element("form", { on: { submit } },
        element("h2", { id: "confirm-title" }, title),
        element("p", {}, about),
        ...(name === null ? [] : [element("label", { for: "confirm-name" }, "Name"), field]),
        refused,
        element("div", { class: "row end" },
          button("Cancel", () => dialog.close()),
          element("button", { type: "submit", class: label === "Delete" ? "danger" : "" }, label))));
    dialog.showModal();
    if (name !== null) field.select();
  }
}

/** By this account, as far as the server remembers. */
function used({ answers, answers_since: since }) {
  return `${counted(answers, "answer")} since the server's start, ${new Date(since).toLocaleString()}`;
}

function hash(digest) {
  const shown = element("code", { title: digest }, digest.slice(0, 12));
  return element("span", {}, shown, " ", button("Copy", (event) => copy(digest, event.target), { "aria-label": "Copy the whole hash" }));
}

/** What the validation said, as it came. */
function verdict(name, adapter) {
  const said = [`${name} is ready: rank ${adapter.rank}, ${adapter.modules.join(", ")}.`];
  if (adapter.difference !== null) said.push(`It moves the logits of the trial prompt by ${percent(adapter.difference)}.`);
  return [...said, ...adapter.warnings].join(" ");
}
