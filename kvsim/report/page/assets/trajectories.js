// Turns summed by trajectory, once, when the data have arrived.

/** The parts of a turn's time, in the order in which it goes through them. */
const MODEL_PARTS = [
  { key: "queue_ns", label: "queue", colour: "queue" },
  { key: "fresh_ns", label: "fresh prefill", colour: "fresh" },
  { key: "recompute_ns", label: "recompute", colour: "recompute" },
  { key: "decode_base_ns", label: "decode", colour: "decode-base" },
  { key: "decode_context_ns", label: "decode: reading context", colour: "decode-context" },
  { key: "decode_beside_ns", label: "decode: beside others", colour: "decode-beside" },
];
const TOOL_PART = { key: "tool_ns", label: "tool pause", colour: "pause" };
const ALL_PARTS = [TOOL_PART, ...MODEL_PARTS];

const SUMMED = [
  ...ALL_PARTS.map((part) => part.key),
  "prompt_tokens",
  "cached_tokens",
  "recomputed_tokens",
  "output_tokens",
  "kv_byte_s",
  "gpu_ns",
];

/** Which of the parts take any time at all here. */
let presentParts;

/**
 * Everything about the run: facts (JSON), turns (columns), and one object a trajectory:
 * {at, id, named (whether the id tells it from the others), first, end (rows of turns), status, tools (numbers), latency_ns,
 * ..., and sums of the turns' columns}.
 */
function readRun(facts, columns) {
  const turns = {};
  for (const name of facts.turn_columns) turns[name] = columns[name];
  let first = 0;
  const uses = new Map();
  const trajectories = facts.ids.map((id, at) => {
    const end = first + columns["trajectory.turns"][at];
    const one = { at, id, first, end, turns: end - first, tools: new Set(), status: 0 };
    for (const name of facts.trajectory_columns) one[name] ??= columns[`trajectory.${name}`][at];
    for (const name of SUMMED) {
      let sum = 0;
      const column = turns[name];
      for (let row = first; row < end; row++) sum += column[row];
      one[name] = sum;
    }
    for (let row = first; row < end; row++) {
      if (turns.tool[row] >= 0) one.tools.add(turns.tool[row]);
      one.status = Math.max(one.status, turns.status[row]);
    }
    const unknown = one.status > 0;
    one.model_ns = unknown ? NaN : MODEL_PARTS.reduce((sum, part) => sum + one[part.key], 0);
    if (unknown) one.latency_ns = one.kv_byte_s = one.gpu_ns = NaN;
    one.gpu_s = one.gpu_ns / 1e9;
    one.usd = (one.gpu_s * (facts.usd_per_hour ?? NaN)) / 3600;
    one.cached_share = one.cached_tokens / one.prompt_tokens;
    uses.set(id, (uses.get(id) ?? 0) + 1);
    first = end;
    return one;
  });
  // Ids that are empty, not unique or no proper text are linked to by their place.
  for (const one of trajectories) one.named = one.id !== "" && uses.get(one.id) === 1 && isWellFormed(one.id);
  presentParts = ALL_PARTS.filter((part) => trajectories.some((one) => one[part.key] > 0));
  const engine = facts.engine && {
    kv_use: columns["engine.kv_use"],
    running: columns["engine.running"],
    waiting: columns["engine.waiting"],
  };
  const calls = Object.fromEntries(
    Object.entries(columns)
      .filter(([name]) => name.startsWith("call."))
      .map(([name, values]) => [name.slice(5), values]),
  );
  return { facts, turns, trajectories, engine, calls };
}

const isWellFormed = (text) => new URLSearchParams(new URLSearchParams({ text }).toString()).get("text") === text;

/** What trajectories can be ranked and filtered by. */
const MEASURES = {
  usd: { label: "US dollars", short: "USD", unit: "$", of: (one) => one.usd, show: money },
  gpu_s: { label: "GPU-seconds", short: "GPU-s", unit: "GPU-s", of: (one) => one.gpu_s, show: plain },
  model_s: {
    label: "Time in the model",
    short: "in model",
    unit: "s",
    of: (one) => one.model_ns / 1e9,
    show: duration,
  },
  latency_s: {
    label: "Latency, pauses included",
    short: "latency",
    unit: "s",
    of: (one) => one.latency_ns / 1e9,
    show: duration,
  },
  recompute_s: {
    label: "Recompute",
    short: "recompute",
    unit: "s",
    of: (one) => one.recompute_ns / 1e9,
    show: duration,
  },
  kv: {
    label: "KV held, GiB·h",
    short: "KV GiB·h",
    unit: "GiB·h",
    of: (one) => one.kv_byte_s / GIB / 3600,
    show: plain,
  },
};

/** The measure that the address asks for: dollars, or GPU-seconds where there is no price. */
function measureOf(run, asked) {
  const fallback = run.facts.usd_per_hour === null ? "gpu_s" : "usd";
  return asked in MEASURES && !(asked === "usd" && fallback === "gpu_s") ? asked : fallback;
}
