// The calibration in force: what was measured, and each coefficient of the law.

function startEvidence(run, place) {
  const { evidence, coefficients } = run.facts.calibration;
  const range = ([least, most]) => `${count(least)} to ${count(most)}`;
  const rows = [
    ["Tokens in a step", range(evidence.step_tokens)],
    ["Sequences in a step", range(evidence.sequences)],
    ["Tokens of context", range(evidence.context_tokens)],
    ["GPUs that share a model", evidence.tensor_parallel.join(", ")],
    ["Weights", evidence.weight_formats.join(", ")],
    ["KV cache", evidence.cache_formats.join(", ")],
    ["Kinds of layers", evidence.families.join(", ")],
    ["Sources", evidence.sources.join("; ")],
  ];
  const number = (value) =>
    value && (Math.abs(value) >= 1e6 || Math.abs(value) < 1e-3)
      ? value.toExponential(3)
      : String(Number(value.toPrecision(4)));
  const columns = [
    { label: "coefficient", text: true, of: (one) => one.name },
    { label: "value", of: (one) => one.value, show: number },
    { label: "90 % interval", of: (one) => `${number(one.low)} to ${number(one.high)}` },
    { label: "unit", text: true, of: (one) => one.unit },
    { label: "how", text: true, of: (one) => one.kind },
    { label: "points", of: (one) => one.n, show: count },
    { label: "meaning", text: true, wide: true, of: (one) => one.meaning },
    { label: "source", text: true, wide: true, of: (one) => one.source },
  ];
  place.append(
    element("h3", {}, "What the calibration was measured on"),
    element(
      "dl",
      { class: "facts" },
      rows
        .map(([label, text]) => [element("dt", {}, label), element("dd", {}, element("p", { dir: "auto" }, text))])
        .flat(),
    ),
    element(
      "details",
      {},
      element("summary", {}, `The ${coefficients.length} coefficients of the law, with their intervals and sources`),
      tableHead("", columns, () => coefficients),
      element("div", { class: "scroll" }, table(columns, coefficients, { caption: "Coefficients" })),
    ),
  );
}
