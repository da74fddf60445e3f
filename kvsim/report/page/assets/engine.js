// The engine over time: how full its KV cache is, how many run, how many wait.

function startEngine(run, place) {
  const { bin_ns, bins, replicas, scale, mean_of } = run.facts.engine;
  const [unit, unitNs] = timeUnit((bins * bin_ns) / 1e9);
  const times = Array.from({ length: bins }, (_, at) => (at * bin_ns) / unitNs);
  const mean = (column, divisor) =>
    times.map((_, at) => {
      let sum = 0;
      for (let replica = 0; replica < replicas; replica++) sum += column[replica * bins + at];
      return sum / replicas / divisor;
    });
  const curves = [
    ["KV cache in use", "recompute", mean(run.engine.kv_use, scale), "y", "%{y:.1%} of the KV cache"],
    ["running", "decode-base", mean(run.engine.running, 100), "y2", "%{y:.1f} running"],
    ["waiting", "queue", mean(run.engine.waiting, 100), "y2", "%{y:.1f} waiting"],
  ];
  const figure = element("div", {
    class: "plot tall",
    id: "engine-plot",
    role: "img",
    "aria-label": "KV use, running and waiting turns over time",
  });
  place.append(figure);
  if (mean_of > 1) place.append(element("p", { class: "note" }, `Mean of ${count(mean_of)} replicas.`));
  place.append(...evictions(run));
  plot(figure, () => ({
    data: curves.map(([name, shade, y, yaxis, words]) => ({
      type: "scatter",
      mode: "lines",
      name,
      x: times,
      y,
      yaxis,
      line: { color: colour(shade), width: 1.5, shape: "hv" },
      hovertemplate: `${words}<extra></extra>`,
    })),
    layout: {
      hovermode: "x unified",
      xaxis: { title: { text: `time, ${unit}` }, anchor: "y2", range: [0, (bins * bin_ns) / unitNs] },
      yaxis: { domain: [0.58, 1], tickformat: ".0%", range: [0, 1.02], title: { text: "KV cache" }, fixedrange: true },
      yaxis2: { domain: [0, 0.5], rangemode: "tozero", title: { text: "turns" }, fixedrange: true },
    },
  }));
}

/** When blocks that had to be computed again were lost, and to whose turns. */
function evictions({ facts, trajectories }) {
  if (!facts.evictions)
    return [element("p", { class: "note" }, "Who evicted what was not written down: there are too many turns.")];
  const { by_time, evictors } = facts.evictions;
  const rows = rowsOf(evictors, "trajectory");
  const columns = [
    { label: "trajectory", text: true, wide: true, of: (one) => trajectories[one.trajectory].id, show: nameFromLog },
    nanoseconds("recompute caused", (one) => one.recompute_ns),
    nanoseconds("of it its own", (one) => one.own_ns),
    { label: "blocks", of: (one) => one.blocks, show: count },
  ];
  const shown = stack("Recompute, by when the blocks were lost", by_time, duration);
  if (!shown) return [element("p", { class: "note" }, "Nothing that was needed again was evicted.")];
  if (!rows.length) return [shown];
  return [
    shown,
    element("h3", {}, "Whose turns took the blocks of others"),
    tableHead("", columns, () => rows),
    element(
      "div",
      { class: "scroll" },
      table(columns, rows, { caption: "Trajectories by the recompute that they caused" }),
    ),
  ];
}
