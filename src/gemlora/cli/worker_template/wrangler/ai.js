// env.AI for `wrangler dev` and Vitest: passes each call on to a gemlora server, as the runtime's own binding does.
import { WorkerEntrypoint } from "cloudflare:workers";

export default class extends WorkerEntrypoint {
  async run(model, inputs, options = {}) {
    const response = await fetch(`${this.env.GEMLORA_URL}/run?version=3`, {
      method: "POST",
      headers: { Authorization: `Bearer ${this.env.GEMLORA_API_TOKEN}`, "cf-consn-model-id": model },
      body: JSON.stringify({ inputs, options }),
    });
    if (options.returnRawResponse) return response;
    if (!response.ok) {
      const { internalCode, description, errors } = await response.json();
      throw new Error(internalCode ? `${internalCode}: ${description}` : `${errors[0].code}: ${errors[0].message}`);
    }
    return response.headers.get("content-type") === "application/json" ? response.json() : response.body;
  }
}
