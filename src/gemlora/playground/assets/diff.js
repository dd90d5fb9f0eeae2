/** Which words of two texts differ: the longest common subsequence of their words. */

const MOST_WORDS = 2000;

/** Both texts as lists of `{ text, changed }`; words that only one of them has are changed. */
export function compared(left, right) {
  const [ours, theirs] = [words(left), words(right)];
  let head = 0;
  while (head < ours.length && head < theirs.length && ours[head] === theirs[head]) head += 1;
  let tail = 0;
  while (tail < Math.min(ours.length, theirs.length) - head && ours.at(-1 - tail) === theirs.at(-1 - tail)) tail += 1;
  const middle = common(ours.slice(head, ours.length - tail), theirs.slice(head, theirs.length - tail));
  return [marked(ours, head, tail, middle[0]), marked(theirs, head, tail, middle[1])];
}

/** Words with the white space behind them. */
function words(text) {
  return text.match(/^\s+|\S+\s*/g) ?? [];
}

/** For two lists the positions that both have in common, in order. Long lists count as different throughout. */
function common(ours, theirs) {
  const kept = [new Set(), new Set()];
  if (ours.length > MOST_WORDS || theirs.length > MOST_WORDS) return kept;
  const width = theirs.length + 1;
  const lengths = new Uint16Array((ours.length + 1) * width);
  for (let i = ours.length - 1; i >= 0; i -= 1) {
    for (let j = theirs.length - 1; j >= 0; j -= 1) {
      const same = ours[i].trimEnd() === theirs[j].trimEnd();
      const skip = Math.max(lengths[(i + 1) * width + j], lengths[i * width + j + 1]);
      lengths[i * width + j] = same ? lengths[(i + 1) * width + j + 1] + 1 : skip;
    }
  }
  for (let i = 0, j = 0; i < ours.length && j < theirs.length;) {
    if (ours[i].trimEnd() === theirs[j].trimEnd()) {
      kept[0].add(i);
      kept[1].add(j);
      i += 1;
      j += 1;
    } else if (lengths[(i + 1) * width + j] >= lengths[i * width + j + 1]) i += 1;
    else j += 1;
  }
  return kept;
}

function marked(list, head, tail, kept) {
  const parts = [];
  list.forEach((text, index) => {
    const changed = index >= head && index < list.length - tail && !kept.has(index - head);
    if (parts.length && parts.at(-1).changed === changed) parts.at(-1).text += text;
    else parts.push({ text, changed });
  });
  return parts;
}
