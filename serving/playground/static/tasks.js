// A model's further tasks: a picture beside the input's, a table, or a file to keep.

import * as api from "./api.js";
import { byId, make } from "./dom.js";

/**
 * Offer a button for each task.
 * @param {string} model
 * @param {string[]} tasks
 * @param {() => {file: File, sample: string, picture: string}} shown what is on the page when a button is pressed
 * @param {(work: Promise, text: string) => Promise} waiting shows that something is under way, and what went wrong
 */
export function offerTasks(model, tasks, shown, waiting) {
  const place = byId("task-result");
  place.replaceChildren();
  const buttons = tasks.map((task) => {
    const button = make("button", { type: "button", className: "strong", textContent: task.replaceAll("_", " ") });
    button.addEventListener("click", async () => {
      const { file, picture } = shown();
      const result = await waiting(api.run(model, task, file), `Running ${task} …`);
      if (result) place.replaceChildren(await (result.file ? asFile(model, task, result.file, picture) : asAnswer(result.answer)));
    });
    return button;
  });
  byId("tasks").replaceChildren(...buttons);
}

/** A file to keep; where the service can draw it, the input's picture gives way to both with a slider between them. */
async function asFile(model, task, file, before) {
  const link = download(file, file.name);
  const after = before ? await api.picture(model, file).catch(() => null) : null;
  if (after) byId("picture").replaceChildren(compare(before, after, task));
  return link;
}

function download(blob, name) {
  return make("p", {}, make("a", { href: URL.createObjectURL(blob), download: name, textContent: `Save ${name}` }), ` (${Math.ceil(blob.size / 1024)} kB)`);
}

function compare(before, after, task) {
  const both = make(
    "div",
    { className: "both" },
    make("img", { src: before, alt: "The input" }),
    make("img", { src: after, alt: `After ${task}`, className: "after" }),
  );
  const range = make("input", { type: "range", min: 0, max: 100, value: 50, id: "cut", "aria-label": `Line between the input and the result of ${task}` });
  const move = () => {
    both.style.setProperty("--cut", `${range.value}%`);
    range.setAttribute("aria-valuetext", `${range.value} % input, ${100 - range.value} % ${task}`);
  };
  range.addEventListener("input", move);
  move();
  const sides = make("div", { className: "sides" }, make("span", { textContent: "input" }), make("span", { textContent: `after ${task}` }));
  return make("div", { className: "compare" }, both, range, sides);
}

/** JSON: a table where every result is flat, the text itself otherwise; files in it can be saved. */
function asAnswer(answer) {
  const results = answer.data.map((entry) => ({ item: entry.item.key, result: entry.result }));
  if (results.every(({ result }) => result?.data && result?.media_type)) {
    return make("div", {}, ...results.map(({ result }) => download(unpacked(result), result.filename)));
  }
  if (results.every(({ result }) => isFlat(result))) return table(results);
  const text = JSON.stringify(results.length === 1 ? results[0].result : results, null, 1);
  return make("div", {}, make("pre", { className: "scroll", tabIndex: 0, textContent: text.slice(0, 20_000) }), download(new Blob([text]), "result.json"));
}

const isFlat = (value) =>
  value !== null && (typeof value !== "object" || Object.values(value).every((part) => part === null || typeof part !== "object"));

function table(results) {
  const rows = results.map(({ item, result }) => ({ ...(item ? { sample: item } : {}), ...(typeof result === "object" ? result : { result }) }));
  const columns = [...new Set(rows.flatMap(Object.keys))];
  const show = (value) => (typeof value === "number" && !Number.isInteger(value) ? value.toPrecision(4) : String(value ?? ""));
  const head = make("tr", {}, ...columns.map((name) => make("th", { scope: "col", textContent: name })));
  const body = rows.slice(0, 200).map((row) => make("tr", {}, ...columns.map((name) => make("td", { textContent: show(row[name]) }))));
  return make("div", { className: "scroll", tabIndex: 0 }, make("table", {}, make("thead", {}, head), make("tbody", {}, ...body)));
}

function unpacked({ data, media_type: type }) {
  return new Blob([Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0))], { type });
}
