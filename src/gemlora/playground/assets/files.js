/** The two files of an adapter, from a picker or from what was dropped: files, or folders that hold them. */

const NAMES = ["adapter_config.json", "adapter_model.safetensors"];
const DEEPEST_FOLDER = 4;

/** `{ name, files: { file name: File } }`; `name` is the folder's, if there is one. Throws `Error` if one is missing. */
export function adapterFiles(list) {
  const files = {};
  for (const name of NAMES) {
    const found = list.filter((file) => file.name === name);
    if (found.length === 0) throw new Error(`${name} is missing: an adapter is the two files ${NAMES.join(" and ")}.`);
    if (found.length > 1) throw new Error(`${name} is there ${found.length} times: choose one adapter at a time.`);
    files[name] = found[0];
  }
  const folder = files[NAMES[0]].folder ?? files[NAMES[0]].webkitRelativePath.split("/").at(-2) ?? "";
  return { name: folder, files };
}

/** All files of a drop, those in folders too. */
export async function droppedFiles(transfer) {
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (!entries.length) return [...transfer.files];
  return (await Promise.all(entries.map((entry) => inside(entry, "", 0)))).flat();
}

async function inside(entry, folder, depth) {
  if (entry.isFile) {
    const file = await new Promise((resolve, reject) => entry.file(resolve, reject));
    return [Object.assign(file, { folder })];
  }
  if (depth === DEEPEST_FOLDER) return [];
  const found = [];
  for (const child of await children(entry)) found.push(...(await inside(child, entry.name, depth + 1)));
  return found;
}

/** A folder's reader hands out a part of its entries at a time. */
async function children(folder) {
  const reader = folder.createReader();
  const all = [];
  for (;;) {
    const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (!some.length) return all;
    all.push(...some);
  }
}
