// Small helpers for making and finding elements. Text only ever enters as text.

export const byId = (id) => document.getElementById(id);

/** Make an element; properties whose names hold a dash become attributes. */
export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.includes("-")) element.setAttribute(name, value);
    else element[name] = value;
  }
  element.append(...children);
  return element;
}

const SVG = "http://www.w3.org/2000/svg";

/** Make an SVG element from its attributes. */
export function draw(tag, attributes = {}, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

/** What people call an example: its file's name without suffix and dashes. */
export const title = (file) => file.replace(/\.[^.]+$/, "").replaceAll("-", " ");
