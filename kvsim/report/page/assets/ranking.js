// Trajectories ranked: filtered, sorted, a page at a time, with the keyboard too. The address says how.

const PAGE = 25;
const STATUS_WORDS = { ok: "priced", over_max: "beyond the longest context", over_capacity: "beyond the KV cache" };

function startRanking(run, place) {
  const priced = run.facts.usd_per_hour !== null;
  const columns = [
    { key: "id", label: "trajectory", text: true, wide: true, of: (one) => one.id, show: (id) => nameFromLog(id) },
    { key: "turns", label: "turns", of: (one) => one.turns, show: count },
    ...["latency_s", "model_s", "recompute_s", ...(priced ? ["usd"] : ["gpu_s"]), "kv"].map((key) => ({
      key,
      label: MEASURES[key].short,
      meaning: MEASURES[key].label,
      of: MEASURES[key].of,
      show: MEASURES[key].show,
    })),
    {
      key: "cached",
      label: "cached",
      meaning: "prompt tokens found in the KV cache",
      of: (one) => one.cached_share,
      show: percent,
    },
  ];
  const whole = [
    ...columns,
    { label: "status", text: true, of: (one) => run.facts.statuses[one.status] },
    ...ALL_PARTS.map((part) => nanoseconds(part.label, (one) => one[part.key])),
  ];

  const controls = filterControls(run, columns);
  const said = element("span", { "aria-live": "polite", id: "found" });
  const head = element("tr", {});
  const body = element("tbody", {});
  const pages = element("div", { class: "pager" });
  let found = [];
  place.append(
    controls.row,
    element(
      "div",
      { class: "spread" },
      said,
      copyButton("Copy all of these", () => tabSeparated(whole, found)),
    ),
    element(
      "div",
      { class: "scroll" },
      element(
        "table",
        { "aria-describedby": "ranking-keys" },
        element("caption", { class: "offscreen" }, "Trajectories, ranked"),
        element("thead", {}, head),
        body,
      ),
    ),
    element(
      "div",
      { class: "spread" },
      element(
        "span",
        { class: "note", id: "ranking-keys" },
        "Keys: / filters; ↑ ↓ move, Enter opens the timeline, Page Up and Page Down turn pages.",
      ),
      pages,
    ),
  );

  const row = (one, chosen) =>
    element(
      "tr",
      { class: "row", tabindex: "-1", "data-at": one.at, "aria-selected": String(one.at === chosen) },
      cells(columns, one),
      element("td", { class: "bar-cell" }, one.status ? STATUS_WORDS[run.facts.statuses[one.status]] : miniature(one)),
    );

  const sortable = (column, sort) => {
    const direction = sort.key === column.key ? (sort.down ? "descending" : "ascending") : null;
    const next = direction === "descending" || (!direction && column.text) ? column.key : "-" + column.key;
    return element(
      "th",
      { scope: "col", class: classOf(column), "aria-sort": direction, title: column.meaning },
      element("button", { type: "button", onclick: () => goTo({ sort: next, page: null }) }, column.label),
    );
  };

  function open(at) {
    goTo(linkTo(run.trajectories[at]));
    byId("timeline").scrollIntoView({ block: "start" });
  }

  const goToPage = (page) => goTo({ page: page === 1 ? null : page }, { replace: true });
  let page = 1;
  rovingRows(body, {
    open: (chosenRow) => open(Number(chosenRow.dataset.at)),
    turnPage: (by) => {
      goToPage(pageWithin(found.length, PAGE, page + by));
      return true;
    },
  });
  addEventListener("keydown", (event) => {
    if (event.key !== "/" || event.ctrlKey || event.metaKey || /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName))
      return;
    event.preventDefault();
    controls.text.focus();
  });

  function show(state, chosen) {
    const sort = sortOf(state, columns, priced);
    found = ranked(filtered(run, state), columns, sort);
    page = pageWithin(found.length, PAGE, state.page);
    const first = (page - 1) * PAGE;
    controls.show(state);
    replaceContent(
      head,
      ...columns.map((column) => sortable(column, sort)),
      element("th", { scope: "col", class: "text" }, "where the time went"),
    );
    body.replaceChildren(...found.slice(first, first + PAGE).map((one) => row(one, chosen)));
    reachable(body);
    said.textContent =
      found.length === run.trajectories.length
        ? plural(found.length, "trajectory", "trajectories")
        : `${count(found.length)} of ${plural(run.trajectories.length, "trajectory", "trajectories")}`;
    replaceContent(pages, ...pager(found.length, PAGE, page, goToPage));
    return found;
  }
  return { show };
}

