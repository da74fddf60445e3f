// What would be saved: changes priced again, the most valuable first.

const SCOPE_WORDS = { call: "one call", tool: "a tool", run: "everywhere", serving: "serving" };

const DEAREST = 10;

/** Returns what says of a trajectory which changes concern it. */
function startWhatIf(run, place) {
  const { what_if } = run.facts;
  const agent = rowsOf(what_if.agent, "name");
  const serving = rowsOf(what_if.serving, "name");
  const top = what_if.top.map((at) => agent[at]);
  const byName = new Map(run.trajectories.map((one) => [one.id, one]));
  const assumptions = [...new Set([...agent, ...serving].map((saving) => saving.assumption).filter(Boolean))];
  const columns = savingColumns(run, assumptions);
  const servingColumns = columns.filter((column) => !column.placed);

  const best = [...top.slice(0, DEAREST), ...serving].sort((a, b) => b.model_s - a.model_s)[0];
  place.append(
    element(
      "p",
      {},
      best
        ? `Each change was priced again on the same law. The most: “${best.name}” would save ${duration(best.model_s)} of time in the model (90 %: ${between(best)}), ${percent(best.share)}.`
        : "Nothing was found that would save time or money.",
    ),
  );
  if (!best) return () => [];

  const figure = element("div", {
    class: "plot fitted",
    id: "what-if-plot",
    role: "img",
    "aria-label": "Time saved by each change, with its 90 % interval; the tables below have the numbers.",
  });
  place.append(figure);
  plot(figure, () => savingBars(run, top, serving));

  const body = element("tbody", {});
  const said = element("div", {});
  const pages = element("div", { class: "pager" });
  const kinds = [...new Set(agent.map((one) => one.kind))];
  const kind = element(
    "select",
    { id: "kind", onchange: () => show() },
    element("option", { value: "" }, `the ${top.length} most valuable, distinct`),
    element("option", { value: "*" }, `all ${count(agent.length)} that were priced`),
    kinds.map((name) => element("option", { value: name }, name)),
  );
  let [rows, page] = [[], 1];
  const turnTo = (wanted) => {
    page = pageWithin(rows.length, PAGE, wanted);
    body.replaceChildren(
      ...rows.slice((page - 1) * PAGE, page * PAGE).map((saving, at) => {
        const linked = byName.has(saving.trajectory);
        return element(
          "tr",
          { class: linked ? "row" : null, tabindex: "-1", "data-place": (page - 1) * PAGE + at },
          cells(columns, saving),
        );
      }),
    );
    reachable(body);
    replaceContent(pages, ...pager(rows.length, PAGE, page, turnTo));
  };
  const show = () => {
    rows = kind.value === "" ? top : kind.value === "*" ? agent : agent.filter((one) => one.kind === kind.value);
    said.replaceChildren(
      tableHead(`${plural(rows.length, "change")}; Enter opens the trajectory.`, columns, () => rows),
    );
    turnTo(1);
  };
  rovingRows(body, {
    open: (row) => {
      const { trajectory, turn } = rows[Number(row.dataset.place)];
      if (!byName.has(trajectory)) return;
      goTo({ ...linkTo(byName.get(trajectory)), turn });
      byId("timeline").scrollIntoView({ block: "start" });
    },
    turnPage: (by) => {
      turnTo(page + by);
      return true;
    },
  });
  place.append(
    element("h3", {}, "What the agent could do otherwise"),
    element(
      "form",
      { class: "controls", onsubmit: (event) => event.preventDefault() },
      element("label", {}, "Show", kind),
    ),
    said,
    element(
      "div",
      { class: "scroll" },
      tableAround(body, columns, { caption: "Changes of what the agent does", id: "what-if-table" }),
    ),
    pages,
  );
  show();
  if (serving.length)
    place.append(
      element("h3", {}, "How it could be served otherwise"),
      tableHead(plural(serving.length, "change"), servingColumns, () => serving),
      element("div", { class: "scroll" }, table(servingColumns, serving, { caption: "Changes of how it is served" })),
    );
  const notes = [...what_if.notes];
  if (what_if.found > agent.length)
    notes.push(`${count(agent.length)} of ${count(what_if.found)} priced changes are here, the most valuable.`);
  notes.unshift(...assumptions.map((words, at) => `(${String.fromCharCode(97 + at)}) ${words}`));
  if (notes.length)
    place.append(
      element(
        "ul",
        { class: "note" },
        notes.map((note) => element("li", {}, note)),
      ),
    );

  const ofTrajectory = new Map();
  for (const saving of agent)
    if (saving.trajectory !== null)
      ofTrajectory.set(saving.trajectory, [...(ofTrajectory.get(saving.trajectory) ?? []), saving]);
  return (one) => ofTrajectory.get(one.id) ?? [];
}

