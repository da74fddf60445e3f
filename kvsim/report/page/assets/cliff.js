// How much of what was cached is still there when it is needed: with more in flight, and with longer pauses.

function startCliff(run, place) {
  const { cliff, cliff_absent, survival } = run.facts;
  const figures = [];
  const panel = (id, label, words) => {
    const figure = element("div", { class: "plot", id, role: "img", "aria-label": `${label}. ${words}` });
    figures.push(element("div", {}, element("h3", {}, label), element("p", {}, words), figure));
    return figure;
  };
  if (cliff) drawCliff(cliff, panel);
  else if (cliff_absent) figures.push(element("p", { class: "note" }, cliff_absent));
  if (survival) drawSurvival(survival, panel);
  place.append(element("div", { class: "pair" }, figures));
}

function drawCliff(cliff, panel) {
  const { in_flight, reuse_share, turns_per_s, turn_s, collapses_at, fastest } = cliff;
  const words =
    (collapses_at === null
      ? `Reuse does not collapse with up to ${plural(in_flight.at(-1), "trajectory", "trajectories")} in flight.`
      : `With ${count(collapses_at)} in flight less than half of what had been cached is still there when it is needed.`) +
    (fastest === null ? "" : ` Most turns a second with ${count(fastest)}.`);
  plot(panel("cliff-plot", "Sessions in flight", words), () => ({
    data: [
      {
        type: "scatter",
        mode: "lines+markers",
        name: "reused",
        x: in_flight,
        y: reuse_share,
        line: { color: colour("recompute"), width: 2.5 },
        customdata: in_flight.map((_, at) => [duration(turn_s[at]), plain(turns_per_s[at])]),
        hovertemplate:
          "%{x} in flight: %{y:.1%} reused<br>a turn takes %{customdata[0]}<br>%{customdata[1]} turns/s<extra></extra>",
      },
      {
        type: "scatter",
        mode: "lines+markers",
        name: "turns a second",
        x: in_flight,
        y: turns_per_s,
        yaxis: "y2",
        line: { color: colour("decode-base"), width: 1.5, dash: "dot" },
        hovertemplate: "%{x} in flight: %{y:.3g} turns/s<extra></extra>",
      },
    ],
    layout: {
      hovermode: "closest",
      margin: { l: 60, r: 60, t: 30, b: 45 },
      xaxis: {
        title: { text: "trajectories in flight" },
        type: "log",
        tickvals: in_flight.filter((number) => Number.isInteger(Math.log2(number)) || number === in_flight.at(-1)),
      },
      yaxis: { title: { text: "of cached tokens reused" }, tickformat: ".0%", range: [0, 1.04], fixedrange: true },
      yaxis2: {
        title: { text: "turns a second" },
        overlaying: "y",
        side: "right",
        rangemode: "tozero",
        tickmode: "auto",
        nticks: 6,
        showgrid: false,
        fixedrange: true,
      },
      ...(collapses_at === null
        ? {}
        : {
            shapes: [
              {
                type: "line",
                x0: collapses_at,
                x1: collapses_at,
                yref: "paper",
                y0: 0,
                y1: 1,
                line: { color: colour("ink"), width: 1, dash: "dot" },
              },
            ],
            annotations: [
              {
                x: Math.log10(collapses_at),
                yref: "paper",
                y: 1,
                text: `collapses at ${count(collapses_at)}`,
                showarrow: false,
                xanchor: "right",
                xshift: -5,
                font: { color: colour("ink") },
              },
            ],
          }),
    },
  }));
}

function drawSurvival({ ttl_s, model_s, recompute_s }, panel) {
  const most = Math.max(...recompute_s);
  const words = most
    ? `If KV were kept for at most so long after a turn. Lost at every pause, ${duration(most)} would be recomputed, ${percent(most / model_s[recompute_s.indexOf(most)])} of the time in the model.`
    : "No pause here leads to recompute, however soon KV is dropped.";
  plot(panel("survival-plot", "How long KV survives a pause", words), () => ({
    data: [
      {
        type: "scatter",
        mode: "lines",
        name: "recompute",
        x: ttl_s,
        y: recompute_s,
        fill: "tozeroy",
        line: { color: colour("recompute"), width: 2.5, shape: "hv" },
        customdata: ttl_s.map((ttl, at) => [duration(ttl), duration(recompute_s[at]), duration(model_s[at])]),
        hovertemplate:
          "kept for %{customdata[0]}: %{customdata[1]} of recompute<br>%{customdata[2]} in the model<extra></extra>",
      },
    ],
    layout: {
      hovermode: "closest",
      showlegend: false,
      xaxis: { title: { text: "KV survives pauses of up to, s" }, type: "log" },
      yaxis: { title: { text: "recompute, s" }, rangemode: "tozero", fixedrange: true },
    },
  }));
}
