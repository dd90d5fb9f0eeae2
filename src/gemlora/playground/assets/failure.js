/** What goes wrong when the server is asked. */

/** A refusal: the wire's text and code, and the HTTP status; both 0 if nothing answered. */
export class Failure extends Error {
  constructor(message, code = 0, status = 0) {
    super(message);
    this.code = code;
    this.status = status;
  }

  /** The whole of it on one line. */
  get line() {
    if (!this.status) return this.message;
    return `${this.message} (code ${this.code}, HTTP ${this.status})`;
  }
}
