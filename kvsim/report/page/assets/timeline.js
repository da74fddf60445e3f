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
  const turnsOf = (trajectory) => Array.from({ length: trajectory.turns }, (_, at) => trajectory.first + at);
  const views = [
    ["clock", "Over time"],
    ["turns", "Turn by turn"],
  ].map(([view, label]) =>
    element(
      "button",
      { type: "button", "data-view": view, onclick: () => goTo({ view: view === "clock" ? null : view }) },
      label,
    ),
  );
  place.append(
    head,
    totals,
    element(
      "div",
      { class: "spread" },
      element("div", { class: "controls" }, element("fieldset", { "aria-label": "How to draw it" }, views)),
      note,
    ),
    figure,
    tableTitle,
    element(
      "div",
      { class: "scroll turns", tabindex: "-1" },
      tableAround(body, columns, { caption: "Turns of the trajectory" }),
    ),
    pages,
  );

  const drawing = plot(figure, () =>
    !one
      ? { data: [], layout: {} }
      : {
          ...(state.view === "turns"
            ? turnByTurn(run, one)
            : overTime(run, one, state.turn === undefined ? -1 : Number(state.turn))),
          onClick: ({ customdata }) => customdata !== undefined && goTo({ turn: customdata }, { replace: true }),
        },
  );

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
      head.replaceChildren(
        element(
          "p",
          {},
          run.trajectories.length ? "No trajectory of this name is here." : "There are no trajectories.",
        ),
      );
      figure.hidden = true;
      return;
    }
    figure.hidden = false;
    [one, state] = [trajectory, asked];
    const at = among.indexOf(one);
    const step = (label, words, to) =>
      element(
        "button",
        { type: "button", "aria-label": words, disabled: !among[to], onclick: () => goTo(linkTo(among[to])) },
        label,
      );
    replaceContent(
      head,
      element(
        "h3",
        { id: "shown-trajectory" },
        nameFromLog(one.id),
        one.named ? null : ` (number ${count(one.at + 1)})`,
      ),
      element(
        "div",
        { class: "pager" },
        step("⟨", "Previous trajectory", at - 1),
        element("span", {}, at < 0 ? "not among the filtered" : `${count(at + 1)} of ${count(among.length)}`),
        step("⟩", "Next trajectory", at + 1),
      ),
    );
    totals.replaceChildren(...trajectoryTotals(run, one), ...savingsOf(changesOf(one)));
    for (const view of views) view.setAttribute("aria-pressed", String(view.dataset.view === (state.view ?? "clock")));
    note.textContent =
      state.view === "turns"
        ? "Tool pauses are left out. Below: what each turn's context is made of."
        : "Drag to zoom, double-click to see all; a click on a bar chooses its turn. Below: the KV it holds.";
    page = pageWithin(one.turns, TURNS_A_PAGE, state.turns ?? Math.floor((Number(state.turn) || 0) / TURNS_A_PAGE) + 1);
    const first = (page - 1) * TURNS_A_PAGE;
    const rows = turnsOf(one);
    tableTitle.replaceChildren(
      tableHead(`${plural(one.turns, "turn")}: ↑ ↓ move, Enter zooms to a turn.`, columns, () => rows),
    );
    body.replaceChildren(
      ...rows.slice(first, first + TURNS_A_PAGE).map((row) => {
        const turn = row - one.first;
        return element(
          "tr",
          { class: "row", tabindex: "-1", "data-turn": turn, "aria-selected": String(String(turn) === state.turn) },
          cells(columns, row),
        );
      }),
    );
    reachable(body);
    body.querySelector("[aria-selected=true]")?.scrollIntoView({ block: "nearest" });
    replaceContent(pages, ...pager(one.turns, TURNS_A_PAGE, page, goToPage));
    figure.setAttribute("role", "img");
    figure.setAttribute("aria-label", `Timeline of trajectory ${one.id}; the table below has its numbers.`);
    drawing.update();
  }

  function turnColumns({ facts: { tools, statuses, usd_per_hour } }) {
    const column = (name) => (row) => turns[name][row];
    const priced = (of) => (row) => (turns.status[row] > 0 ? NaN : of(row));
    const tokens = (label, name, meaning) => ({
      label,
      heading: `${label} tokens`,
      of: column(name),
      show: count,
      meaning,
    });
    return [
      { label: "turn", of: (row) => row - one.first },
      ...(tools.length
        ? [
            {
              label: "after tool",
              text: true,
              wide: true,
              of: (row) => tools[turns.tool[row]] ?? "",
              show: (name) => (name ? nameFromLog(name) : ""),
            },
          ]
        : []),
      nanoseconds("starts at", column("release_ns"), { meaning: "since the trajectory's first turn" }),
      ...presentParts.map((part) => nanoseconds(part.label, priced(column(part.key)))),
      nanoseconds(
        "in all",
        priced((row) => turnTime(turns, row)),
        { meaning: "from release to the last token" },
      ),
      tokens("prompt", "prompt_tokens"),
      {
        ...tokens("cached", "cached_tokens", "prompt tokens found in the KV cache"),
        of: priced(column("cached_tokens")),
      },
      {
        ...tokens("recomputed", "recomputed_tokens", "had been in the cache, evicted"),
        of: priced(column("recomputed_tokens")),
      },
      tokens("output", "output_tokens"),
      ...(facts.kind === "simulation" ? [{ label: "preempted", of: column("preemptions"), show: count }] : []),
      { label: "KV GiB·s", of: priced((row) => turns.kv_byte_s[row] / GIB), show: plain },
      usd_per_hour === null
        ? { label: "GPU-s", of: priced((row) => turns.gpu_ns[row] / 1e9), show: plain }
        : { label: "USD", of: priced((row) => (turns.gpu_ns[row] / 1e9) * (usd_per_hour / 3600)), show: money },
      {
        label: "status",
        text: true,
        of: (row) => statuses[turns.status[row]],
        show: (status) => (status === "ok" ? "" : STATUS_WORDS[status]),
      },
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
  return [
    whole,
    stack(
      "Where its time went",
      presentParts.map((part) => ({ ...part, value: one[part.key] / 1e9 })),
      duration,
    ),
    ...bySource(facts, one),
  ].filter(Boolean);
}

/** What its prefill and its reading of context were for, folded; nothing where the log does not say. */
function bySource({ sources }, one) {
  const parts = (kind) =>
    Object.entries(sources).map(([name, label]) => ({
      label,
      colour: `source-${name}`,
      value: (one[`${kind}.${name}`] ?? 0) / 1e9,
    }));
  const [fresh, reading] = [parts("fresh"), parts("reading")];
  if (!["system", "tools", "user", "tool"].some((name) => one[`fresh.${name}`] > 0)) return [];
  return [
    element(
      "details",
      { class: "savings" },
      element("summary", {}, "What was prefilled and read, by source"),
      [
        stack("Fresh prefill, by source", fresh, duration),
        stack("Reading context, by source", reading, duration),
      ].filter(Boolean),
    ),
  ];
}

/** The changes that would save most of a trajectory's time, in a line each. */
function savingsOf(changes) {
  if (!changes.length) return [];
  return [
    element(
      "details",
      { class: "savings" },
      element("summary", {}, `What would save most here: ${changes[0].name}, ${duration(changes[0].model_s)}`),
      element(
        "ol",
        {},
        changes.slice(0, 5).map((saving) =>
          element(
            "li",
            {},
            element("bdi", {}, saving.name),
            saving.turn === null
              ? ""
              : [
                  " at ",
                  element(
                    "a",
                    {
                      href: "#",
                      onclick: (event) => {
                        event.preventDefault();
                        goTo({ turn: saving.turn });
                      },
                    },
                    `turn ${saving.turn}`,
                  ),
                ],
            `: ${duration(saving.model_s)} (90 %: ${between(saving)})`,
          ),
        ),
      ),
    ),
  ];
}
