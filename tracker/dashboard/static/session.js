// The script of the session page. It links the lanes and the list, handles the keyboard, and applies live updates.
import { EventsView } from "./session_events.js";
import { LanesView } from "./session_lanes.js";
import { about, barOf, event, inOrder, laneOf, read } from "./session_model.js";
import { clock, spaced } from "./session_words.js";

const root = document.getElementById("session");
const { base, id, records } = root.dataset;
const MOST = 200_000; // no further page of events is fetched after this many
const WHOLE = 4_000; // with at most this many events, a change fetches all of them again
const QUIET_MS = 250;

const json = async (path) => {
  const answer = await fetch(base + path, { headers: { accept: "application/json" } });
  if (answer.redirected || !answer.ok || !answer.headers.get("content-type")?.includes("json")) throw new Error(`no answer (${answer.status})`);
  return answer.json();
};

const announcer = document.getElementById("lanes-announce");
let model = null;
let events = [];
let complete = false;
let skew = 0;

const tieBar = (bar) => {
  lanes.tie(bar, null);
  list.tie(bar ? events.filter((each) => near(each, bar)) : null);
};
const near = (each, bar) => {
  const at = each.at - model.begin;
  return ((bar.start !== null && Math.abs(at - bar.start) < 1000) || (bar.end !== null && Math.abs(at - bar.end) < 1000)) && barOf(model, each) === bar;
};
const pick = (each, bar = each && barOf(model, each)) => {
  list.pick(each);
  if (!each) {
    lanes.pick(null, null, null);
    return;
  }
  lanes.pick(bar, bar?.lane ?? laneOf(model, each), each.at - model.begin);
  announcer.textContent = `${clock(each.at)}, ${spaced(each.kind)}, ${about(model, each)}, ${each.provenance}`;
};

const lanes = new LanesView(document.getElementById("lanes-live"), document.getElementById("lanes-tools"), {
  hover: tieBar,
  pick: (bar, at) => pick(list.near(at, (each) => barOf(model, each) === bar), bar),
  mark: (mark) => pick(list.near(model.begin + mark.at, (each) => mark.position === null || each.position === mark.position)),
});
const list = new EventsView(document.getElementById("events-live"), document.getElementById("events-tools"), {
  hover: (each) => lanes.tie(each && barOf(model, each), each ? each.at - model.begin : null),
  pick,
}, records === "yes");

const takeLanes = async () => {
  const fetched = await json("/lanes.json");
  skew = fetched.now / 1000 - Date.now();
  const picked = list.picked;
  model = read(fetched);
  lanes.take(model);
  if (picked) lanes.pick(barOf(model, picked), null, picked.at - model.begin);
};

/** Fetches every event, page by page. At the first load, the list shows each page as it arrives. */
const takeEvents = async (isLive) => {
  const found = [];
  let cursor = null;
  do {
    const page = await json(`/events.json${cursor ? `?cursor=${encodeURIComponent(cursor)}` : ""}`);
    for (const row of page.items) found.push(event(row));
    cursor = page.next;
    if (!isLive) show(found, Boolean(cursor), false);
  } while (cursor && found.length < MOST);
  complete = !cursor;
  if (isLive) show(found, false, true);
};

const show = (found, more, isLive) => {
  const picked = list.picked?.id;
  events = found;
  list.take(isLive ? found : found.slice(), model, { isLive, more });
  if (picked) list.picked = events.find((each) => each.id === picked) ?? null;
};

/** Fetches only the events from records after `position`. Used for sessions that are too long to fetch whole at every change. */
const takeNews = async (position) => {
  const page = await json(`/events.json?after=${position}`);
  const known = new Set(events.map((each) => each.id));
  const news = page.items.map(event).filter((each) => !known.has(each.id));
  if (news.length) show([...events, ...news].sort(inOrder), !complete, true);
};