/** What the address says to link to this trajectory. */
const linkTo = (one) => ({
  trajectory: one.named ? one.id : null,
  number: one.named ? null : one.at + 1,
  turn: null,
  turns: null,
});

function miniature(one) {
  const whole = presentParts.reduce((sum, part) => sum + one[part.key], 0);
  return element(
    "div",
    { class: "mini", title: presentParts.map((part) => `${part.label} ${duration(one[part.key] / 1e9)}`).join(", ") },
    presentParts.map((part) => bar({ ...part, value: one[part.key] }, whole)),
  );
}

function sortOf(state, columns, priced) {
  const asked = state.sort ?? (priced ? "-usd" : "-gpu_s");
  const key = asked.replace(/^-/, "");
  return columns.some((column) => column.key === key)
    ? { key, down: asked.startsWith("-") }
    : { key: priced ? "usd" : "gpu_s", down: true };
}

/** Unknown values come last whichever way. */
function ranked(some, columns, { key, down }) {
  const { of } = columns.find((column) => column.key === key);
  const sign = down ? -1 : 1;
  return some
    .map((one) => [of(one), one])
    .sort(([a, x], [b, y]) => {
      if (typeof a === "string") return sign * a.localeCompare(b) || x.at - y.at;
      return Number.isNaN(a) - Number.isNaN(b) || sign * (a - b) || x.at - y.at;
    })
    .map(([, one]) => one);
}

function filtered(run, state) {
  const text = (state.filter ?? "").toLowerCase();
  const tool = state.tool === undefined ? null : run.facts.tools.indexOf(state.tool);
  const status = state.status === undefined ? null : run.facts.statuses.indexOf(state.status);
  const { of } = MEASURES[measureOf(run, state.cost)];
  const [least, most] = [state.min, state.max].map((bound) => (bound === undefined ? null : Number(bound)));
  return run.trajectories.filter(
    (one) =>
      (!text || one.id.toLowerCase().includes(text)) &&
      (tool === null || one.tools.has(tool)) &&
      (status === null || one.status === status) &&
      (least === null || of(one) >= least) &&
      (most === null || of(one) <= most),
  );
}

function filterControls(run) {
  const typed = (name) => ({ oninput: (event) => goTo({ [name]: event.target.value, page: null }, { replace: true }) });
  const chosen = (name) => ({ onchange: (event) => goTo({ [name]: event.target.value, page: null }) });
  const text = element("input", { type: "search", id: "filter", placeholder: "part of an id", ...typed("filter") });
  const option = (value, label = value) => element("option", { value }, label);
  const tool = element(
    "select",
    { id: "tool", ...chosen("tool") },
    option("", "any"),
    [...run.facts.tools].sort((a, b) => a.localeCompare(b)).map((name) => option(name)),
  );
  const present = run.facts.statuses.filter((_, at) => run.trajectories.some((one) => one.status === at));
  const status = element(
    "select",
    { id: "status", ...chosen("status") },
    option("", "any"),
    present.map((name) => option(name, STATUS_WORDS[name] ?? name)),
  );
  const cost = element(
    "select",
    { id: "cost", onchange: (event) => goTo({ cost: event.target.value, min: null, max: null, page: null }) },
    Object.entries(MEASURES)
      .filter(([key]) => measureOf(run, key) === key)
      .map(([key, measure]) => option(key, measure.label)),
  );
  const number = (id) => element("input", { type: "number", id, step: "any", min: "0", ...typed(id) });
  const [least, most] = [number("min"), number("max")];
  const clear = element(
    "button",
    {
      type: "button",
      id: "clear",
      onclick: () => goTo({ filter: null, tool: null, status: null, min: null, max: null, page: null }),
    },
    "Clear filters",
  );
  const labelled = (label, control, grow) => element("label", { class: grow ? "grow" : null }, label, control);
  const row = element(
    "form",
    {
      class: "controls",
      role: "search",
      "aria-label": "Filter trajectories",
      onsubmit: (event) => event.preventDefault(),
    },
    labelled("Trajectory", text, true),
    run.facts.tools.length ? labelled("Uses tool", tool) : null,
    present.length > 1 ? labelled("Status", status) : null,
    labelled("Measure", cost),
    labelled("at least", least),
    labelled("at most", most),
    clear,
  );
  const set = (control, value) => {
    if (control !== document.activeElement || control.tagName === "SELECT") control.value = value;
  };
  return {
    row,
    text,
    show(state) {
      set(text, state.filter ?? "");
      set(tool, state.tool ?? "");
      set(status, state.status ?? "");
      set(cost, measureOf(run, state.cost));
      set(least, state.min ?? "");
      set(most, state.max ?? "");
      clear.disabled = !["filter", "tool", "status", "min", "max"].some((name) => name in state);
    },
  };
}
