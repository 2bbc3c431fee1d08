// The page: choose a model, give it a file, show what comes back.

import * as api from "./api.js";
import { showCode, snippets } from "./code.js";
import { byId, make, title } from "./dom.js";
import { showMap } from "./map.js";
import { showModels, updateStates } from "./models.js";
import { pictureShelf, showItems, showNearest, showPicture, showWarnings } from "./results.js";
import { showStrip } from "./strip.js";
import { offerTasks } from "./tasks.js";

const POLL_MS = 2000;

/** The chosen model: its id, description, examples, and a shelf of their pictures. */
let model = null;
/** What was sent last: file, whether it is an example, the answer, the sample shown, the picture's address. */
let shown = null;
let asking = null;
let started = 0;

// --- telling ----------------------------------------------------------------------------------------------------

function say(text) {
  byId("status").textContent = text;
}

function complain(error) {
  const box = byId("problem");
  box.hidden = !error;
  if (!error) return;
  const about = [error.status ? `${error.status} ${error.code}` : "", error.param, error.request && `request ${error.request}`];
  box.replaceChildren(error.message, make("small", { textContent: about.filter(Boolean).join(" · ") }));
  if (error.status === 401) {
    byId("access").open = true;
    byId("key").focus();
  }
}

/** Show that work is under way, and what went wrong with it; gives nothing where it failed or was given up. */
async function waiting(work, text) {
  const mine = (started = performance.now());
  say(text);
  complain(null);
  byId("busy").hidden = false;
  try {
    return await work;
  } catch (error) {
    if (error.name !== "AbortError") complain(error);
    if (!(error instanceof api.Refusal) && error.name !== "AbortError") throw error;
    return null;
  } finally {
    if (mine === started) {
      byId("busy").hidden = true;
      say("");
    }
  }
}

// --- models -----------------------------------------------------------------------------------------------------

async function start() {
  const models = await waiting(api.models(), "Asking which models are served …");
  if (!models) return;
  const wanted = decodeURIComponent(location.hash.slice(1));
  const first = models.find((m) => m.id === wanted) ?? models.find((m) => m.state === "ready") ?? models[0];
  showModels(models, first?.id, choose);
  if (first) await choose(first.id);
  watch();
}

/** Follow the models' states until none is loading. */
async function watch() {
  const models = await api.models().catch(() => []);
  updateStates(models);
  if (models.some((m) => m.state === "loading")) setTimeout(watch, POLL_MS);
}

async function choose(id) {
  asking?.abort();
  shown = null;
  byId("result").hidden = true;
  byId("examples-row").hidden = true;
  history.replaceState(null, "", `#${encodeURIComponent(id)}`);
  const mine = (model = { id, facts: {}, examples: [], pictures: pictureShelf(id) });
  // The examples first: they load the model where that is still to be done.
  const text = `Preparing ${id} and its examples …`;
  const known = await waiting(api.examples(id).catch((error) => (error.code === "no_examples" ? { data: [] } : Promise.reject(error))), text);
  if (model !== mine) return;
  model.facts = await api.describe(id).catch(() => ({}));
  if (model !== mine) return;
  model.examples = known?.data ?? [];
  model.variance = known?.variance;
  updateStates([{ id, state: model.facts.state ?? "failed" }]);
  showFacts();
  showExamples();
}

function showFacts() {
  const facts = model.facts;
  byId("about").hidden = !facts.title;
  if (!facts.title) return;
  byId("about-title").textContent = `${model.id}: ${facts.title}`;
  byId("about-text").textContent = facts.summary;
  const rows = { dimension: facts.dimension, licence: facts.license, pooling: facts.default_pooling, tasks: facts.tasks.join(", ") };
  byId("about-facts").replaceChildren(
    ...Object.entries(rows)
      .filter(([, value]) => value)
      .map(([name, value]) => make("div", {}, make("dt", { textContent: name }), make("dd", { textContent: value }))),
  );
  byId("suffixes").textContent = `${facts.inputs.files.join(" ")}: told apart by content, up to ${Math.round(facts.request_limits.max_body_bytes / 2 ** 20)} MiB`;
}

