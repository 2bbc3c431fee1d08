// The lines that do the same from a shell and from Python.

import { base, key } from "./api.js";
import { make } from "./dom.js";

const shell = (text) => (/^[\w./:@=-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`);
const python = (text) => JSON.stringify(text);

/**
 * Return the ways to repeat what is shown, by name.
 * @param {{model: string, file: string, example: boolean, sample: string, tasks: string[]}} shown
 */
export function snippets({ model, file, example, sample, tasks }) {
  const auth = key.get() ? ' -H "Authorization: Bearer $FMHUB_API_KEY"' : "";
  const url = `${base}v1/models/${model}`;
  const fetched = example ? `curl${auth} -o ${shell(file)} ${shell(`${url}/examples/${encodeURIComponent(file)}`)}\n` : "";
  const post = (path, rest = "") => `${fetched}curl${auth} -F ${shell(`file=@${file}`)} ${shell(`${url}/${path}`)}${rest}`;
  const script = (lines, first = "") =>
    `${first}from serving.client import Client\n\nwith Client(${python(base.replace(/\/$/, ""))}) as client:\n${lines.map((line) => `    ${line}`).join("\n")}`;
  const run = (task) => `client.run(${python(model)}, ${python(task)}, Path(${python(file)}))`;
  const paths = "from pathlib import Path\n\n";
  const query = sample ? `?sample=${encodeURIComponent(sample)}` : "";
  const found = {
    embedding: {
      curl: post("embeddings"),
      Python: script([`found = client.embed(${python(model)}, Path(${python(file)}))`, "print(found.vectors.shape, found.items)"], paths),
    },
    neighbours: { curl: post("neighbours"), Python: script([`print(${run("neighbours")}[0]["nearest"])`], paths) },
    picture: { curl: post(`preview${query}`, " -o picture") },
  };
  if (!sample) found.picture.Python = script([`Path("picture").write_bytes(${run("preview")})`], paths);
  for (const task of tasks) {
    found[task] = { curl: post(task, " -o result"), Python: script([`result = ${run(task)}`], paths) };
  }
  return found;
}

/** Show the ways, one at a time, each with a button that copies it. */
export function showCode(place, ways, chosen = "embedding") {
  const tabs = Object.keys(ways).map((name) => {
    const tab = make("button", { type: "button", textContent: name, "aria-pressed": String(name === chosen) });
    tab.addEventListener("click", () => {
      showCode(place, ways, name);
      place.querySelector('[aria-pressed="true"]').focus();
    });
    return tab;
  });
  const shown = Object.entries(ways[chosen]).map(([language, text]) => {
    const copy = make("button", { type: "button", textContent: "Copy", "aria-label": `Copy the ${language} lines` });
    copy.addEventListener("click", async () => {
      await navigator.clipboard.writeText(text);
      copy.textContent = "Copied";
      setTimeout(() => (copy.textContent = "Copy"), 1500);
    });
    return make("div", { className: "snippet" }, make("h4", { textContent: language }), make("pre", { textContent: text, tabIndex: 0, "aria-label": language }), copy);
  });
  place.replaceChildren(make("div", { className: "tabs", role: "group", "aria-label": "What to repeat" }, ...tabs), ...shown);
}
