// Inefficiency patterns: how often, how much dearer trajectories with them are, and where they fired.

function startPatterns(run, place) {
  const { with_text, found } = run.facts.patterns;
  const looked = found.filter((pattern) => pattern.looked_at > 0);
  place.append(
    element(
      "p",
      {},
      with_text
        ? `Looked for in what was said in ${plural(with_text, "trajectory", "trajectories")}, and in the counts and prices of all.`
        : "This log carries no text: only what counts and prices reveal was looked for.",
    ),
  );
  const ratio = (value) => `${value.toFixed(2)} ×`;
  const columns = [
    {
      label: "pattern",
      text: true,
      wide: true,
      of: (one) => one.title + (one.hint ? " (a hint: its precision is not known)" : ""),
    },
    {
      label: "trajectories with it",
      of: (one) => one.fired,
      show: (fired, one) => `${count(fired)} of ${count(one.looked_at)}`,
    },
    { label: "share", of: (one) => one.share, show: percent },
    { label: "occurrences", of: (one) => one.occurrences, show: count },
    {
      label: "cost beside those without",
      of: (one) => one.multiplier?.value ?? "",
      show: (value) => (value === "" ? UNKNOWN : ratio(value)),
      meaning: "mean time in the model of trajectories with it over that of those without; no proof of a cause",
    },
    {
      label: "90 % interval",
      of: (one) => (one.multiplier ? `${one.multiplier.low.toFixed(2)} – ${one.multiplier.high.toFixed(2)}` : ""),
    },
  ];
  if (!looked.length) return;
  const known = looked.filter((one) => one.multiplier);
  if (known.length) {
    const figure = element("div", {
      class: "plot fitted",
      id: "patterns-plot",
      role: "img",
      "aria-label": "Cost of trajectories with each pattern over those without; the table below has the numbers.",
    });
    place.append(figure);
    plot(figure, () => ({
      data: [
        {
          type: "scatter",
          mode: "markers",
          x: known.map((one) => one.multiplier.value),
          y: known.map((_, at) => at),
          marker: { size: 11, color: colour("recompute") },
          error_x: {
            type: "data",
            symmetric: false,
            array: known.map((one) => one.multiplier.high - one.multiplier.value),
            arrayminus: known.map((one) => one.multiplier.value - one.multiplier.low),
            color: colour("ink"),
            thickness: 1.2,
          },
          hovertext: known.map(
            (one) =>
              `${plotText(one.title)}<br>${ratio(one.multiplier.value)} in ${count(one.fired)} of ${count(one.looked_at)}`,
          ),
          hovertemplate: "%{hovertext}<extra></extra>",
        },
      ],
      layout: {
        height: 90 + 34 * known.length,
        showlegend: false,
        hovermode: "closest",
        xaxis: { title: { text: "time in the model beside trajectories without it, times" }, rangemode: "tozero" },
        yaxis: {
          range: [known.length - 0.4, -0.6],
          tickvals: known.map((_, at) => at),
          ticktext: known.map((one) => plotText(one.name)),
          fixedrange: true,
          showgrid: false,
        },
        shapes: [
          {
            type: "line",
            x0: 1,
            x1: 1,
            yref: "paper",
            y0: 0,
            y1: 1,
            line: { color: colour("ink"), width: 1, dash: "dot" },
          },
        ],
      },
    }));
  }
  place.append(
    tableHead(plural(looked.length, "pattern"), columns, () => looked),
    element("div", { class: "scroll" }, table(columns, looked, { caption: "Patterns" })),
    ...looked.filter((one) => one.occurrences).map((one) => occurrences(run, one)),
  );
}

/** A pattern's occurrences, made when they are asked for. */
function occurrences(run, pattern) {
  const { findings } = pattern;
  const rows = findings.turn.map((turn, at) => ({
    turn,
    at: findings.trajectory[at],
    detail: findings.detail[at],
    excerpt: findings.excerpt[at],
  }));
  const columns = [
    { label: "trajectory", text: true, wide: true, of: (one) => run.trajectories[one.at].id, show: nameFromLog },
    { label: "turn", of: (one) => one.turn },
    { label: "what", text: true, wide: true, of: (one) => one.detail, show: nameFromLog },
    {
      label: "where it fired",
      text: true,
      wide: true,
      of: (one) => one.excerpt,
      show: (text) => (text ? nameFromLog(text) : ""),
    },
  ];
  const shown = element(
    "details",
    { class: "savings" },
    element(
      "summary",
      {},
      `${pattern.name}: ${plural(pattern.occurrences, "occurrence")}` +
        (rows.length < pattern.occurrences ? `, the first ${count(rows.length)}` : ""),
    ),
  );
  shown.addEventListener("toggle", () => {
    if (shown.children.length > 1) return;
    const open = ({ at, turn }) => {
      goTo({ ...linkTo(run.trajectories[at]), turn });
      byId("timeline").scrollIntoView({ block: "start" });
    };
    shown.append(
      tableHead("Enter opens the turn.", columns, () => rows),
      element("div", { class: "scroll turns" }, openingTable(columns, rows, { caption: pattern.title, open })),
    );
  });
  return shown;
}
