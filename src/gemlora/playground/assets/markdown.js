/** Markdown to elements, for text that nobody has reason to trust: the model's.
 *
 * Every piece ends in a text node. HTML in the text stays text, images become their description, and only addresses
 * of the web and of mail become links. Works in time proportional to the text, and at most so many levels deep.
 */

import { element } from "./dom.js";

const DEEPEST = 6;
const CLOSERS_TRIED = 32;
const LONGEST_LINK = 2000;
const SAFE_ADDRESS = /^(https?:\/\/|mailto:)[^\s]+$/i;
const BARE_ADDRESS = /https?:\/\/[^\s<>"'`)\]]+/y;
const ESCAPABLE = /[!-/:-@[-`{-~]/;
const FENCE = /^ {0,3}(`{3,}|~{3,})\s*([^`\s]*)/;
const HEADING = /^ {0,3}(#{1,6})\s+(.*?)\s*#*$/;
const RULE = /^ {0,3}([-*_])( *\1){2,} *$/;
const QUOTE = /^ {0,3}> ?(.*)$/;
const ITEM = /^( {0,12})([-*+]|\d{1,9}[.)]) +(.*)$/;
const DIVIDER = /^ *\|?( *:?-+:? *\|)+( *:?-+:? *)?\|? *$/;

/** The text's blocks as a fragment. */
export function markdown(text) {
  const fragment = document.createDocumentFragment();
  fragment.append(...blocks(text.replace(/\r\n?/g, "\n").split("\n"), 0));
  return fragment;
}

function blocks(lines, depth) {
  const nodes = [];
  let at = 0;
  while (at < lines.length) {
    const line = lines[at];
    const block = line.trim() ? blockAt(lines, at, depth) : { end: at + 1 };
    if (block.node) nodes.push(block.node);
    at = block.end;
  }
  return nodes;
}

function blockAt(lines, at, depth) {
  const line = lines[at];
  if (FENCE.test(line)) return fenced(lines, at);
  if (RULE.test(line)) return { node: element("hr"), end: at + 1 };
  const heading = HEADING.exec(line);
  if (heading) return { node: headed(heading), end: at + 1 };
  if (depth < DEEPEST && QUOTE.test(line)) return quoted(lines, at, depth);
  if (depth < DEEPEST && ITEM.test(line)) return listed(lines, at, depth);
  if (line.includes("|") && DIVIDER.test(lines[at + 1] ?? "")) return tabulated(lines, at);
  return paragraph(lines, at, depth);
}

function fenced(lines, at) {
  const [, mark, language] = FENCE.exec(lines[at]);
  let end = at + 1;
  while (end < lines.length && !lines[end].trimStart().startsWith(mark)) end += 1;
  const code = element("code", {}, lines.slice(at + 1, end).join("\n"));
  const label = language ? `Code in ${language}` : "Code";
  return { node: element("pre", { tabindex: "0", role: "region", "aria-label": label }, code), end: end + 1 };
}

/** Headings of an answer begin below the page's own. */
function headed([, marks, text]) {
  return element(`h${Math.min(marks.length + 3, 6)}`, {}, ...inline(text));
}

function quoted(lines, at, depth) {
  let end = at;
  const inner = [];
  for (let match; end < lines.length && (match = QUOTE.exec(lines[end])); end += 1) inner.push(match[1]);
  return { node: element("blockquote", {}, ...blocks(inner, depth + 1)), end };
}

function listed(lines, at, depth) {
  const [, indent, mark] = ITEM.exec(lines[at]);
  const ordered = /\d/.test(mark);
  const list = element(ordered ? "ol" : "ul", ordered && mark.slice(0, -1) !== "1" ? { start: parseInt(mark, 10) } : {});
  let end = at;
  while (end < lines.length) {
    const item = ITEM.exec(lines[end]);
    if (!item || item[1].length !== indent.length || /\d/.test(item[2]) !== ordered) break;
    const inner = [item[3]];
    const inside = indent.length + 2;
    end += 1;
    while (end < lines.length && (lines[end].search(/\S/) >= inside || (!lines[end].trim() && isInside(lines[end + 1], inside)))) {
      inner.push(lines[end].slice(Math.min(inside, lines[end].length)));
      end += 1;
    }
    list.append(element("li", {}, ...unwrapped(blocks(inner, depth + 1))));
  }
  return end === at ? paragraph(lines, at, depth) : { node: list, end };
}

function isInside(line, indent) {
  return line !== undefined && line.search(/\S/) >= indent;
}

/** A list item's first paragraph stands without its element, as in tight lists. */
function unwrapped(nodes) {
  return nodes.length && nodes[0].tagName === "P" ? [...nodes[0].childNodes, ...nodes.slice(1)] : nodes;
}

function tabulated(lines, at) {
  const row = (line, tag) => element("tr", {}, ...cells(line).map((cell) => element(tag, {}, ...inline(cell))));
  let end = at + 2;
  while (end < lines.length && lines[end].includes("|")) end += 1;
  const head = element("thead", {}, row(lines[at], "th"));
  const body = element("tbody", {}, ...lines.slice(at + 2, end).map((line) => row(line, "td")));
  const table = element("table", {}, head, body);
  return { node: element("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Table" }, table), end };
}

function cells(line) {
  return line.trim().replace(/^\||\|$/g, "").split("|").map((cell) => cell.trim());
}

function paragraph(lines, at, depth) {
  let end = at + 1;
  while (end < lines.length && lines[end].trim() && !begins(lines[end], depth)) end += 1;
  return { node: element("p", {}, ...inline(lines.slice(at, end).join("\n"))), end };
}

function begins(line, depth) {
  if (FENCE.test(line) || HEADING.test(line) || RULE.test(line)) return true;
  return depth < DEEPEST && (QUOTE.test(line) || ITEM.test(line));
}

/** The nodes of a line of text: emphasis, code, links, line breaks. */
function inline(text, depth = 0) {
  const nodes = [];
  const missing = new Set(); // marks that do not come again, so that nobody looks for them again
  let plain = "";
  let at = 0;
  while (at < text.length) {
    const span = depth < DEEPEST ? spanAt(text, at, missing, depth) : null;
    if (span) {
      nodes.push(plain, span.node);
      plain = "";
      at = span.end;
    } else {
      plain += text[at];
      at += 1;
    }
  }
  nodes.push(plain);
  return nodes.filter((node) => node !== "");
}

function spanAt(text, at, missing, depth) {
  switch (text[at]) {
    case "\\":
      return ESCAPABLE.test(text[at + 1] ?? "") ? { node: text[at + 1], end: at + 2 } : null;
    case "\n":
      return { node: element("br"), end: at + 1 };
    case "`":
      return codeAt(text, at, missing);
    case "*":
    case "_":
    case "~":
      return emphasisAt(text, at, missing, depth);
    case "[":
      return linkAt(text, at, depth);
    case "!":
      return text[at + 1] === "[" ? imageAt(text, at) : null;
    case "h":
    case "H":
      return bareAt(text, at);
    default:
      return null;
  }
}

function codeAt(text, at, missing) {
  let begin = at;
  while (text[begin] === "`") begin += 1;
  const mark = text.slice(at, begin);
  const close = closing(text, mark, begin, missing);
  if (close < 0) return { node: mark, end: begin };
  return { node: element("code", {}, text.slice(begin, close).trim()), end: close + mark.length };
}

function emphasisAt(text, at, missing, depth) {
  const sign = text[at];
  const mark = text[at + 1] === sign ? sign + sign : sign;
  const begin = at + mark.length;
  if (mark === "~" || /\s/.test(text[begin] ?? " ")) return null;
  if (sign === "_" && /\w/.test(text[at - 1] ?? "")) return null;
  let close = closing(text, mark, begin + 1, missing);
  for (let tried = 0; close > 0 && /\s/.test(text[close - 1]) && tried < CLOSERS_TRIED; tried += 1) {
    close = closing(text, mark, close + 1, missing);
  }
  if (close < 0 || /\s/.test(text[close - 1])) return null;
  const tag = sign === "~" ? "del" : mark.length === 2 ? "strong" : "em";
  return { node: element(tag, {}, ...inline(text.slice(begin, close), depth + 1)), end: close + mark.length };
}

function closing(text, mark, from, missing) {
  if (missing.has(mark)) return -1;
  const found = text.indexOf(mark, from);
  if (found < 0) missing.add(mark);
  return found;
}

function linkAt(text, at, depth) {
  const link = linkParts(text, at);
  if (!link || !SAFE_ADDRESS.test(link.address)) return null;
  return { node: anchor(link.address, inline(link.label, depth + 1)), end: link.end };
}

/** Nothing is loaded: an image is its description, linked if its address is a safe one. */
function imageAt(text, at) {
  const link = linkParts(text, at + 1);
  if (!link) return null;
  const label = `Image: ${link.label || "without description"}`;
  const node = SAFE_ADDRESS.test(link.address) ? anchor(link.address, [label]) : document.createTextNode(label);
  return { node, end: link.end };
}

function linkParts(text, at) {
  const window = text.slice(at, at + LONGEST_LINK);
  const middle = window.indexOf("](");
  const end = window.indexOf(")", middle);
  if (middle < 0 || end < 0) return null;
  const [address = ""] = window.slice(middle + 2, end).trim().split(/\s/);
  return { label: window.slice(1, middle), address, end: at + end + 1 };
}

function bareAt(text, at) {
  if (/\w/.test(text[at - 1] ?? "")) return null;
  BARE_ADDRESS.lastIndex = at;
  const address = BARE_ADDRESS.exec(text)?.[0].replace(/[.,;:!?]+$/, "");
  return address && SAFE_ADDRESS.test(address) ? { node: anchor(address, [address]), end: at + address.length } : null;
}

function anchor(address, children) {
  return element("a", { href: address, target: "_blank", rel: "noopener noreferrer" }, ...children);
}
