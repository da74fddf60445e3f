// One trajectory: its turns over time or side by side, its KV under them, and every number in a table.

const TURNS_A_PAGE = 200;

function startTimeline(run, place, changesOf) {
  const { turns, facts } = run;
  let one;
  let state = {};
  const head = element("div", { class: "spread" });
  const totals = element("div", {});
  const figure = element("div", { class: facts.engine ? "plot taller" : "plot tall", id: "timeline-plot" });
  const note = element("p", { class: "note" });
  const body = element("tbody", {});
  const tableTitle = element("div", {});
  const pages = element("div", { class: "pager" });
  const columns = turnColumns(run);
  const rowsOf = (trajectory) => Array.from({ length: trajectory.turns }, (_, at) => trajectory.first + at);
  const views = [["clock", "Over time"], ["turns", "Turn by turn"]].map(([view, label]) =>
    element("button", { type: "button", "data-view": view, onclick: () => goTo({ view: view === "clock" ? null : view }) }, label));
  place.append(head, totals,
    element("div", { class: "spread" }, element("div", { class: "controls" }, element("fieldset", { "aria-label": "How to draw it" }, views)), note),
    figure, tableTitle,
    element("div", { class: "scroll turns", tabindex: "-1" }, element("table", {},
      element("caption", { class: "offscreen" }, "Turns of the trajectory"),
      element("thead", {}, element("tr", {}, columns.map(heading))), body)), pages);

  const drawing = plot(figure, () => (!one ? { data: [], layout: {} } : {
    ...(state.view === "turns" ? turnByTurn(run, one) : overTime(run, one, state.turn === undefined ? -1 : Number(state.turn))),
    onClick: ({ customdata }) => customdata !== undefined && goTo({ turn: customdata }, { replace: true }),
  }));

  const goToPage = (page) => goTo({ turns: page === 1 ? null : page }, { replace: true });
  let page = 1;
  rovingRows(body, {
    open: (row) => goTo({ turn: row.dataset.turn }, { replace: true }),
    turnPage: (by) => {
      goToPage(pageWithin(one.turns, TURNS_A_PAGE, page + by));
      return true;
    },
  });

  /** Shows a trajectory; among is the ranked list that its neighbours are in. */
  function show(trajectory, asked, among) {
    if (!trajectory) {
      head.replaceChildren(element("p", {}, run.trajectories.length ? "No trajectory of this name is here." : "There are no trajectories."));
      figure.hidden = true;
      return;
    }
    figure.hidden = false;
    [one, state] = [trajectory, asked];
    const at = among.indexOf(one);
    const step = (label, words, to) => element("button", { type: "button", "aria-label": words, disabled: !among[to], onclick: () => goTo(linkTo(among[to])) }, label);
    replaceContent(head,
      element("h3", { id: "shown-trajectory" }, nameFromLog(one.id), one.named ? null : ` (number ${count(one.at + 1)})`),
      element("div", { class: "pager" }, step("⟨", "Previous trajectory", at - 1),
        element("span", {}, at < 0 ? "not among the filtered" : `${count(at + 1)} of ${count(among.length)}`), step("⟩", "Next trajectory", at + 1)));
    totals.replaceChildren(...trajectoryTotals(run, one), ...savingsOf(changesOf(one)));
    for (const view of views) view.setAttribute("aria-pressed", String(view.dataset.view === (state.view ?? "clock")));
    note.textContent = state.view === "turns" ? "Tool pauses are left out. Below: what each turn's context is made of."
      : "Drag to zoom, double-click to see all; a click on a bar chooses its turn. Below: the KV it holds.";
    page = pageWithin(one.turns, TURNS_A_PAGE, state.turns ?? Math.floor((Number(state.turn) || 0) / TURNS_A_PAGE) + 1);
    const first = (page - 1) * TURNS_A_PAGE;
    const rows = rowsOf(one);
    tableTitle.replaceChildren(tableHead(`${plural(one.turns, "turn")}: ↑ ↓ move, Enter zooms to a turn.`, columns, () => rows));
    body.replaceChildren(...rows.slice(first, first + TURNS_A_PAGE).map((row) => {
      const turn = row - one.first;
      return element("tr", { class: "row", tabindex: "-1", "data-turn": turn, "aria-selected": String(String(turn) === state.turn) }, cells(columns, row));
    }));
    reachable(body);
    body.querySelector("[aria-selected=true]")?.scrollIntoView({ block: "nearest" });
    replaceContent(pages, ...pager(one.turns, TURNS_A_PAGE, page, goToPage));
    figure.setAttribute("role", "img");
    figure.setAttribute("aria-label", `Timeline of trajectory ${one.id}; the table below has its numbers.`);
    drawing.update();
  }

  function turnColumns({ facts: { tools, statuses, usd_per_hour } }) {
    const column = (name) => (row) => turns[name][row];
    const tokens = (label, name, meaning) => ({ label, heading: `${label} tokens`, of: column(name), show: count, meaning });
    return [
      { label: "turn", of: (row) => row - one.first },
      ...(tools.length ? [{ label: "after tool", text: true, wide: true, of: (row) => tools[turns.tool[row]] ?? "", show: (name) => (name ? nameFromLog(name) : "") }] : []),
      nanoseconds("starts at", column("release_ns"), { meaning: "since the trajectory's first turn" }),
      ...presentParts.map((part) => nanoseconds(part.label, column(part.key))),
      nanoseconds("in all", (row) => turnTime(turns, row), { meaning: "from release to the last token" }),
      tokens("prompt", "prompt_tokens"), tokens("cached", "cached_tokens", "prompt tokens found in the KV cache"),
      tokens("recomputed", "recomputed_tokens", "had been in the cache, evicted"), tokens("output", "output_tokens"),
      ...(facts.kind === "simulation" ? [{ label: "preempted", of: column("preemptions"), show: count }] : []),
      { label: "KV GiB·s", of: (row) => turns.kv_byte_s[row] / GIB, show: plain },
      usd_per_hour === null ? { label: "GPU-s", of: (row) => turns.gpu_ns[row] / 1e9, show: plain }
        : { label: "USD", of: (row) => (turns.gpu_ns[row] / 1e9) * (usd_per_hour / 3600), show: money },
      { label: "status", text: true, of: (row) => statuses[turns.status[row]], show: (status) => (status === "ok" ? "" : STATUS_WORDS[status]) },
    ];
  }

  return { show };
}

