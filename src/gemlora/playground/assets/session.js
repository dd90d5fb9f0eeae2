/** Who is signed in, what is served, and which adapters there are. Nothing of it outlives the page. */

import { Client, describedInputs } from "./api.js";

/** Names the base without any adapter, where an adapter's name may stand. */
export const BARE_BASE = "cf-public-base";

/** Of longer lists the facts are read one by one, when the reader asks for them. */
const FACTS_AT_ONCE = 100;

/** Dispatches `adapters` when the list has changed, and `ended` when the token is not accepted any more. */
export class Session extends EventTarget {
  #reading = 0;

  constructor(client, token) {
    super();
    this.client = client;
    this.scopes = new Set(token.scopes);
    this.expires = token.expires_on ?? null;
    this.model = null;
    this.schema = null;
    this.inputs = new Set(); // names that the run route takes
    this.adapters = [];
    this.shelf = [];
    client.onRefusedToken = () => this.dispatchEvent(new Event("ended"));
  }

  /** Check a token and learn what its account can see. Throws `Failure`. */
  static async open(text) {
    const client = new Client(text);
    const token = await client.call("GET", "/tokens/verify");
    client.account = token.account_id;
    const session = new Session(client, token);
    [session.model] = await client.call("GET", "/ai/models/search?per_page=1");
    [session.schema, session.inputs] = await Promise.all([
      client.call("GET", `/ai/models/schema?model=${encodeURIComponent(session.model.name)}`),
      describedInputs(),
    ]);
    await session.refresh();
    return session;
  }

  /** A property of the served model, such as `context_window`. */
  property(id) {
    return this.model.properties.find((property) => property.property_id === id)?.value;
  }

  /** The adapter of requests that name none and are not raw; null where the base answers them. */
  get defaultAdapter() {
    return this.property("default_adapter") ?? null;
  }

  /** Whether the token allows this. */
  may(scope) {
    return this.scopes.has(scope);
  }

  /** Every adapter that a request can name, the account's own first. */
  get usable() {
    return [...this.adapters, ...this.shelf].filter((adapter) => adapter.ready !== false);
  }

  /** Read the lists of adapters again; of several readings the newest counts. */
  async refresh() {
    if (!this.may("finetunes:read")) return;
    this.#reading += 1;
    const reading = this.#reading;
    const [own, shelf] = await Promise.all([
      this.client.call("GET", "/ai/finetunes"),
      this.client.call("GET", "/ai/finetunes/public?limit=1000"),
    ]);
    const ids = new Set(own.map((adapter) => adapter.id));
    const lists = await Promise.all([own, shelf.filter(({ id }) => !ids.has(id))].map((list) => this.#withFacts(list)));
    if (reading !== this.#reading) return;
    [this.adapters, this.shelf] = lists;
    this.dispatchEvent(new Event("adapters"));
  }

  #withFacts(list) {
    return list.length > FACTS_AT_ONCE ? list : Promise.all(list.map(({ id }) => this.show(id)));
  }

  /** One adapter with what is known of its files. */
  show(id) {
    return this.client.call("GET", `/ai/finetunes/${encodeURIComponent(id)}`);
  }
}
