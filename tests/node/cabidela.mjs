// Reads JSON texts, one a line, and prints for each what the hosted service's validator says: null where it accepts.
import { createInterface } from "node:readline";
import { readFileSync } from "node:fs";
import { Cabidela } from "@cloudflare/cabidela";

const validator = new Cabidela(JSON.parse(readFileSync(process.argv[2], "utf8")));

function verdict(value) {
  try {
    validator.validate(value);
    return null;
  } catch (error) {
    return error.message;
  }
}

const verdicts = [];
for await (const line of createInterface({ input: process.stdin, crlfDelay: Infinity })) {
  verdicts.push(verdict(JSON.parse(line)));
}
process.stdout.write(JSON.stringify(verdicts));
