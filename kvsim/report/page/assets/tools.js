// What each tool's responses cost: the turns that read them, and the pauses while it ran.

const DEAREST_CALLS = 10;

const TOOL_COSTS = [
  { key: "fresh_ns", label: "fresh prefill", colour: "fresh", meaning: "reading its responses, and what else was new in those prompts" },
  { key: "recompute_ns", label: "recompute", colour: "recompute", meaning: "of what was evicted while it ran" },
];

function startTools(run, place) {
  const { turns, facts } = run;
  const tools = toolTotals(run);
  if (!tools.length) {
    place.append(element("p", { class: "note" }, "The log names no tools."));
    return;
  }
  const reading = (one) => TOOL_COSTS.reduce((sum, { key }) => sum + one[key], 0);
  tools.sort((a, b) => reading(b) - reading(a) || b.tool_ns - a.tool_ns);
  const columns = [
    { label: "tool", text: true, wide: true, of: (one) => facts.tools[one.tool], show: nameFromLog },
    { label: "calls", meaning: "turns that it ran before", of: (one) => one.calls, show: count },
    { label: "tokens read", meaning: "of the prompts after it, those that were not in the KV cache before", of: (one) => one.new_tokens, show: count },
    nanoseconds("pause", (one) => one.tool_ns, { meaning: "while it ran" }),
    ...TOOL_COSTS.map(({ key, label, meaning }) => nanoseconds(label, (one) => one[key], { meaning })),
    nanoseconds("in all", reading, { meaning: "in the model, because of it" }),
    { label: "a call", heading: "a call (s)", meaning: "of that, on average", of: (one) => reading(one) / one.calls, show: (value) => duration(value / 1e9), exact: (value) => value / 1e9 },
    { label: "KV GiB·h", meaning: "held through its pauses", of: (one) => one.idle_kv_byte_s / GIB / 3600, show: plain },
  ];
  const dearest = tools[0];
  const whole = tools.reduce((sum, one) => sum + reading(one), 0);
  place.append(element("p", {}, "Reading responses and computing again what their pauses lost took ", duration(whole / 1e9), ". ",
    nameFromLog(facts.tools[dearest.tool]), ` is ${percent(reading(dearest) / whole)} of that, in ${plural(dearest.calls, "call")}.`));
  const figure = element("div", { class: "plot fitted", id: "tools-plot", role: "img", "aria-label": "Time in the model because of each tool; the table below has the numbers." });
  place.append(figure);
  const shown = tools.slice(0, 15);
  plot(figure, () => ({
    data: TOOL_COSTS.filter(({ key }) => tools.some((one) => one[key] > 0)).map(({ key, label, colour: shade }) => ({
      type: "bar", orientation: "h", name: label, x: shown.map((one) => one[key] / 1e9), y: shown.map((_, at) => at), marker: { color: colour(shade) },
      customdata: shown.map((one) => one.tool),
      hovertext: shown.map((one) => `${plotText(facts.tools[one.tool])}<br>${label}: ${duration(one[key] / 1e9)}<br>${plural(one.calls, "call")}`), hovertemplate: "%{hovertext}<extra></extra>",
    })),
    layout: {
      barmode: "stack", bargap: 0.3, hovermode: "closest", height: 110 + 26 * shown.length,
      xaxis: { title: { text: "time in the model, s" }, rangemode: "tozero" },
      yaxis: { autorange: "reversed", tickvals: shown.map((_, at) => at), ticktext: shown.map((one) => plotText(shorten(facts.tools[one.tool], 30))), fixedrange: true, showgrid: false },
    },
    onClick: ({ customdata }) => goTo({ tool: facts.tools[customdata], page: null }),
  }));

  const body = element("tbody", {}, tools.map((one) => element("tr", { class: "row", tabindex: "-1", "data-tool": one.tool }, cells(columns, one))));
  rovingRows(body, {
    open: (row) => {
      goTo({ tool: facts.tools[Number(row.dataset.tool)], page: null });
      byId("trajectories").scrollIntoView({ block: "start" });
    },
  });
  reachable(body);
  place.append(tableHead("Enter shows the trajectories that use a tool.", columns, () => tools),
    element("div", { class: "scroll turns" }, element("table", { id: "tools-table" }, element("caption", { class: "offscreen" }, "Tools"),
      element("thead", {}, element("tr", {}, columns.map(heading))), body)));
  place.append(...dearestCalls(run));

  function dearestCalls() {
    const cost = (row) => TOOL_COSTS.reduce((sum, { key }) => sum + turns[key][row], 0);
    const owner = (row) => run.trajectories[ownerOf(run, row)];
    const rows = callsOf(run).sort((a, b) => cost(b) - cost(a)).slice(0, DEAREST_CALLS);
    const callColumns = [
      { label: "after tool", text: true, wide: true, of: (row) => facts.tools[turns.tool[row]], show: nameFromLog },
      { label: "trajectory", text: true, wide: true, of: (row) => owner(row).id, show: nameFromLog },
      { label: "turn", of: (row) => row - owner(row).first },
      { label: "tokens read", of: (row) => newTokens(turns, row), show: count },
      nanoseconds("pause", (row) => turns.tool_ns[row]),
      ...TOOL_COSTS.map(({ key, label }) => nanoseconds(label, (row) => turns[key][row])),
      nanoseconds("in all", cost),
    ];
    const callBody = element("tbody", {}, rows.map((row) => element("tr", { class: "row", tabindex: "-1", "data-row": row }, cells(callColumns, row))));
    rovingRows(callBody, {
      open: (chosen) => {
        const row = Number(chosen.dataset.row);
        goTo({ ...linkTo(owner(row)), turn: row - owner(row).first });
        byId("timeline").scrollIntoView({ block: "start" });
      },
    });
    reachable(callBody);
    return [element("h3", {}, "The dearest single calls"), tableHead("Enter opens the turn.", callColumns, () => rows),
      element("div", { class: "scroll" }, element("table", { id: "calls-table" }, element("caption", { class: "offscreen" }, "Tool calls"),
        element("thead", {}, element("tr", {}, callColumns.map(heading))), callBody))];
  }
}

/** Tokens of a turn's prompt that were never in the cache. */
const newTokens = (turns, row) => turns.prompt_tokens[row] - turns.cached_tokens[row] - turns.recomputed_tokens[row];

/** The rows of turns that a tool ran before, of trajectories that are priced. */
function callsOf({ trajectories, turns }) {
  const rows = [];
  for (const one of trajectories)
    if (!one.status) for (let row = one.first; row < one.end; row++) if (turns.tool[row] >= 0) rows.push(row);
  return rows;
}

/** The number of the trajectory that a row belongs to. */
function ownerOf({ trajectories }, row) {
  let [low, high] = [0, trajectories.length - 1];
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (trajectories[middle].first <= row) low = middle;
    else high = middle - 1;
  }
  return low;
}

/** Sums over the turns after each tool. */
function toolTotals(run) {
  const { turns } = run;
  const found = new Map();
  for (const row of callsOf(run)) {
    const tool = turns.tool[row];
    if (!found.has(tool)) found.set(tool, { tool, calls: 0, new_tokens: 0, tool_ns: 0, idle_kv_byte_s: 0, ...Object.fromEntries(TOOL_COSTS.map(({ key }) => [key, 0])) });
    const sums = found.get(tool);
    sums.calls++;
    sums.new_tokens += newTokens(turns, row);
    for (const key of ["tool_ns", "idle_kv_byte_s", ...TOOL_COSTS.map((cost) => cost.key)]) sums[key] += turns[key][row];
  }
  return [...found.values()];
}
