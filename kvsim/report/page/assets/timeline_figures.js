// A trajectory's turns as figures: over time with the KV under them, or turn by turn.

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
      type: "bar",
      name: part.label,
      showlegend: false,
      marker: { color: colour(part.colour), line: { width: 0 } },
      hovertext: rows.map((row) => hoverText(run, one, row, part)),
      hovertemplate: "%{hovertext}<extra></extra>",
      customdata: rows.map((row) => row - one.first),
      ...more(part, rows),
    };
  });
}

/** A unit of time in which so many seconds are short to write. */
const timeUnit = (seconds) =>
  seconds < 1 ? ["ms", 1e6] : seconds < 600 ? ["s", 1e9] : seconds < 36000 ? ["min", 6e10] : ["h", 3.6e12];

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
    orientation: "h",
    y: rows.map(lane),
    base: rows.map((row) => begin(row, part.key) / unitNs),
    x: rows.map((row) => turns[part.key][row] / unitNs),
    width: 0.8,
  }));
  const held = heldCurve(run, one);
  const panels = engineCurves(run, one, unitNs, lanes.end_ns);
  const domains = panels.length
    ? [
        [0.68, 1],
        [0.33, 0.62],
        [0, 0.25],
      ]
    : [
        [0.5, 1],
        [0, 0.44],
      ];
  const layout = {
    barmode: "overlay",
    bargap: 0.1,
    hovermode: "closest",
    xaxis: {
      title: { text: `time since its first turn, ${unit}` },
      anchor: panels.length ? "y3" : "y2",
      range: rangeOf(run, one, chosen, lanes.end_ns, unitNs),
    },
    yaxis: {
      domain: domains[0],
      range: [lanes.count - 0.5, -0.5],
      visible: lanes.count > 1,
      title: { text: "at once" },
      dtick: 1,
      fixedrange: true,
      zeroline: false,
    },
    yaxis2: { domain: domains[1], title: { text: "KV held, GiB" }, rangemode: "tozero", fixedrange: true },
    yaxis3: panels.length
      ? { domain: domains[2], title: { text: "engine's KV" }, tickformat: ".0%", range: [0, 1.02], fixedrange: true }
      : undefined,
  };
  if (!panels.length) delete layout.yaxis3;
  return {
    data: [
      ...bars,
      {
        type: "scatter",
        mode: "lines",
        name: "KV held by it",
        x: held.map(([at]) => at / unitNs),
        y: held.map(([, bytes]) => bytes / GIB),
        yaxis: "y2",
        fill: "tozeroy",
        showlegend: false,
        line: { color: colour("accent"), width: 1.5 },
        hovertemplate: `%{y:.3f} GiB at %{x:.3f} ${unit}<extra></extra>`,
      },
      ...panels,
    ],
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
    const whole =
      Math.floor((turns.prompt_tokens[parent] + Math.max(turns.output_tokens[parent], 1) - 1) / block_size) *
      kv_bytes_per_block;
    // What was gone when it was needed had lasted for a while; what was there lasted to the end.
    const until = turns.cached_tokens[row] > 0 ? start : Math.min(start, from + idle / whole);
    piece(from, until, idle / (until - from), idle / (until - from));
  }
  changes.sort((a, b) => a[0] - b[0]);
  const points = [];
  let [at, value, slope] = [0, 0, 0];
  for (let next = 0; next < changes.length;) {
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
  const its =
    replicas === 1
      ? [0]
      : [...new Set(turns.replica.slice(one.first, one.end))].filter((replica) => replica >= 0).slice(0, 4);
  const firstBin = Math.max(0, Math.floor(one.start_ns / bin_ns) - 1);
  const lastBin = Math.min(bins, Math.ceil((one.start_ns + end_ns) / bin_ns) + 1);
  const times = Array.from(
    { length: lastBin - firstBin },
    (_, at) => ((firstBin + at) * bin_ns - one.start_ns) / unitNs,
  );
  return its.map((replica) => ({
    type: "scatter",
    mode: "lines",
    yaxis: "y3",
    x: times,
    line: {
      shape: "hv",
      width: 1.5,
      color: colour("queue"),
      dash: ["solid", "dash", "dot", "dashdot"][its.indexOf(replica)],
    },
    showlegend: its.length > 1,
    name: `replica ${replica}`,
    y: times.map((_, at) => engine.kv_use[replica * bins + firstBin + at] / facts.engine.scale),
    hovertemplate: "%{y:.1%} of the engine's KV<extra></extra>",
  }));
}

function turnByTurn(run, one) {
  const { turns } = run;
  const longest = Math.max(...Array.from({ length: one.turns }, (_, at) => turnTime(turns, one.first + at)));
  const [unit, unitNs] = timeUnit(longest / 1e9);
  const turn = (row) => row - one.first;
  const bars = barsOf(
    run,
    one,
    presentParts.filter((part) => part !== TOOL_PART),
    (part, rows) => ({
      x: rows.map(turn),
      y: rows.map((row) => turns[part.key][row] / unitNs),
    }),
  );
  const stacked = [
    ["cached", "cached", (row) => turns.cached_tokens[row]],
    ["recomputed", "recompute", (row) => turns.recomputed_tokens[row]],
    ["new", "fresh", (row) => turns.prompt_tokens[row] - turns.cached_tokens[row] - turns.recomputed_tokens[row]],
    ["output", "decode-base", (row) => turns.output_tokens[row]],
  ];
  const rows = Array.from({ length: one.turns }, (_, at) => one.first + at).filter((row) => turns.status[row] === 0);
  const tokens = stacked.map(([name, shade, of]) => ({
    type: "bar",
    name: `${name} tokens`,
    yaxis: "y2",
    x: rows.map(turn),
    y: rows.map(of),
    customdata: rows.map((row) => row - one.first),
    marker: { color: colour(shade), line: { width: 0 } },
    hovertemplate: `turn %{x}: %{y:,} ${name} tokens<extra></extra>`,
  }));
  return {
    data: [...bars, ...tokens],
    layout: {
      barmode: "stack",
      bargap: 0.15,
      hovermode: "closest",
      xaxis: { title: { text: "turn" }, anchor: "y2", range: [-0.7, one.turns - 0.3] },
      yaxis: { domain: [0.48, 1], title: { text: `time in the model, ${unit}` }, fixedrange: true },
      yaxis2: { domain: [0, 0.4], title: { text: "context, tokens" }, fixedrange: true },
    },
  };
}
