/** Server-sent events as the run route writes them: `data:` lines of JSON, then `[DONE]`. */

import { Failure } from "./failure.js";

const DONE = "[DONE]";

/** The objects of a stream. Throws `Failure` if it closes before its end mark. */
export async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  try {
    let text = "";
    for (;;) {
      const { value, done } = await reader.read();
      if (done) throw new Failure("The answer broke off: the server closed the stream before its end");
      const parts = (text + value).split("\n\n");
      text = parts.pop();
      for (const part of parts) {
        const data = part.replace(/^data: ?/, "");
        if (data === DONE) return;
        yield JSON.parse(data);
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
