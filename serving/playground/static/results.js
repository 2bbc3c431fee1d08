// What is shown of one file: its samples, a picture, neighbours, warnings.

import * as api from "./api.js";
import { byId, make, title } from "./dom.js";

const MOST_ITEMS = 300;

/** List the samples of a file that holds several; ``pick`` is called with the index of one. */
export function showItems(answer, pick) {
  const refused = answer.errors ?? [];
  byId("items-card").hidden = answer.data.length + refused.length < 2;
  const buttons = answer.data.slice(0, MOST_ITEMS).map((entry, index) => {
    const best = entry.nearest?.[0];
    const guess = make("span", { className: "guess", textContent: best ? `${title(best.name)} ${best.cosine.toFixed(2)}` : "" });
    const button = make("button", { type: "button", "aria-pressed": String(index === 0) }, make("span", { textContent: entry.item.key || `sample ${index + 1}` }), guess);
    button.addEventListener("click", () => {
      for (const other of byId("items").querySelectorAll("button")) other.setAttribute("aria-pressed", String(other === button));
      pick(index);
    });
    return make("li", {}, button);
  });
  const bad = refused.map((e) => make("li", { className: "bad", textContent: `${e.item.key}: ${e.message}` }));
  const more = answer.data.length - MOST_ITEMS;
  const rest = more > 0 ? [make("li", { className: "note", textContent: `and ${more} more` })] : [];
  byId("items").replaceChildren(...buttons, ...rest, ...bad);
  byId("items-title").textContent = `${answer.data.length} samples in this file`;
}

/** Show the picture at an address, or say why there is none. */
export function showPicture(address, alt, reason) {
  byId("picture").replaceChildren(address ? make("img", { src: address, alt }) : make("p", { textContent: reason }));
}

/** List the nearest examples, best first, each with a small picture. */
export function showNearest(model, nearest, pictures, choose) {
  byId("near-card").hidden = !nearest;
  const entries = (nearest ?? []).map(({ name, cosine }) => {
    const thumb = make("span", { className: "thumb" });
    pictures(name).then((address) => address && thumb.replaceChildren(make("img", { src: address, alt: "" })));
    const bar = make("i");
    bar.style.setProperty("--part", `${Math.max(0, Math.round(100 * cosine))}%`);
    const button = make(
      "button",
      { type: "button", title: "Open this example" },
      thumb,
      make("span", { className: "name" }, title(name), make("span", { className: "bar" }, bar)),
      make("span", { className: "cosine", textContent: cosine.toFixed(3) }),
    );
    button.addEventListener("click", () => choose(name));
    return make("li", {}, button);
  });
  byId("near").replaceChildren(...entries);
}

/** Show what the service doubts about a sample. */
export function showWarnings(warnings) {
  byId("warnings").hidden = !warnings?.length;
  byId("warnings").replaceChildren(...(warnings ?? []).map((text) => make("li", { textContent: text })));
}

/** Return a function that fetches each example's picture once. */
export function pictureShelf(model) {
  const fetched = new Map();
  return (name) => {
    if (!fetched.has(name)) fetched.set(name, api.examplePicture(model, name).catch(() => null));
    return fetched.get(name);
  };
}
