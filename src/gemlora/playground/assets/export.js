/** Comparisons as files. */

const COLUMNS = [
  "time", "model", "weights", "form", "system", "prompt", "seed", "parameters", "left", "right", "left_response", "right_response", "verdict",
];

/** Everything, as it was kept. */
export function comparisonsJson(comparisons) {
  return JSON.stringify(comparisons, null, 2);
}

/** One row for each pair. */
export function comparisonsCsv(comparisons) {
  const rows = comparisons.flatMap((comparison) => comparison.pairs.map((pair) => row(comparison, pair)));
  return [COLUMNS, ...rows].map((cells) => cells.map(cell).join(",")).join("\r\n") + "\r\n";
}

function row(comparison, pair) {
  const response = (side) => written(comparison.answers.find(({ name }) => name === side));
  const values = {
    ...comparison, ...pair, parameters: JSON.stringify(comparison.parameters),
    left_response: response(pair.left), right_response: response(pair.right),
  };
  return COLUMNS.map((column) => values[column]);
}

/** The text, or the calls if there is none. */
function written({ response, tool_calls: calls }) {
  return response || !calls ? response : JSON.stringify(calls);
}

/** Quoted; what a spreadsheet would take for a formula gets an apostrophe in front. */
function cell(value) {
  const text = String(value ?? "");
  const safe = /^[=+\-@\t\r]/.test(text) ? `'${text}` : text;
  return `"${safe.replaceAll('"', '""')}"`;
}
