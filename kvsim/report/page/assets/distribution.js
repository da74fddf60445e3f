// How costs spread over trajectories: a histogram on a scale of ratios, and cost against length.

const BINS = 40;

/** So many trajectories are shown one by one. */
const FEW = 12;

function startDistribution(run, place) {
  let among = run.trajectories;
  let measure = MEASURES[measureOf(run)];
  const words = element("p", {});
  const [spread, scatter] = ["histogram", "scatter"].map((id) => element("div", { class: "plot", id, role: "img" }));
  place.append(words, element("div", { class: "pair" }, spread, scatter));

  const histogram = plot(spread, () => {
    if (among.length && among.length <= FEW) return barsOfFew(among, measure);
    const known = (some) => some.map(measure.of).filter((value) => value > 0);
    const bins = binsOf(known(run.trajectories));
    const bars = (name, some, shade) => ({
      type: "bar",
      name,
      x: bins.centres,
      width: bins.widths,
      y: bins.counts(known(some)),
      marker: { color: colour(shade) },
      customdata: bins.edges.slice(1).map((end, at) => [bins.edges[at], end]),
      hovertemplate: bins.edges
        .slice(1)
        .map((end, at) => `%{y} from ${measure.show(bins.edges[at])} to ${measure.show(end)}<extra></extra>`),
    });
    const data = [bars("all", run.trajectories, "pause")];
    if (among.length < run.trajectories.length) data.push(bars("filtered", among, "decode-base"));
    else data[0].marker.color = colour("decode-base");
    return {
      data,
      layout: {
        barmode: "overlay",
        showlegend: data.length > 1,
        xaxis: { title: { text: `${measure.label} (${measure.unit})` }, type: "log", dtick: "D2" },
        yaxis: { title: { text: "trajectories" }, fixedrange: true },
        ...quantileLines(known(among), measure),
      },
      onClick: ({ customdata: [low, high] }) =>
        goTo({ min: Number(low.toPrecision(6)), max: Number(high.toPrecision(6)), page: null }),
    };
  });

  const length = () =>
    among.some((one) => one.turns !== among[0].turns)
      ? { label: "turns", of: (one) => one.turns }
      : { label: "prompt tokens", of: (one) => one.prompt_tokens };
  const against = plot(scatter, () => ({
    data: [
      {
        type: "scatter",
        mode: "markers",
        x: among.map(length().of),
        y: among.map(measure.of),
        customdata: among.map((one) => one.at),
        marker: { color: colour("decode-base"), size: 7, opacity: among.length > 300 ? 0.45 : 0.75 },
        hovertext: among.map(
          (one) => `${plotText(one.id)}<br>${plural(one.turns, "turn")}<br>${measure.show(measure.of(one))}`,
        ),
        hovertemplate: "%{hovertext}<extra></extra>",
      },
    ],
    layout: {
      hovermode: "closest",
      showlegend: false,
      xaxis: { title: { text: length().label }, rangemode: "tozero" },
      yaxis: { title: { text: `${measure.label} (${measure.unit})` }, rangemode: "tozero" },
    },
    onClick: ({ customdata }) => goTo(linkTo(run.trajectories[customdata])),
  }));

  function show(state, found) {
    [among, measure] = [found, MEASURES[measureOf(run, state.cost)]];
    const values = among
      .map(measure.of)
      .filter(Number.isFinite)
      .sort((a, b) => a - b);
    const sum = values.reduce((total, value) => total + value, 0);
    const tenth = values.slice(Math.floor(values.length * 0.9)).reduce((total, value) => total + value, 0);
    words.textContent = values.length
      ? `${measure.label} of ${plural(values.length, "trajectory", "trajectories")}: mean ${measure.show(sum / values.length)}, median ${measure.show(quantile(values, 0.5))}, ` +
        `90 % below ${measure.show(quantile(values, 0.9))}, most ${measure.show(values.at(-1))}.` +
        (values.length >= 20 && sum ? ` The dearest tenth takes ${percent(tenth / sum)} of the whole.` : "")
      : "Nothing to show.";
    spread.setAttribute("aria-label", `Histogram. ${words.textContent}`);
    scatter.setAttribute("aria-label", `${measure.label} against ${length().label}.`);
    histogram.update();
    against.update();
  }
  return { show };
}

function barsOfFew(among, measure) {
  const sorted = among.filter((one) => measure.of(one) > 0).sort((a, b) => measure.of(a) - measure.of(b));
  return {
    data: [
      {
        type: "bar",
        orientation: "h",
        y: sorted.map((_, at) => at),
        x: sorted.map(measure.of),
        marker: { color: colour("decode-base") },
        customdata: sorted.map((one) => one.at),
        hovertext: sorted.map((one) => `${plotText(one.id)}<br>${measure.show(measure.of(one))}`),
        hovertemplate: "%{hovertext}<extra></extra>",
      },
    ],
    layout: {
      showlegend: false,
      xaxis: { title: { text: `${measure.label} (${measure.unit})` }, rangemode: "tozero" },
      yaxis: {
        tickvals: sorted.map((_, at) => at),
        ticktext: sorted.map((one) => plotText(shorten(one.id, 28))),
        fixedrange: true,
        showgrid: false,
      },
    },
    onClick: ({ customdata }) => goTo(linkTo(among.find((one) => one.at === customdata))),
  };
}

/** Of sorted values, linear between neighbours. */
function quantile(sorted, share) {
  const at = (sorted.length - 1) * share;
  const [below, above] = [sorted[Math.floor(at)], sorted[Math.ceil(at)]];
  return below + (above - below) * (at - Math.floor(at));
}

/** Bins of one ratio from the least to the most of the values. */
function binsOf(values) {
  const least = values.reduce((a, b) => Math.min(a, b), Infinity);
  const most = values.reduce((a, b) => Math.max(a, b), 0);
  const [from, to] = !values.length
    ? [0, 1]
    : most > least
      ? [Math.log(least), Math.log(most)]
      : [Math.log(least) - 0.05, Math.log(least) + 0.05];
  const number = Math.max(1, Math.min(BINS, Math.ceil(2 * Math.sqrt(values.length))));
  const edges = Array.from({ length: number + 1 }, (_, at) => Math.exp(from + ((to - from) * at) / number));
  const place = (value) =>
    Math.min(number - 1, Math.max(0, Math.floor(((Math.log(value) - from) / (to - from)) * number)));
  return {
    edges,
    centres: edges.slice(1).map((end, at) => (end + edges[at]) / 2),
    widths: edges.slice(1).map((end, at) => (end - edges[at]) * 0.96),
    counts(some) {
      const found = new Array(number).fill(0);
      for (const value of some) found[place(value)]++;
      return found;
    },
  };
}

function quantileLines(values, measure) {
  const sorted = values.sort((a, b) => a - b);
  if (sorted.length < 3) return {};
  const marks = [
    ["median", 0.5],
    ["90 %", 0.9],
  ].map(([name, share]) => [name, quantile(sorted, share)]);
  return {
    shapes: marks.map(([, at]) => ({
      type: "line",
      x0: at,
      x1: at,
      yref: "paper",
      y0: 0,
      y1: 1,
      line: { color: colour("ink"), width: 1, dash: "dot" },
    })),
    annotations: marks.map(([name, at], number) => ({
      x: Math.log10(at),
      yref: "paper",
      y: 1 - 0.09 * number,
      text: `${name} ${measure.show(at)}`,
      showarrow: false,
      xanchor: "left",
      xshift: 4,
      font: { color: colour("ink"), size: 12 },
      bgcolor: colour("paper"),
      opacity: 0.85,
    })),
  };
}
