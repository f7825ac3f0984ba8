// Making elements; text is always text, never markup.

/** An element with attributes or properties, and children or texts. */
export function element(name, properties = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key in made) made[key] = value;
    else made.setAttribute(key, value);
  }
  made.append(...children);
  return made;
}

const SVG = "http://www.w3.org/2000/svg";

/** The same for a part of a drawing. */
export function shape(name, attributes = {}, ...children) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

/** The element of this id. */
export const find = (id) => document.getElementById(id);

/** Set a text only where it differs: nothing is announced or laid out twice. */
export function setText(target, text) {
  if (target.textContent !== text) target.textContent = text;
}
