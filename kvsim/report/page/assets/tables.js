// Tables of numbers: shown with sensible digits, copied with all of them.

/** The rows of columns, as many as one of them has. */
const rowsOf = (columns, key) =>
  columns[key].map((_, at) => Object.fromEntries(Object.entries(columns).map(([name, values]) => [name, values[at]])));

/**
 * A table of rows. Columns are {label, of(row), show, exact, text}: show makes what is seen of a value (an element or
 * text), exact what is copied.
 */
function table(columns, rows, { caption }) {
  const body = element(
    "tbody",
    {},
    rows.map((row) => element("tr", {}, cells(columns, row))),
  );
  return tableAround(body, columns, { caption });
}

/** The same of rows that open something, by click or with the keyboard. */
function openingTable(columns, rows, { caption, id, open }) {
  const body = element(
    "tbody",
    {},
    rows.map((row, at) => element("tr", { class: "row", tabindex: "-1", "data-at": at }, cells(columns, row))),
  );
  rovingRows(body, { open: (chosen) => open(rows[Number(chosen.dataset.at)]) });
  reachable(body);
  return tableAround(body, columns, { caption, id });
}

/** A table around a body whose rows come and go. */
const tableAround = (body, columns, { caption, id }) =>
  element(
    "table",
    { id },
    element("caption", { class: "offscreen" }, caption),
    element("thead", {}, element("tr", {}, columns.map(heading))),
    body,
  );

const classOf = (column) => [column.text ? "text" : "", column.wide ? "wide" : ""].join(" ").trim() || null;

const heading = (column) =>
  element("th", { scope: "col", class: classOf(column), title: column.meaning }, column.label);

function cells(columns, row) {
  return columns.map((column) => {
    const value = column.of(row);
    return element("td", { class: classOf(column) }, column.show ? column.show(value, row) : String(value ?? ""));
  });
}

/** All rows with all digits, tabs between cells: what a spreadsheet takes. */
function tabSeparated(columns, rows) {
  const clean = (value) => (Number.isNaN(value) ? "" : String(value ?? "")).replace(/[\t\r\n]+/g, " ");
  const lines = rows.map((row) =>
    columns.map((column) => clean((column.exact ?? ((value) => value))(column.of(row), row))),
  );
  return [columns.map((column) => clean(column.heading ?? column.label)), ...lines]
    .map((line) => line.join("\t"))
    .join("\n");
}

/** A heading line beside a button that copies the table's numbers. */
const tableHead = (text, columns, rows) =>
  element(
    "div",
    { class: "spread" },
    element("span", { class: "note" }, text),
    copyButton("Copy table", () => tabSeparated(columns, rows())),
  );

/** A column of nanoseconds. */
const nanoseconds = (label, of, more = {}) => ({
  label,
  heading: `${label} (s)`,
  of,
  show: (value) => duration(value / 1e9),
  exact: exactSeconds,
  ...more,
});

/** Rows of a table body that arrow keys move between; one of them can be reached with Tab. */
function rovingRows(body, { open, turnPage }) {
  body.addEventListener("click", (event) => {
    const row = event.target.closest("tr");
    if (row && getSelection().isCollapsed) open(row);
  });
  body.addEventListener("focusin", (event) => {
    for (const row of body.children) row.tabIndex = row === event.target ? 0 : -1;
  });
  body.addEventListener("keydown", (event) => {
    const rows = [...body.children];
    const at = rows.indexOf(event.target);
    if (at < 0) return;
    const focus = (to) => rows[Math.max(0, Math.min(rows.length - 1, to))].focus();
    const turn = (by) => turnPage?.(by) && body.firstElementChild?.focus();
    const actions = {
      ArrowDown: () => focus(at + 1),
      ArrowUp: () => focus(at - 1),
      Home: () => focus(0),
      End: () => focus(rows.length),
      PageDown: () => turn(1),
      PageUp: () => turn(-1),
      Enter: () => open(rows[at]),
      " ": () => open(rows[at]),
    };
    if (!actions[event.key]) return;
    event.preventDefault();
    actions[event.key]();
  });
}

/** Lets Tab reach the chosen row of a body, else its first. */
function reachable(body) {
  const row = body.querySelector("[aria-selected=true]") ?? body.firstElementChild;
  if (row) row.tabIndex = 0;
}

/** Buttons to the pages around one, of so many rows. */
function pager(rows, size, page, go) {
  const pages = Math.max(1, Math.ceil(rows / size));
  const to = (label, words, wanted) =>
    element(
      "button",
      { type: "button", "aria-label": words, disabled: wanted < 1 || wanted > pages, onclick: () => go(wanted) },
      label,
    );
  return pages === 1
    ? []
    : [
        to("⟨", "Previous page", page - 1),
        element("span", {}, `page ${count(page)} of ${count(pages)}`),
        to("⟩", "Next page", page + 1),
      ];
}

const pageWithin = (rows, size, page) => Math.max(1, Math.min(Math.ceil(rows / size) || 1, Number(page) || 1));
