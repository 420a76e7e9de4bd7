// Moments and durations as text. Times are in the reader's time zone; `utc` gives the same time in UTC.
const pad = (n, digits = 2) => String(n).padStart(digits, "0");

/** µs since the epoch → "09:30:00.123" in the reader's zone. */
export const clock = (us, ms = true) => {
  const at = new Date(us / 1000);
  const text = `${pad(at.getHours())}:${pad(at.getMinutes())}:${pad(at.getSeconds())}`;
  return ms ? `${text}.${pad(at.getMilliseconds(), 3)}` : text;
};

const DAY = new Intl.DateTimeFormat(undefined, { day: "numeric", month: "short" });
export const day = (us) => DAY.format(new Date(us / 1000));

/** µs → "2026-03-01 09:30:00.123 UTC". A moment too large for a date stays a number. */
export const utc = (us) => {
  const at = new Date(us / 1000);
  return Number.isNaN(at.getTime()) ? `${us} µs` : at.toISOString().replace("T", " ").replace("Z", " UTC");
};

/** ms → "3 min 07 s". */
export const span = (ms) => {
  if (ms < 0) return `−${span(-ms)}`;
  if (ms < 1000) return `${Math.round(ms)} ms`;
  if (ms < 10_000) return `${(Math.floor(ms / 100) / 10).toFixed(1)} s`;
  const s = Math.floor(ms / 1000);
  const [h, m] = [Math.floor(s / 3600), Math.floor((s % 3600) / 60)];
  if (h >= 48) return `${Math.floor(h / 24)} d ${h % 24} h`;
  if (h) return `${h} h ${pad(m)} min`;
  return m ? `${m} min ${pad(s % 60)} s` : `${s} s`;
};

export const spaced = (text) => text.replaceAll(/[._]/g, " ");

/** The detail of an event as one line. */
export const detailText = (detail) =>
  Object.entries(detail)
    .filter(([name, value]) => name !== "connection" && value !== null && value !== "")
    .map(([name, value]) => `${spaced(name)} ${typeof value === "object" ? JSON.stringify(value) : value}`)
    .join(" · ");

/** Makes an element with text, attributes and children. Nothing is parsed as HTML. */
export const element = (name, { text, ...attributes } = {}, ...children) => {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value !== undefined && value !== null && value !== false) made.setAttribute(key, value === true ? "" : value);
  }
  if (text !== undefined) made.textContent = text;
  made.append(...children);
  return made;
};
