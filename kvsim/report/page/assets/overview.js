// The first screen: tiles and bars, from the small summary that stands before the data.

const summary = JSON.parse(byId("summary").textContent);

const FORMATS = { duration, money, plain, count, percent };

/** A bar of parts, each {label, colour, value}, with its legend; nothing where they sum to nothing. */
function stack(label, parts, format) {
  const shown = parts.filter((part) => part.value > 0);
  const whole = shown.reduce((sum, part) => sum + part.value, 0);
  if (!whole) return null;
  const said = shown.map((part) => `${part.label} ${format(part.value)} (${percent(part.value / whole)})`);
  return element(
    "div",
    {},
    element(
      "div",
      { class: "spread" },
      element("strong", {}, label),
      element("span", { class: "note" }, format(whole)),
    ),
    element(
      "div",
      { class: "stack", role: "img", "aria-label": `${label}: ${said.join(", ")}` },
      shown.map((part) => bar(part, whole)),
    ),
    element(
      "ul",
      { class: "legend" },
      shown.map((part) =>
        element(
          "li",
          {},
          bar(part),
          part.label + " ",
          element("span", { class: "amount" }, `${format(part.value)} · ${percent(part.value / whole)}`),
        ),
      ),
    ),
  );
}

function bar(part, whole) {
  const drawn = element("i", { title: part.label });
  drawn.style.setProperty("--part", `var(--${part.colour})`);
  if (whole) drawn.style.width = `${(100 * part.value) / whole}%`;
  return drawn;
}

function tile({ label, value, format, low, high, aside }) {
  const show = FORMATS[format];
  const sure = low === null || low === undefined ? null : `90 %: ${show(low)} – ${show(high)}`;
  return element(
    "div",
    { class: "tile" },
    element("div", { class: "label" }, label),
    element("div", { class: "value" }, show(value ?? NaN)),
    [sure, aside].filter(Boolean).map((line) => element("div", { class: "aside" }, line)),
  );
}

byId("tiles").append(...summary.tiles.map(tile));
/** The change that would save most of the time, in a sentence; nothing where there is none. */
function lead({ label, name, trajectory, turn, model_s, model_s_low, model_s_high, share }) {
  return element(
    "p",
    { class: "lead" },
    `${label} `,
    element("strong", {}, element("bdi", {}, name)),
    trajectory === null ? "" : [" in ", nameFromLog(trajectory), turn === null ? "" : `, turn ${turn}`],
    ` – ${duration(model_s)} less in the model (90 %: ${duration(model_s_low)} – ${duration(model_s_high)}), ${percent(share)}. `,
    element("a", { href: "#what-if", "data-section": "what-if" }, "All changes"),
  );
}

byId("leads").append(...summary.leads.map(lead));
byId("where").append(
  ...summary.stacks.map(({ label, format, parts }) => stack(label, parts, FORMATS[format])).filter(Boolean),
);
