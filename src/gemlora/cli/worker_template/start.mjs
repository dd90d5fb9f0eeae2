// Bundles one Worker, tells the runtime where the gemlora server is, and runs both until Ctrl-C.
// Reads GEMLORA_URL, GEMLORA_API_TOKEN (or the file first-token of the server's data directory) and PORT.
import { spawn } from "node:child_process";
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { homedir } from "node:os";
import { dirname, join } from "node:path";
import process from "node:process";
import { fileURLToPath } from "node:url";
import * as esbuild from "esbuild";
import workerd from "workerd";

const parent = process.ppid;
const here = dirname(fileURLToPath(import.meta.url));
const entry = process.argv[2] ?? "src/index.ts";
const port = process.env.PORT ?? "8787";
const server = new URL(process.env.GEMLORA_URL ?? "http://127.0.0.1:8790");

// A folder per port: what a running Worker is made of is not replaced by another one's.
const output = join(here, "dist", port);

await stopIfTaken();
mkdirSync(output, { recursive: true });
writeFileSync(join(output, "upstream.capnp"), upstream(server, apiToken()), { mode: 0o600 });
const { errors } = await bundle();
if (errors.length > 0) process.exit(1);
await warnUnlessReady();
console.log(`${entry} runs on http://127.0.0.1:${port}, env.AI is ${server.origin}`);
run();

function stopIfTaken() {
  return new Promise((free) => {
    const probe = createServer();
    probe.once("error", () => {
      console.error(`Port ${port} is in use; choose another one: PORT=8788 npm start`);
      process.exit(1);
    });
    probe.listen(Number(port), "127.0.0.1", () => probe.close(free));
  });
}

function apiToken() {
  if (process.env.GEMLORA_API_TOKEN) return process.env.GEMLORA_API_TOKEN;
  const dataHome = process.env.XDG_DATA_HOME || join(homedir(), ".local/share");
  const folder = process.env.GEMLORA_DATA_DIR || join(dataHome, "gemlora");
  const file = join(folder, "first-token");
  if (existsSync(file)) return readFileSync(file, "utf8").trim();
  console.error(`No token: set GEMLORA_API_TOKEN, or start gemlora once so that ${file} exists.`);
  process.exit(1);
}

function upstream({ protocol, hostname, port }, token) {
  const secure = protocol === "https:";
  const address = `${hostname}:${port || (secure ? 443 : 80)}`;
  const headers = `injectRequestHeaders = [ ( name = "Authorization", value = ${JSON.stringify(`Bearer ${token}`)} ) ]`;
  const transport = secure
    ? `https = ( options = ( ${headers} ), tlsOptions = ( trustBrowserCas = true ) )`
    : `http = ( ${headers} )`;
  return [
    "@0xb6f3a1d2c4e59807;",
    'using Workerd = import "/workerd/workerd.capnp";',
    `const server :Workerd.ExternalServer = ( address = "${address}", ${transport} );`,
    "",
  ].join("\n");
}

function bundle() {
  return new Promise((bundled) => {
    const firstBuild = { name: "first-build", setup: (build) => build.onEnd(bundled) };
    esbuild
      .context({
        absWorkingDir: here,
        entryPoints: [entry],
        outfile: join(output, "worker.js"),
        bundle: true,
        format: "esm",
        target: "es2022",
        external: ["cloudflare:*", "node:*"],
        sourcemap: "inline",
        logLevel: "warning",
        plugins: [firstBuild],
      })
      .then((context) => context.watch());
  });
}

async function warnUnlessReady() {
  const ready = await fetch(new URL("/readyz", server), { signal: AbortSignal.timeout(2000) }).catch(() => undefined);
  if (!ready?.ok) console.error(`No gemlora server answers at ${server.origin} yet; start it with: gemlora serve`);
}

function run() {
  const options = ["--watch", `--import-path=${output}`, `--socket-addr=http=127.0.0.1:${port}`];
  const runtime = spawn(workerd.default, ["serve", ...options, "config.capnp"], { cwd: here, stdio: "inherit" });
  const stop = () => runtime.kill("SIGTERM");
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"]) process.on(signal, stop);
  // A signal to npm ends npm and its shell, which does not pass it on.
  setInterval(() => process.ppid === parent || stop(), 500).unref();
  process.on("exit", stop);
  runtime.on("exit", (code) => process.exit(code ?? 0));
}