const turnTime = (turns, row) => MODEL_PARTS.reduce((sum, part) => sum + turns[part.key][row], 0);

function trajectoryTotals({ facts }, one) {
  const ends = (low, high) => (one.status ? "" : ` (90 %: ${duration(low / 1e9)} – ${duration(high / 1e9)})`);
  const said = [
    `${duration(one.latency_ns / 1e9)} end to end${ends(one.latency_low_ns, one.latency_high_ns)}`,
    `${duration(one.model_ns / 1e9)} in the model${ends(one.model_low_ns, one.model_high_ns)}`,
    facts.usd_per_hour === null ? `${plain(one.gpu_s)} GPU-seconds` : money(one.usd),
    `${kvHeld(one.kv_byte_s)} of KV`,
    `${percent(one.cached_share)} of ${count(one.prompt_tokens)} prompt tokens cached`,
  ];
  const whole = one.status
    ? element("p", {}, `Not priced as a whole: a turn is ${STATUS_WORDS[facts.statuses[one.status]]}.`)
    : element("p", {}, said.join(" · "));
  return [whole, stack("Where its time went", presentParts.map((part) => ({ ...part, value: one[part.key] / 1e9 })), duration)].filter(Boolean);
}

/** The changes that would save most of a trajectory's time, in a line each. */
function savingsOf(changes) {
  if (!changes.length) return [];
  return [element("details", { class: "savings" }, element("summary", {}, `What would save most here: ${changes[0].name}, ${duration(changes[0].model_s)}`),
    element("ol", {}, changes.slice(0, 5).map((saving) => element("li", {},
      element("bdi", {}, saving.name), saving.turn === null ? "" : [" at ", element("a", { href: "#", onclick: (event) => {
        event.preventDefault();
        goTo({ turn: saving.turn });
      } }, `turn ${saving.turn}`)], `: ${duration(saving.model_s)} (90 %: ${between(saving)})`))))];
}

/** What hovering over a part of a turn says. */
function hoverText(run, one, row, part) {
  const { turns, facts } = run;
  const tool = facts.tools[turns.tool[row]];
  const lines = [
    `<b>turn ${row - one.first}</b>${tool === undefined ? "" : ` after ${plotText(tool)}`}`,
    `${part.label}: ${exactSeconds(turns[part.key][row])} s`,
    `prompt ${count(turns.prompt_tokens[row])} tokens, ${count(turns.cached_tokens[row])} of them cached`,
  ];
  if (turns.recomputed_tokens[row] > 0) lines.push(`${count(turns.recomputed_tokens[row])} recomputed after eviction`);
  lines.push(`output ${count(turns.output_tokens[row])} tokens`);
  return lines.join("<br>");
}

function barsOf(run, one, parts, more) {
  const { turns } = run;
  return parts.map((part) => {
    const rows = [];
    for (let row = one.first; row < one.end; row++) if (turns[part.key][row] > 0) rows.push(row);
    return {
      type: "bar", name: part.label, showlegend: false, marker: { color: colour(part.colour), line: { width: 0 } },
      hovertext: rows.map((row) => hoverText(run, one, row, part)), hovertemplate: "%{hovertext}<extra></extra>",
      customdata: rows.map((row) => row - one.first), ...more(part, rows),
    };
  });
}

