/** Builds elements from plain values. Text becomes text nodes; nothing here, or anywhere in this page, parses HTML. */

const SVG = "http://www.w3.org/2000/svg";

/** An element with attributes (`on`: listeners; true and false set and leave out) and children (text or nodes). */
export function element(tag, attributes = {}, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

/** The same for drawings. */
export function drawing(tag, attributes = {}, ...children) {
  return filled(document.createElementNS(SVG, tag), attributes, children);
}

/** The element with this id. */
export function byId(id) {
  return document.getElementById(id);
}

/** A quiet button. */
export function button(label, action, attributes = {}) {
  return element("button", { type: "button", class: "quiet", on: { click: action }, ...attributes }, label);
}

/** Tell screen readers what has happened. */
export function announce(text) {
  byId("announcer").textContent = text;
}

/** Copy text and say so on the button for a moment. */
export async function copy(text, on) {
  const label = on.textContent;
  try {
    await navigator.clipboard.writeText(text);
    on.textContent = "Copied";
  } catch {
    on.textContent = copySelected(text) ? "Copied" : "Not allowed";
  }
  announce(on.textContent);
  setTimeout(() => { on.textContent = label; }, 1500);
}

/** Let the reader save text as a file. */
export function save(text, name, type) {
  const address = URL.createObjectURL(new Blob([text], { type }));
  element("a", { href: address, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(address), 1000);
}

/** For addresses where browsers keep the clipboard's interface away: plain HTTP that is not this machine. */
function copySelected(text) {
  const field = element("textarea", { class: "offscreen", "aria-hidden": "true" });
  field.value = text;
  (document.querySelector("dialog[open]") ?? document.body).append(field);
  field.select();
  const copied = document.execCommand("copy");
  field.remove();
  return copied;
}

function filled(node, { on = {}, ...attributes }, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === true) node.setAttribute(name, "");
    else if (value !== false && value !== undefined) node.setAttribute(name, value);
  }
  for (const [name, listener] of Object.entries(on)) node.addEventListener(name, listener);
  node.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return node;
}
