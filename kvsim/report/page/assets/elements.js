// Elements are made, never written as markup: text from logs can only ever be text.

/** An element with attributes, listeners (functions under "on…") and children (elements or text). */
function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (typeof value === "function") made.addEventListener(name.slice(2), value);
    else made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return made;
}

const byId = (id) => document.getElementById(id);

/** A name from a log, kept apart from the writing direction of the text around it, with its spaces shown. */
const nameFromLog = (text) => element("bdi", { class: "name" }, text === "" ? "(no name)" : text);

/** New children in place of the old; the focus stays on the control that says the same. */
function replaceContent(place, ...children) {
  const words = (control) => control.getAttribute("aria-label") ?? control.textContent;
  const focused = place.contains(document.activeElement) ? words(document.activeElement) : null;
  place.replaceChildren(...children);
  if (focused !== null) [...place.querySelectorAll("button")].find((control) => words(control) === focused)?.focus();
}

/** Puts text on the clipboard; says so on the button that asked. */
async function copyText(text, button) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const area = element("textarea", { class: "offscreen" });
    area.value = text;
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
    button.focus();
  }
  const said = button.textContent;
  button.textContent = "Copied";
  setTimeout(() => (button.textContent = said), 1200);
}

const copyButton = (label, text) =>
  element(
    "button",
    { type: "button", class: "quiet", onclick: (event) => copyText(text(), event.currentTarget) },
    label,
  );
