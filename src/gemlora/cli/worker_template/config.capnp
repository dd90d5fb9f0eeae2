# The Worker runtime's configuration: one Worker on port 8787 whose env.AI is a gemlora server.
# start.mjs writes worker.js (your Worker as plain JavaScript) and upstream.capnp (where the server is) into dist/PORT, and names
# that folder as import path.
using Workerd = import "/workerd/workerd.capnp";
using Upstream = import "/upstream.capnp";

const config :Workerd.Config = (
  services = [
    ( name = "main", worker = .mainWorker ),
    ( name = "gemlora", external = Upstream.server ),
  ],
  sockets = [
    ( name = "http", address = "127.0.0.1:8787", http = (), service = "main" ),
  ],
);

const mainWorker :Workerd.Worker = (
  modules = [ ( name = "worker", esModule = embed "/worker.js" ) ],
  compatibilityDate = "2025-01-01",
  bindings = [
    # The runtime's own AI binding; its inner binding must be called "fetcher".
    ( name = "AI", wrapped = (
        moduleName = "cloudflare-internal:ai-api",
        innerBindings = [ ( name = "fetcher", service = "gemlora" ) ],
    ) ),
  ],
);
