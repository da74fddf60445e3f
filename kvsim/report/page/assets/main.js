// Unpacks the data, starts every section, and follows the address.

async function main() {
  const [facts, bytes] = await Promise.all([unzippedText("facts-data").then(JSON.parse), unzipped("columns-data")]);
  const columns = unpackColumns(bytes, facts.columns);
  const run = readRun(facts, columns);
  const bodyOf = (id) => byId(id).querySelector(".body");

  const distribution = startDistribution(run, bodyOf("distribution"));
  const ranking = startRanking(run, bodyOf("trajectories"));
  const timeline = startTimeline(run, bodyOf("timeline"), startWhatIf(run, bodyOf("what-if")));

  startTools(run, bodyOf("tools"));
  startPatterns(run, bodyOf("patterns"));
  startEvidence(run, bodyOf("evidence"));
  if (run.engine) startEngine(run, bodyOf("engine"));
  startCliff(run, bodyOf("cliff"));

  followSections();
  startTheme(redrawPlots);

  let shown = {};
  const render = (state) => {
    const one = chosen(run, state);
    const found = ranking.show(state, one?.at);
    const filters = JSON.stringify([state.filter, state.tool, state.status, state.cost, state.min, state.max]);
    if (filters !== shown.filters) distribution.show(state, found);
    const asked = (state.trajectory ?? state.number) !== undefined;
    timeline.show(asked ? one : found[0], state, found);
    shown = { filters };
  };
  followAddress(render);
  render(address());
  document.documentElement.dataset.ready = "yes";
  addEventListener("load", drawAtLeisure);
  if (document.readyState === "complete") drawAtLeisure();
}

/** The trajectory of the address. */
function chosen({ trajectories }, { trajectory, number }) {
  return number === undefined ? trajectories.find((one) => one.id === trajectory) : trajectories[Number(number) - 1];
}

/** Links to sections scroll there and leave what is shown as it is. */
function followSections() {
  for (const link of document.querySelectorAll("a[data-section], a.skip"))
    link.addEventListener("click", (event) => {
      event.preventDefault();
      const target = document.querySelector(link.getAttribute("href"));
      target.scrollIntoView({ block: "start" });
      target.tabIndex = -1;
      target.focus({ preventScroll: true });
    });
  const section = address().section;
  if (section) byId(section)?.scrollIntoView();
}

main();