/** Fetches the summary and the tables again, as HTML from the server. */
const takeSummary = async () => {
  const answer = await fetch(`${base}?part=summary`);
  if (answer.redirected || !answer.ok) return;
  const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
  for (const name of ["summary", "people"]) {
    const [old, made] = [document.getElementById(name), fresh.getElementById(name)];
    if (!old || !made) continue;
    old.querySelectorAll("details").forEach((each, n) => { const twin = made.querySelectorAll("details")[n]; if (twin) twin.open = each.open; });
    const isInside = old.contains(document.activeElement);
    old.replaceWith(document.adoptNode(made));
    if (isInside) document.getElementById("main").focus({ preventScroll: true });
  }
  window.tracker?.localised(document);
  window.tracker?.tick();
};

let timer = 0;
let busy = false;
let again = false;
const changed = () => {
  if (busy) { again = true; return; }
  if (!timer) timer = setTimeout(refresh, QUIET_MS);
};
const refresh = async () => {
  timer = 0;
  busy = true;
  const started = performance.now();
  const before = model?.position ?? 0;
  try {
    await takeLanes();
    if (events.length <= WHOLE) await takeEvents(true);
    else await takeNews(before);
    await takeSummary();
  } catch { /* The server may be restarting. The stream reconnects when it is back, and that starts another refresh. */ }
  // The slower the answers, the longer the pause before the next refresh.
  setTimeout(() => { busy = false; if (again) { again = false; changed(); } }, Math.min(5000, (performance.now() - started) * 3));
};

const follow = (position) => {
  const stream = new EventSource(`/v1/live?session=${encodeURIComponent(id)}&last_event_id=${position}-999999999`);
  let broke = false;
  stream.addEventListener("entry", changed);
  stream.addEventListener("error", () => {
    broke = true;
    if (stream.readyState === EventSource.CLOSED) window.tracker?.leaveIfSignedOut();
  });
  stream.addEventListener("open", () => { if (broke) { broke = false; changed(); } });
  addEventListener("pagehide", () => stream.close());
};

const KEYS = {
  j: () => pick(list.next(1)), k: () => pick(list.next(-1)), Escape: () => pick(null),
  ArrowLeft: () => lanes.pan(-0.15), ArrowRight: () => lanes.pan(0.15),
  "+": () => lanes.zoom(1 / 1.6), "=": () => lanes.zoom(1 / 1.6), "-": () => lanes.zoom(1.6), "0": () => lanes.fit(),
};
addEventListener("keydown", (e) => {
  if (e.ctrlKey || e.metaKey || e.altKey || e.target.closest("input, select, textarea, dialog")) return;
  // In tables that scroll sideways, the arrow keys scroll.
  if (e.key.startsWith("Arrow") && e.target.closest(".scroll")) return;
  const act = KEYS[e.key] ?? (e.key === "Enter" && e.target.closest(".lanes-view, .events-scroll") ? () => list.raw() : null);
  if (!act || !model) return;
  e.preventDefault();
  act();
});

// Paper has no hover. In print, times are in UTC and all notices are open.
addEventListener("beforeprint", () => {
  for (const each of document.querySelectorAll("#session time[title]")) {
    each.dataset.screen = each.textContent;
    each.textContent = /^\d\d:\d\d:\d\d\.\d{3}$/.test(each.textContent) ? each.title.slice(11, 23) : each.title;
  }
  for (const each of document.querySelectorAll("details.notices")) each.open = true;
  for (const each of document.querySelectorAll("[data-zone]")) each.textContent = "UTC";
});
addEventListener("afterprint", () => {
  for (const each of document.querySelectorAll("#session time[data-screen]")) each.textContent = each.dataset.screen;
});

const begin = async () => {
  await takeLanes();
  for (const name of ["lanes-live", "lanes-tools", "events-live", "events-tools"]) document.getElementById(name).hidden = false;
  document.documentElement.classList.add("enhanced");
  lanes.resized();
  follow(model.position);
  setInterval(() => lanes.tick(Math.round((Date.now() + skew) * 1000) - model.begin), 1000);
  await takeEvents(false);
};
begin().catch(() => document.documentElement.classList.remove("enhanced"));
