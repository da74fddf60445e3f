// Numbers as people read them: the same digits as kvsim's tables in the terminal (kvsim/commands/_format.py).

const UNKNOWN = "–";
const LEAST = 0.0001;

const grouped = (number, digits = 0) =>
  number.toLocaleString("en-US", { minimumFractionDigits: digits, maximumFractionDigits: digits });

const twoDigits = (number) => String(number).padStart(2, "0");

/** 640 ms, 24.2 s, 334 s, 28m 12s, 14h 39m, 3d 04h. */
function duration(seconds) {
  if (!Number.isFinite(seconds)) return UNKNOWN;
  if (seconds === 0) return "0";
  if (seconds < 0) return "−" + duration(-seconds);
  if (seconds < 0.9995) return `${Number((seconds * 1e3).toPrecision(3))} ms`;
  if (seconds < 99.95) return `${seconds.toFixed(1)} s`;
  if (seconds < 599.5) return `${seconds.toFixed(0)} s`;
  const rounded = Math.round(seconds);
  if (rounded < 3600) return `${Math.floor(rounded / 60)}m ${twoDigits(rounded % 60)}s`;
  const minutes = Math.round(seconds / 60);
  if (minutes < 1440) return `${Math.floor(minutes / 60)}h ${twoDigits(minutes % 60)}m`;
  const hours = Math.round(seconds / 3600);
  return `${grouped(Math.floor(hours / 24))}d ${twoDigits(hours % 24)}h`;
}

/** Three significant digits without an exponent. */
function plain(number) {
  if (!Number.isFinite(number)) return UNKNOWN;
  if (number === 0) return "0";
  if (Math.abs(number) < LEAST) return `<${LEAST}`;
  if (Math.abs(number) >= 100) return grouped(number);
  const digits = Math.max(0, 2 - Math.floor(Math.log10(Math.abs(number))));
  return number.toFixed(Math.min(digits, 5));
}

/** <$0.0001, $0.00123, $0.0886, $12.34, $1,234. */
function money(usd) {
  if (!Number.isFinite(usd)) return UNKNOWN;
  if (usd === 0) return "$0";
  if (usd < 0) return "−" + money(-usd);
  if (usd < LEAST) return `<$${LEAST}`;
  if (usd < 0.01) return "$" + plain(usd);
  if (usd < 1) return "$" + usd.toFixed(4);
  return "$" + (usd < 100 ? usd.toFixed(2) : grouped(usd));
}

const count = (number) => (Number.isFinite(number) ? grouped(number) : UNKNOWN);

const percent = (share) => (Number.isFinite(share) ? `${(100 * share).toFixed(1)} %` : UNKNOWN);

const GIB = 2 ** 30;

/** Byte-seconds as GiB·h. */
const kvHeld = (byteSeconds) => `${plain(byteSeconds / GIB / 3600)} GiB·h`;

const plural = (number, noun, many = noun + "s") => `${count(number)} ${number === 1 ? noun : many}`;

/** The text, its middle left out where it is longer. */
const shorten = (text, width) =>
  text.length <= width
    ? text
    : `${text.slice(0, Math.ceil(width / 3))}…${text.slice(-Math.floor((width * 2) / 3) + 1)}`;

/** Nanoseconds as seconds with all their digits, for copying: 1234567890 is 1.23456789. */
function exactSeconds(nanoseconds) {
  if (!Number.isFinite(nanoseconds)) return "";
  const whole = Math.floor(nanoseconds / 1e9);
  const rest = String(Math.round(nanoseconds - whole * 1e9))
    .padStart(9, "0")
    .replace(/0+$/, "");
  return rest ? `${whole}.${rest}` : String(whole);
}
