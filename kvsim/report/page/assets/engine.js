// The engine over time: how full its KV cache is, how many run, how many wait.

function startEngine(run, place) {
  const { bin_ns, bins, replicas, scale, mean_of } = run.facts.engine;
  const [unit, unitNs] = timeUnit((bins * bin_ns) / 1e9);
  const times = Array.from({ length: bins }, (_, at) => (at * bin_ns) / unitNs);
  const mean = (column, divisor) => times.map((_, at) => {
    let sum = 0;
    for (let replica = 0; replica < replicas; replica++) sum += column[replica * bins + at];
    return sum / replicas / divisor;
  });
  const curves = [
    ["KV cache in use", "recompute", mean(run.engine.kv_use, scale), "y", "%{y:.1%} of the KV cache"],
    ["running", "decode-base", mean(run.engine.running, 100), "y2", "%{y:.1f} running"],
    ["waiting", "queue", mean(run.engine.waiting, 100), "y2", "%{y:.1f} waiting"],
  ];
  const figure = element("div", { class: "plot tall", id: "engine-plot", role: "img", "aria-label": "KV use, running and waiting turns over time" });
  place.append(figure);
  if (mean_of > 1) place.append(element("p", { class: "note" }, `Mean of ${count(mean_of)} replicas.`));
  plot(figure, () => ({
    data: curves.map(([name, shade, y, yaxis, words]) => ({
      type: "scatter", mode: "lines", name, x: times, y, yaxis, line: { color: colour(shade), width: 1.5, shape: "hv" }, hovertemplate: `${words}<extra></extra>`,
    })),
    layout: {
      hovermode: "x unified",
      xaxis: { title: { text: `time, ${unit}` }, anchor: "y2", range: [0, (bins * bin_ns) / unitNs] },
      yaxis: { domain: [0.58, 1], tickformat: ".0%", range: [0, 1.02], title: { text: "KV cache" }, fixedrange: true },
      yaxis2: { domain: [0, 0.5], rangemode: "tozero", title: { text: "turns" }, fixedrange: true },
    },
  }));
}