/** A unit of time in which so many seconds are short to write. */
const timeUnit = (seconds) => (seconds < 1 ? ["ms", 1e6] : seconds < 600 ? ["s", 1e9] : seconds < 36000 ? ["min", 6e10] : ["h", 3.6e12]);

function overTime(run, one, chosen) {
  const { turns, facts } = run;
  const lanes = lanesOf(run, one);
  const lane = (row) => lanes.of[row - one.first];
  const [unit, unitNs] = timeUnit(lanes.end_ns / 1e9);
  const begin = (row, key) => {
    if (key === "tool_ns") return turns.release_ns[row] - turns.tool_ns[row];
    let at = turns.release_ns[row];
    for (const part of MODEL_PARTS) {
      if (part.key === key) return at;
      at += turns[part.key][row];
    }
  };
  const bars = barsOf(run, one, presentParts, (part, rows) => ({
    orientation: "h", y: rows.map(lane), base: rows.map((row) => begin(row, part.key) / unitNs),
    x: rows.map((row) => turns[part.key][row] / unitNs), width: 0.8,
  }));
  const held = heldCurve(run, one);
  const panels = engineCurves(run, one, unitNs, lanes.end_ns);
  const domains = panels.length ? [[0.68, 1], [0.33, 0.62], [0, 0.25]] : [[0.5, 1], [0, 0.44]];
  const layout = {
    barmode: "overlay", bargap: 0.1, hovermode: "closest",
    xaxis: { title: { text: `time since its first turn, ${unit}` }, anchor: panels.length ? "y3" : "y2", range: rangeOf(run, one, chosen, lanes.end_ns, unitNs) },
    yaxis: { domain: domains[0], range: [lanes.count - 0.5, -0.5], visible: lanes.count > 1, title: { text: "at once" }, dtick: 1, fixedrange: true, zeroline: false },
    yaxis2: { domain: domains[1], title: { text: "KV held, GiB" }, rangemode: "tozero", fixedrange: true },
    yaxis3: panels.length ? { domain: domains[2], title: { text: "engine's KV" }, tickformat: ".0%", range: [0, 1.02], fixedrange: true } : undefined,
  };
  if (!panels.length) delete layout.yaxis3;
  return {
    data: [...bars, {
      type: "scatter", mode: "lines", name: "KV held by it", x: held.map(([at]) => at / unitNs), y: held.map(([, bytes]) => bytes / GIB),
      yaxis: "y2", fill: "tozeroy", showlegend: false, line: { color: colour("accent"), width: 1.5 }, hovertemplate: `%{y:.3f} GiB at %{x:.3f} ${unit}<extra></extra>`,
    }, ...panels],
    layout,
  };
}

function rangeOf(run, one, chosen, end_ns, unitNs) {
  if (!(chosen >= 0 && chosen < one.turns)) return [0, (end_ns / unitNs) * 1.005];
  const row = one.first + chosen;
  const start = run.turns.release_ns[row];
  const time = turnTime(run.turns, row) || end_ns * 0.01;
  return [(start - 0.15 * time) / unitNs, (start + 1.15 * time) / unitNs];
}

/** A lane for each turn and its pause, so that what overlaps (sub-agents, forks) lies in lanes of its own. */
function lanesOf({ turns }, one) {
  const rows = Array.from({ length: one.turns }, (_, at) => one.first + at);
  const begins = (row) => turns.release_ns[row] - turns.tool_ns[row];
  rows.sort((a, b) => begins(a) - begins(b) || a - b);
  const free = [];
  const of = new Int32Array(one.turns);
  let end_ns = 0;
  for (const row of rows) {
    const end = turns.release_ns[row] + turnTime(turns, row);
    let lane = free.findIndex((at) => at <= begins(row));
    if (lane < 0) lane = free.length;
    free[lane] = end;
    of[row - one.first] = lane;
    end_ns = Math.max(end_ns, end);
  }
  return { of, count: Math.max(free.length, 1), end_ns };
}

/**
 * Bytes of KV that the trajectory holds over time, as points of a line: a turn's prompt from its first step, its output
 * as it comes, and through a pause what stayed of the context before (so that its area is the turn's idle byte-seconds).
 */
