// Formats numbers, sizes and times.

const UNKNOWN = "–";
const KIB = 1024;
const SIZES = ["B", "KiB", "MiB", "GiB", "TiB"];

/** A number: "1,235", below 100 with one decimal, below 10 with up to two. */
export function number(value) {
  if (value === null || value === undefined) return UNKNOWN;
  const digits = value === 0 || value >= 100 ? 0 : value >= 10 ? 1 : 2;
  return value.toLocaleString("en", { maximumFractionDigits: digits });
}

/** A whole number: "1,235". */
export function count(value) {
  return value === null || value === undefined ? UNKNOWN : Math.round(value).toLocaleString("en");
}

/** A short time: "85 ms", "1.24 s", "12.0 s". */
export function milliseconds(ms) {
  if (ms === null || ms === undefined) return UNKNOWN;
  if (ms < 1000) return `${ms < 10 ? ms.toFixed(1) : Math.round(ms)} ms`;
  return `${(ms / 1000).toFixed(ms < 10_000 ? 2 : 1)} s`;
}

/** A long time: "42 s", "3 min", "2 h 5 min", "3 d 4 h". */
export function duration(seconds) {
  const minutes = Math.floor(seconds / 60);
  const hours = Math.floor(minutes / 60);
  if (minutes === 0) return `${Math.floor(seconds)} s`;
  if (hours === 0) return `${minutes} min`;
  if (hours < 24) return `${hours} h ${minutes % 60} min`;
  return `${Math.floor(hours / 24)} d ${hours % 24} h`;
}

/** A size in bytes: "11.3 MiB". */
export function size(bytes) {
  if (bytes === null || bytes === undefined) return UNKNOWN;
  let value = bytes;
  let unit = 0;
  while (value >= KIB && unit < SIZES.length - 1) {
    value /= KIB;
    unit += 1;
  }
  return `${unit === 0 || value >= 100 ? Math.round(value) : value.toFixed(1)} ${SIZES[unit]}`;
}

/** The local time of day of a Unix time. */
export function clock(unix) {
  return new Date(unix * 1000).toLocaleTimeString([], { hour12: false });
}

/** An error code or a finish reason with spaces instead of underscores. */
export function words(code) {
  return code === null ? UNKNOWN : code.replaceAll("_", " ");
}