const between = (saving) => `${duration(saving.model_s_low)} – ${duration(saving.model_s_high)}`;

function savingColumns(run, assumptions) {
  const mark = (words) => String.fromCharCode(97 + assumptions.indexOf(words));
  const seconds = (label, name, meaning) => ({
    label,
    heading: `${label} (s)`,
    of: (saving) => saving[name],
    show: (value) => duration(value ?? NaN),
    meaning,
  });
  return [
    { label: "change", text: true, wide: true, of: (saving) => saving.name, show: (name) => element("bdi", {}, name) },
    { label: "of", text: true, placed: true, of: (saving) => SCOPE_WORDS[saving.scope] ?? saving.scope },
    {
      label: "trajectory",
      text: true,
      wide: true,
      placed: true,
      of: (saving) => saving.trajectory ?? "",
      show: (id) => (id ? nameFromLog(id) : ""),
    },
    { label: "turn", placed: true, of: (saving) => saving.turn ?? "" },
    seconds("saves", "model_s", "time in the model"),
    { label: "90 % interval", of: between, meaning: "of the time in the model" },
    { label: "share", of: (saving) => saving.share, show: percent, meaning: "of the run's time in the model" },
    seconds("end to end", "latency_s", "saved from first arrival to last finish, summed over trajectories"),
    ...(run.facts.usd_per_hour === null
      ? []
      : [
          {
            label: "USD",
            meaning: "saved; below 0 it costs more",
            of: (saving) => saving.usd,
            show: (value) => money(value ?? NaN),
          },
        ]),
    { label: "if", text: true, of: (saving) => saving.assumption ?? "", show: (words) => (words ? mark(words) : "") },
  ];
}

function savingBars(run, top, serving) {
  const bars = (name, savings, shade, offset) => ({
    type: "bar",
    orientation: "h",
    name,
    y: savings.map((_, at) => offset + at),
    x: savings.map((one) => one.model_s),
    marker: { color: colour(shade) },
    error_x: {
      type: "data",
      symmetric: false,
      array: savings.map((one) => one.model_s_high - one.model_s),
      arrayminus: savings.map((one) => one.model_s - one.model_s_low),
      color: colour("ink"),
      thickness: 1.2,
      width: 4,
    },
    hovertext: savings.map(
      (one) =>
        `${plotText(one.name)}${one.trajectory === null ? "" : `<br>${plotText(one.trajectory)}`}<br>saves ${duration(one.model_s)} (90 %: ${between(one)})`,
    ),
    hovertemplate: "%{hovertext}<extra></extra>",
  });
  const all = [...top, ...serving];
  return {
    data: [bars("what the agent does", top, "fresh", 0), bars("how it is served", serving, "decode-base", top.length)],
    layout: {
      height: 90 + 26 * all.length,
      bargap: 0.25,
      hovermode: "closest",
      xaxis: { title: { text: "time in the model saved, s" }, rangemode: "tozero" },
      yaxis: {
        autorange: "reversed",
        tickvals: all.map((_, at) => at),
        ticktext: all.map((one) => plotText(shorten(one.name, 44)) + (one.turn === null ? "" : ` · turn ${one.turn}`)),
        fixedrange: true,
        showgrid: false,
      },
    },
  };
}