function showExamples() {
  byId("examples-row").hidden = !model.examples.length;
  byId("examples").replaceChildren(
    ...model.examples.map(({ name }) => {
      const button = make("button", { type: "button", textContent: title(name) });
      button.addEventListener("click", () => openExample(name));
      return button;
    }),
  );
}

// --- files ------------------------------------------------------------------------------------------------------

async function openExample(name) {
  const file = await waiting(api.example(model.id, name), `Fetching ${title(name)} …`);
  if (file) await open(file, true);
}

async function open(file, example = false) {
  if (!model) return;
  asking?.abort();
  const own = (asking = new AbortController());
  const picture = api.picture(model.id, file, "", own.signal).catch((error) => error);
  const answer = await waiting(api.embed(model.id, file, own.signal), `Reading and embedding ${file.name} …`);
  if (own.signal.aborted) return;
  byId("result").hidden = !answer;
  if (!answer) return;
  shown = { file, example, answer, picture: null };
  byId("result-name").textContent = file.name;
  showItems(answer, (index) => showSample(index));
  offerTasks(model.id, model.facts.tasks ?? [], () => shown, waiting);
  await showSample(0, picture);
  const best = answer.data[0].nearest?.find(({ name }) => name !== file.name);
  say(`${file.name}: ${answer.data.length === 1 ? "one sample" : `${answer.data.length} samples`}${best ? `, nearest to ${title(best.name)}` : ""}.`);
  byId("result-title").focus({ preventScroll: true });
}

/** Show one sample of the answer; its picture is drawn anew unless it is under way already. */
async function showSample(index, picture) {
  const { file, example, answer } = shown;
  const entry = answer.data[index];
  const several = answer.data.length > 1;
  const sample = index && entry.item.key ? entry.item.key : "";
  showWarnings(entry.warnings);
  showStrip(byId("strip"), byId("strip-note"), entry.embedding);
  showNearest(model.id, entry.nearest, model.pictures, openExample);
  byId("map-card").hidden = !entry.place;
  if (entry.place) {
    showMap(byId("map"), model.examples, entry, openExample);
    const parts = model.variance?.map((share) => `${Math.round(100 * share)} %`).join(" and ");
    byId("map-note").textContent = `The two principal axes, ${parts} of the variance. ◆ is the sample; arrow keys go from point to point.`;
  }
  const ways = snippets({ model: model.id, file: file.name, example, sample, tasks: model.facts.tasks ?? [] });
  if (!entry.nearest) delete ways.neighbours;
  showCode(byId("code"), ways);
  const drawn = await (picture ?? api.picture(model.id, file, sample).catch((error) => error));
  if (shown?.answer !== answer) return;
  shown.picture = typeof drawn === "string" ? drawn : null;
  const name = several ? `${entry.item.key || "the first sample"} of ${file.name}` : file.name;
  showPicture(shown.picture, `Picture of ${name}`, `No picture: ${drawn.message}`);
}

// --- events -----------------------------------------------------------------------------------------------------

byId("file").addEventListener("change", (event) => event.target.files[0] && open(event.target.files[0]));
byId("models").addEventListener("submit", (event) => event.preventDefault());
byId("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  api.key.set(byId("key").value.trim());
  byId("key").value = "";
  byId("access").open = false;
  start();
});
byId("forget").addEventListener("click", () => {
  api.key.set("");
  start();
});

// The whole page takes a dropped file, so that one that misses the frame does not replace the page.
addEventListener("dragover", (event) => {
  event.preventDefault();
  byId("drop").classList.add("over");
});
addEventListener("dragleave", () => byId("drop").classList.remove("over"));
addEventListener("drop", (event) => {
  event.preventDefault();
  byId("drop").classList.remove("over");
  const file = event.dataTransfer.files[0];
  if (file) open(file);
});

start();
