// What each tool's responses cost: the turns that read them, and the pauses while it ran.

const DEAREST_CALLS = 10;

const TOOL_COSTS = [
  { key: "fresh_ns", label: "fresh prefill", colour: "fresh", meaning: "of its responses" },
  { key: "recompute_ns", label: "recompute", colour: "recompute", meaning: "of what was evicted while it ran" },
  {
    key: "decode_context_ns",
    label: "read while decoding",
    colour: "decode-context",
    meaning: "for its responses' tokens in the context of this and all later turns",
  },
];

function startTools(run, place) {
  const { turns, facts, calls } = run;
  const named = (tool) => facts.tools[tool] ?? "unnamed tool";
  const tools = rowsOf(facts.tool_totals, "tool");
  if (!tools.length) {
    place.append(element("p", { class: "note" }, "The log tells of no tools."));
    return;
  }
  const reading = (one) => TOOL_COSTS.reduce((sum, { key }) => sum + one[key], 0);
  tools.sort((a, b) => reading(b) - reading(a) || b.tool_ns - a.tool_ns);
  const columns = [
    { label: "tool", text: true, wide: true, of: (one) => named(one.tool), show: nameFromLog },
    { label: "calls", meaning: "pauses that it took the longest in", of: (one) => one.calls, show: count },
    {
      label: "tokens",
      heading: "response tokens",
      meaning: "of its responses",
      of: (one) => one.response_tokens,
      show: count,
    },
    nanoseconds("pause", (one) => one.tool_ns, { meaning: "while it ran" }),
    ...TOOL_COSTS.map(({ key, label, meaning }) => nanoseconds(label, (one) => one[key], { meaning })),
    nanoseconds("in all", reading, { meaning: "in the model, because of it" }),
    {
      label: "a call",
      heading: "a call (s)",
      meaning: "of that, on average",
      of: (one) => reading(one) / one.calls,
      show: (value) => duration(value / 1e9),
      exact: (value) => (Number.isFinite(value) ? value / 1e9 : ""),
    },
    {
      label: "KV GiB·h",
      meaning: "held through its pauses",
      of: (one) => one.idle_kv_byte_s / GIB / 3600,
      show: plain,
    },
  ];
  const dearest = tools[0];
  const whole = tools.reduce((sum, one) => sum + reading(one), 0);
  place.append(
    element(
      "p",
      {},
      "Reading responses, and computing again what their pauses lost, took ",
      duration(whole / 1e9),
      ". ",
      nameFromLog(named(dearest.tool)),
      ` is ${percent(reading(dearest) / whole)} of that, in ${plural(dearest.calls, "call")}.`,
    ),
  );
  const figure = element("div", {
    class: "plot fitted",
    id: "tools-plot",
    role: "img",
    "aria-label": "Time in the model because of each tool; the table below has the numbers.",
  });
  place.append(figure);
  const shown = tools.slice(0, 15);
  plot(figure, () => ({
    data: TOOL_COSTS.filter(({ key }) => tools.some((one) => one[key] > 0)).map(({ key, label, colour: shade }) => ({
      type: "bar",
      orientation: "h",
      name: label,
      x: shown.map((one) => one[key] / 1e9),
      y: shown.map((_, at) => at),
      marker: { color: colour(shade) },
      customdata: shown.map((one) => one.tool),
      hovertext: shown.map(
        (one) =>
          `${plotText(named(one.tool))}<br>${label}: ${duration(one[key] / 1e9)}<br>${plural(one.calls, "call")}`,
      ),
      hovertemplate: "%{hovertext}<extra></extra>",
    })),
    layout: {
      barmode: "stack",
      bargap: 0.3,
      hovermode: "closest",
      height: 110 + 26 * shown.length,
      xaxis: { title: { text: "time in the model, s" }, rangemode: "tozero" },
      yaxis: {
        autorange: "reversed",
        tickvals: shown.map((_, at) => at),
        ticktext: shown.map((one) => plotText(shorten(named(one.tool), 30))),
        fixedrange: true,
        showgrid: false,
      },
    },
    onClick: ({ customdata }) => customdata >= 0 && goTo({ tool: facts.tools[customdata], page: null }),
  }));

  const open = ({ tool }) => {
    if (tool < 0) return;
    goTo({ tool: facts.tools[tool], page: null });
    byId("trajectories").scrollIntoView({ block: "start" });
  };
  place.append(
    tableHead("Enter shows the trajectories that use a tool.", columns, () => tools),
    element(
      "div",
      { class: "scroll turns" },
      openingTable(columns, tools, { caption: "Tools", id: "tools-table", open }),
    ),
  );
  place.append(...dearestCalls(run));

  function dearestCalls() {
    const cost = (call) => TOOL_COSTS.reduce((sum, { key }) => sum + calls[key][call], 0);
    const owner = (call) => run.trajectories[ownerOf(run, calls.row[call])];
    const turn = (call) => calls.row[call] - owner(call).first;
    const rows = Array.from(calls.row.keys())
      .sort((a, b) => cost(b) - cost(a))
      .slice(0, DEAREST_CALLS);
    const callColumns = [
      { label: "tool", text: true, wide: true, of: (call) => named(turns.tool[calls.row[call]]), show: nameFromLog },
      { label: "trajectory", text: true, wide: true, of: (call) => owner(call).id, show: nameFromLog },
      { label: "turn", meaning: "that read the response", of: turn },
      { label: "tokens", heading: "response tokens", of: (call) => calls.response_tokens[call], show: count },
      nanoseconds("pause", (call) => turns.tool_ns[calls.row[call]]),
      ...TOOL_COSTS.map(({ key, label, meaning }) => nanoseconds(label, (call) => calls[key][call], { meaning })),
      nanoseconds("in all", cost),
    ];
    const open = (call) => {
      goTo({ ...linkTo(owner(call)), turn: turn(call) });
      byId("timeline").scrollIntoView({ block: "start" });
    };
    return [
      element("h3", {}, "The dearest single calls"),
      tableHead("Enter opens the turn.", callColumns, () => rows),
      element(
        "div",
        { class: "scroll" },
        openingTable(callColumns, rows, { caption: "Tool calls", id: "calls-table", open }),
      ),
    ];
  }
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
