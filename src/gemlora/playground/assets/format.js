/** Numbers for people. */

/** A number of things, by the name of one. */
export function counted(count, thing) {
  return `${count.toLocaleString("en")} ${thing}${count === 1 ? "" : "s"}`;
}

/** A part of one in three digits. */
export function percent(part) {
  return `${(part * 100).toPrecision(3)} %`;
}

/** A size for people. */
export function bytes(count) {
  if (count < 1024) return `${count} bytes`;
  const power = Math.min(Math.floor(Math.log2(count) / 10), 3);
  return `${(count / 1024 ** power).toPrecision(3)} ${["", "KiB", "MiB", "GiB"][power]}`;
}
