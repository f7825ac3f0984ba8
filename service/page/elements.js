// Creates elements. Text is always inserted as text, never as markup.

/** An element with properties or attributes, and with children, which are elements or texts. */
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

/** An SVG element with attributes and children. */
export function shape(name, attributes = {}, ...children) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

/** The element with this id. */
export const find = (id) => document.getElementById(id);

/** Set a text only if it differs, so that nothing is announced or laid out again. */
export function setText(target, text) {
  if (target.textContent !== text) target.textContent = text;
}
