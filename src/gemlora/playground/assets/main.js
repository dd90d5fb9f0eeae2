/** Signing in and out, and which view is shown. Whatever lasts belongs to the session of whoever is signed in. */

import { Adapters } from "./adapters.js";
import { exchange } from "./api.js";
import { Chat } from "./chat.js";
import { Code } from "./code.js";
import { Compare } from "./compare.js";
import { announce, byId } from "./dom.js";
import { Metrics } from "./metrics.js";
import { ServerView } from "./server.js";
import { Session } from "./session.js";
import { Settings } from "./settings.js";

const VIEWS = ["chat", "compare", "adapters", "server"];
const SKIPPED = "#content";
const CODE = /^#code=([\w-]+)$/;
const THEMES = { light: "dark", dark: "light" };

/** Everything of one sign-in. */
class Page {
  constructor(session) {
    this.session = session;
    this.settings = new Settings(session);
    this.chat = new Chat(session, this.settings);
    this.compare = new Compare(session, this.settings);
    this.adapters = new Adapters(session, (view, name) => this.open(view, name));
    this.code = new Code(session);
    this.metrics = new Metrics();
    this.server = new ServerView(session, this.metrics);
    this.metrics.start();
  }

  /** Show an adapter in a view. */
  open(view, name) {
    if (view === "chat") this.settings.adapter = name;
    else this.compare.choose(name);
    location.hash = address(view);
  }

  showCode() {
    this.code.open(() => (view() === "compare" ? this.compare.request : this.chat.request));
  }

  end() {
    this.chat.clear();
    this.compare.clear();
    this.adapters.stop();
    this.metrics.stop();
  }
}

let page = null;

/** No element's id: to such a one the browser would move the focus itself, whenever it draws next. */
function address(view) {
  return `#/${view}`;
}

function view() {
  const { hash } = location;
  const shown = VIEWS.find((name) => (hash === SKIPPED ? name === document.body.dataset.view : hash === address(name)));
  return shown ?? VIEWS[0];
}

function show() {
  const shown = page ? view() : "sign-in";
  for (const id of ["sign-in", ...VIEWS]) byId(id).hidden = id !== shown;
  byId("settings").hidden = !["chat", "compare"].includes(shown);
  byId("settings-toggle").hidden = byId("settings").hidden;
  byId("adapter-field").hidden = shown === "compare";
  byId("views").hidden = byId("signed-in").hidden = !page;
  document.body.dataset.view = shown;
  for (const link of document.querySelectorAll("#views a")) {
    if (link.hash === address(shown)) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  if (shown === "server") page.server.show();
  if (shown === "adapters") page.session.refresh().catch((error) => announce(error.line ?? error.message));
}

async function signIn(token) {
  const session = await Session.open(token);
  session.addEventListener("ended", () => signOut("The token is not accepted any more. Sign in again."));
  byId("sign-in-error").textContent = "";
  byId("token").value = "";
  byId("notice").textContent = notice(session);
  byId("notice").hidden = !byId("notice").textContent;
  page = new Page(session);
  show();
  byId(view() === "chat" ? "question" : "content").focus();
}

/** Says that starter weights stand in for the model, in the server's own words: one sentence of its description. */
function notice({ model }) {
  return /Served by .*? starter weights .*?\.(?= |$)/.exec(model.description)?.[0] ?? "";
}

function signOut(reason = "") {
  page?.end();
  page = null;
  byId("notice").hidden = true;
  for (const dialog of document.querySelectorAll("dialog[open]")) dialog.close();
  byId("sign-in-error").textContent = reason;
  show();
  byId("token").focus();
}

async function attempt(opening) {
  byId("sign-in-button").disabled = true;
  try {
    await opening();
  } catch (error) {
    byId("sign-in-error").textContent = error.line ?? String(error.message);
    byId("token").focus();
  }
  byId("sign-in-button").disabled = false;
}

/** A printed link carries its code behind the #, which browsers send nowhere; it leaves the address at once. */
function codeOfLink() {
  const code = CODE.exec(location.hash)?.[1];
  if (code) history.replaceState(null, "", location.pathname);
  return code;
}

async function followLink() {
  const code = codeOfLink();
  if (!code) return;
  if (page) signOut();
  await attempt(async () => {
    try {
      await signIn((await exchange(code)).token);
    } catch (error) {
      if (error.status !== 401) throw error;
      throw new Error("This link was used already or is too old. Paste the token that the server printed.");
    }
  });
}

byId("sign-in-form").onsubmit = (event) => {
  event.preventDefault();
  const token = byId("token").value.trim();
  if (token) attempt(() => signIn(token));
};
byId("sign-out").onclick = () => signOut();
byId("view-code").onclick = () => page?.showCode();
byId("theme").onclick = () => {
  const dark = matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
  document.documentElement.dataset.theme = THEMES[document.documentElement.dataset.theme ?? dark];
};
addEventListener("hashchange", () => {
  if (CODE.test(location.hash)) {
    followLink();
    return;
  }
  if (location.hash === SKIPPED) return;
  show();
  byId("content").focus({ preventScroll: true });
  scrollTo(0, 0);
});
show();
followLink();
