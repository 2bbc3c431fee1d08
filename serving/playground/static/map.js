// The map: examples as points, the sample among them. One stop of the Tab key; arrow keys go from point to point.

import { draw, title } from "./dom.js";

const WIDTH = 460;
const HEIGHT = 400;
const MARGIN = 26;

/**
 * Show examples and, once there is one, a sample.
 * @param {HTMLElement} place emptied and filled
 * @param {{name: string, place: [number, number]}[]} examples
 * @param {{place: [number, number], nearest: {name: string}[]}|null} sample
 * @param {(name: string) => void} choose called with the example that was clicked or entered
 */
export function showMap(place, examples, sample, choose) {
  const [across, down] = scales([...examples.map((e) => e.place), ...(sample ? [sample.place] : [])]);
  const close = new Set(sample?.nearest.map((n) => n.name));
  const svg = draw("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "group", "aria-label": "Map of the examples; arrow keys go from point to point, Enter opens one" });
  svg.append(draw("rect", { class: "frame", x: 0.5, y: 0.5, width: WIDTH - 1, height: HEIGHT - 1, rx: 8 }));
  const spot = (at) => [across(at[0]), down(at[1])];
  if (sample) {
    const [x, y] = spot(sample.place);
    for (const example of examples.filter((e) => close.has(e.name))) {
      const [x2, y2] = spot(example.place);
      svg.append(draw("line", { x1: x, y1: y, x2, y2 }));
    }
  }
  const taken = sample ? [spot(sample.place)] : [];
  const ordered = [...examples].sort((a, b) => close.has(a.name) - close.has(b.name));
  for (const example of ordered) {
    const [x, y] = spot(example.place);
    const left = x > WIDTH * 0.62;
    const label = draw("text", { x: left ? x - 8 : x + 8, y: free(x, y, close.has(example.name) ? taken : []), "text-anchor": left ? "end" : "start" });
    label.textContent = title(example.name);
    const attributes = { class: close.has(example.name) ? "point close" : "point", tabindex: -1, role: "button", "aria-label": `${title(example.name)}${close.has(example.name) ? ", near the sample" : ""}`, "data-name": example.name };
    const point = draw("g", attributes, draw("circle", { cx: x, cy: y, r: 5 }), label);
    point.addEventListener("click", () => choose(example.name));
    svg.append(point);
  }
  if (sample) {
    const [x, y] = spot(sample.place);
    const diamond = draw("path", { class: "query", d: `M${x} ${y - 9}l9 9-9 9-9-9z` });
    diamond.append(Object.assign(draw("title"), { textContent: "the sample" }));
    svg.append(diamond);
  }
  svg.addEventListener("keydown", (event) => walk(event, [...svg.querySelectorAll(".point")], choose));
  svg.querySelector(".point:last-of-type, .point")?.setAttribute("tabindex", 0);
  place.replaceChildren(svg);
}

/** Both axes to pixels, with one scale for all distances. */
function scales(places) {
  const [xs, ys] = [places.map((p) => p[0]), places.map((p) => p[1])];
  const [x0, x1, y0, y1] = [Math.min(...xs), Math.max(...xs), Math.min(...ys), Math.max(...ys)];
  const size = Math.min((WIDTH - 2 * MARGIN) / (x1 - x0 || 1), (HEIGHT - 2 * MARGIN) / (y1 - y0 || 1));
  return [
    (x) => WIDTH / 2 + (x - (x0 + x1) / 2) * size,
    (y) => HEIGHT / 2 - (y - (y0 + y1) / 2) * size,
  ];
}

/** The height for a label near (x, y) that no other label of the list has. */
function free(x, y, taken) {
  for (const shift of [4, -9, 17, -22, 30, -35, 43, -48, 56, -61]) {
    const inside = y + shift > 12 && y + shift < HEIGHT - 6;
    if (inside && taken.every(([tx, ty]) => Math.abs(tx - x) > 130 || Math.abs(ty - (y + shift)) > 11)) {
      taken.push([x, y + shift]);
      return y + shift;
    }
  }
  return y + 4;
}

function walk(event, points, choose) {
  const now = points.indexOf(document.activeElement);
  if (now < 0) return;
  if (event.key === "Enter" || event.key === " ") choose(points[now].dataset.name);
  else {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (!step) return;
    const next = points[(now + step + points.length) % points.length];
    points[now].setAttribute("tabindex", -1);
    next.setAttribute("tabindex", 0);
    next.focus();
  }
  event.preventDefault();
}