function heldCurve({ turns, facts }, one) {
  const { block_size, kv_bytes_per_block } = facts;
  const changes = []; // [time, jump, change of slope]
  const piece = (from, to, low, high) => {
    if (!(to > from)) return;
    const slope = (high - low) / (to - from);
    changes.push([from, low, slope], [to, -high, -slope]);
  };
  const bytes = (tokens) => Math.ceil(tokens / block_size) * kv_bytes_per_block;
  for (let row = one.first; row < one.end; row++) {
    if (turns.status[row] > 0) continue;
    const start = turns.release_ns[row] + turns.queue_ns[row];
    const end = turns.release_ns[row] + turnTime(turns, row);
    const decoding = start + turns.fresh_ns[row] + turns.recompute_ns[row];
    const prompt = bytes(turns.prompt_tokens[row]);
    piece(start, decoding, prompt, prompt);
    piece(decoding, end, prompt, bytes(turns.prompt_tokens[row] + Math.max(turns.output_tokens[row], 1) - 1));
    const parent = row - turns.parent[row];
    const idle = turns.idle_kv_byte_s[row] * 1e9;
    if (!idle || parent === row || parent < one.first || parent >= one.end) continue;
    const from = turns.release_ns[parent] + turnTime(turns, parent);
    const whole = Math.floor((turns.prompt_tokens[parent] + Math.max(turns.output_tokens[parent], 1) - 1) / block_size) * kv_bytes_per_block;
    // What was gone when it was needed had lasted for a while; what was there lasted to the end.
    const until = turns.cached_tokens[row] > 0 ? start : Math.min(start, from + idle / whole);
    piece(from, until, idle / (until - from), idle / (until - from));
  }
  changes.sort((a, b) => a[0] - b[0]);
  const points = [];
  let [at, value, slope] = [0, 0, 0];
  for (let next = 0; next < changes.length; ) {
    const time = changes[next][0];
    value += slope * (time - at);
    points.push([time, Math.max(value, 0)]);
    for (; next < changes.length && changes[next][0] === time; next++) {
      value += changes[next][1];
      slope += changes[next][2];
    }
    at = time;
    points.push([time, Math.max(value, 0)]);
  }
  return points;
}

/** The engine's KV use and hit rate while the trajectory was there; nothing for an estimate. */
function engineCurves({ turns, facts, engine }, one, unitNs, end_ns) {
  if (!engine) return [];
  const { bin_ns, bins, replicas } = facts.engine;
  const its = replicas === 1 ? [0] : [...new Set(turns.replica.slice(one.first, one.end))].filter((replica) => replica >= 0).slice(0, 4);
  const firstBin = Math.max(0, Math.floor(one.start_ns / bin_ns) - 1);
  const lastBin = Math.min(bins, Math.ceil((one.start_ns + end_ns) / bin_ns) + 1);
  const times = Array.from({ length: lastBin - firstBin }, (_, at) => ((firstBin + at) * bin_ns - one.start_ns) / unitNs);
  return its.map((replica) => ({
    type: "scatter", mode: "lines", yaxis: "y3", x: times, line: { shape: "hv", width: 1.5, color: colour("queue"), dash: ["solid", "dash", "dot", "dashdot"][its.indexOf(replica)] },
    showlegend: its.length > 1, name: `replica ${replica}`,
    y: times.map((_, at) => engine.kv_use[replica * bins + firstBin + at] / facts.engine.scale), hovertemplate: "%{y:.1%} of the engine's KV<extra></extra>",
  }));
}

function turnByTurn(run, one) {
  const { turns } = run;
  const longest = Math.max(...Array.from({ length: one.turns }, (_, at) => turnTime(turns, one.first + at)));
  const [unit, unitNs] = timeUnit(longest / 1e9);
  const turn = (row) => row - one.first;
  const bars = barsOf(run, one, presentParts.filter((part) => part !== TOOL_PART), (part, rows) => ({
    x: rows.map(turn), y: rows.map((row) => turns[part.key][row] / unitNs),
  }));
  const stacked = [
    ["cached", "cached", (row) => turns.cached_tokens[row]],
    ["recomputed", "recompute", (row) => turns.recomputed_tokens[row]],
    ["new", "fresh", (row) => turns.prompt_tokens[row] - turns.cached_tokens[row] - turns.recomputed_tokens[row]],
    ["output", "decode-base", (row) => turns.output_tokens[row]],
  ];
  const rows = Array.from({ length: one.turns }, (_, at) => one.first + at).filter((row) => turns.status[row] === 0);
  const tokens = stacked.map(([name, shade, of]) => ({
    type: "bar", name: `${name} tokens`, yaxis: "y2", x: rows.map(turn), y: rows.map(of), customdata: rows.map((row) => row - one.first),
    marker: { color: colour(shade), line: { width: 0 } }, hovertemplate: `turn %{x}: %{y:,} ${name} tokens<extra></extra>`,
  }));
  return {
    data: [...bars, ...tokens],
    layout: {
      barmode: "stack", bargap: 0.15, hovermode: "closest",
      xaxis: { title: { text: "turn" }, anchor: "y2", range: [-0.7, one.turns - 0.3] },
      yaxis: { domain: [0.48, 1], title: { text: `time in the model, ${unit}` }, fixedrange: true },
      yaxis2: { domain: [0, 0.4], title: { text: "context, tokens" }, fixedrange: true },
    },
  };
}
