// Plotly, unpacked when the first plot comes into view; each plot is drawn when it does, or when there is time.

let plotly;

function loadPlotly() {
  plotly ??= unzippedText("plotly-data").then((code) => {
    document.head.append(element("script", {}, code));
    return window.Plotly;
  });
  return plotly;
}

/** Text for a plot: Plotly reads a little markup, so what comes from logs is escaped, its direction kept to itself. */
const plotText = (text) =>
  "\u2068" + text.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;") + "\u2069";

const drawn = new Map();
const seen = new IntersectionObserver(
  (entries) => {
    for (const { isIntersecting, target } of entries) if (isIntersecting) drawn.get(target)?.come();
  },
  { rootMargin: "300px" },
);

/**
 * Keeps a plot in a place. figure() gives {data, layout, onClick} anew whenever the plot is drawn: when it first comes
 * into view, when the colours change, and when update() is called.
 */
function plot(place, figure) {
  let visible = false;
  let pending = Promise.resolve();
  const draw = () => {
    pending = pending
      .then(() => loadPlotly())
      .then(async (Plotly) => {
        const { data, layout, onClick } = figure();
        if (document.documentElement.dataset.printing) layout.width = place.clientWidth;
        await Plotly.react(place, data, withStyle(layout), {
          displaylogo: false,
          responsive: true,
          displayModeBar: false,
        });
        place.removeAllListeners("plotly_click");
        if (onClick) place.on("plotly_click", ({ points }) => onClick(points[0]));
        place.dataset.drawn = "yes";
      });
    return pending;
  };
  const come = () => {
    if (visible) return pending;
    visible = true;
    return draw();
  };
  drawn.set(place, { come, redraw: () => visible && draw() });
  seen.observe(place);
  return { update: () => visible && draw() };
}

/** Draws all plots anew. */
const redrawPlots = () => [...drawn.values()].forEach((one) => one.redraw());

/** Draws the plots that were never in view yet when there is nothing else to do, so that they can be printed. */
async function drawAtLeisure() {
  for (const one of drawn.values()) {
    await new Promise((resume) => (window.requestIdleCallback ?? setTimeout)(resume));
    await one.come();
  }
}

function withStyle(layout) {
  const [ink, soft, line, paper] = ["ink", "soft", "line", "paper"].map(colour);
  const axis = {
    gridcolor: line,
    linecolor: line,
    zerolinecolor: line,
    tickcolor: line,
    automargin: true,
    exponentformat: "power",
  };
  const styled = {
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { family: getComputedStyle(document.body).fontFamily, size: 13, color: soft },
    hoverlabel: {
      bgcolor: paper,
      bordercolor: line,
      font: { color: ink, family: getComputedStyle(document.body).fontFamily },
      align: "left",
    },
    margin: { l: 60, r: 20, t: 24, b: 45 },
    legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom", font: { color: ink } },
    ...layout,
  };
  for (const name of Object.keys(styled))
    if (/^[xy]axis\d*$/.test(name)) {
      styled[name] = { ...axis, ...styled[name] };
      if (styled[name].title) styled[name].title = { font: { size: 13 }, ...styled[name].title };
    }
  return styled;
}
