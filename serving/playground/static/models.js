// The chooser: models grouped by domain, each with the state it is in.

import { byId, make } from "./dom.js";

const STATES = { ready: "ready", loading: "loading", not_loaded: "on first use", failed: "failed", closed: "closed" };

/** Show the models; ``choose`` is called with the id of the one that is picked. */
export function showModels(models, chosen, choose) {
  byId("model-list").replaceChildren(
    ...[...grouped(models)].map(([name, group]) =>
      make("fieldset", {}, make("legend", { textContent: name }), ...group.map((model) => entry(model, model.id === chosen, choose))),
    ),
  );
}

/** Note that models have gone from one state to another. */
export function updateStates(models) {
  for (const model of models) {
    const label = [...document.querySelectorAll(".model")].find((l) => l.dataset.model === model.id);
    if (label) setState(label.querySelector(".state"), model.state);
  }
}

const domainOf = (model) => model.domain ?? "other";

/** By domain, in the order in which the service lists them. */
function grouped(models) {
  const groups = new Map();
  for (const model of models) groups.set(domainOf(model), [...(groups.get(domainOf(model)) ?? []), model]);
  return groups;
}

function entry(model, checked, choose) {
  const radio = make("input", { type: "radio", name: "model", value: model.id, checked });
  radio.addEventListener("change", () => choose(model.id));
  const state = make("span", { className: "state" });
  setState(state, model.state);
  return make("label", { className: "model", "data-model": model.id }, radio, make("span", { textContent: model.id }), state);
}

function setState(element, state) {
  element.textContent = STATES[state] ?? state;
  element.dataset.state = state;
}
