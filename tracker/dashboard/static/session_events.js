// The list of events. Only the visible rows, and some around them, are in the document.
import { about } from "./session_model.js";
import { clock, detailText, element, spaced, span, utc } from "./session_words.js";

const ROW = 34;
const NARROW = 58;
const MORE = 12;
const PRINTED = 5_000;
const LATE_MS = 60_000;
const HEADS = [["Time"], ["Since", "number"], ["Delay", "number"], ["Event"], ["Who or what"], ["Detail", "wide"], ["Known by"], ["Position", "number"]];

export class EventsView {
  /** `on`: { hover(event | null), pick(event | null) }. `mayRead`: whether raw records may be fetched. */
  constructor(host, tools, on, mayRead) {
    this.on = on;
    this.mayRead = mayRead;
    this.all = [];
    this.shown = [];
    this.wanted = "";
    this.tied = new Set();
    this.picked = null;
    this.arrived = new Set();
    this.body = element("tbody");
    const heads = HEADS.map(([text, name]) => element("th", { scope: "col", class: name, text }));
    this.caption = element("caption", { class: "hidden-text", text: "Events, by the time they happened" });
    this.table = element("table", { class: "events" }, this.caption, element("thead", {}, element("tr", {}, ...heads)), this.body);
    this.scroll = element("div", { class: "events-scroll", tabindex: "0", role: "region", "aria-label": "List of events" }, this.table);
    this.inspector = element("aside", { class: "inspector", "aria-label": "The chosen event", hidden: true });
    this.pane = element("div", { class: "events-pane" }, this.scroll, this.inspector);
    host.append(this.pane);
    this.count = element("span", { class: "faint", role: "status" });
    const search = element("input", { type: "search", placeholder: "Filter events", "aria-label": "Filter events" });
    search.addEventListener("input", () => { this.wanted = search.value.trim().toLowerCase(); this.filter(); });
    tools.append(search, this.count);
    this.scroll.addEventListener("scroll", () => this.redraw(), { passive: true });
    new ResizeObserver(() => this.redraw()).observe(this.scroll);
    this.body.addEventListener("mouseover", (e) => this.on.hover(this.eventOf(e)));
    this.scroll.addEventListener("mouseleave", () => this.on.hover(null));
    this.body.addEventListener("click", (e) => { const found = this.eventOf(e); if (found) this.on.pick(found); });
    addEventListener("beforeprint", () => this.print());
  }

  eventOf(e) {
    const row = e.target.closest("tr[data-n]");
    return row ? this.shown[Number(row.dataset.n)] : null;
  }

  get row() { return matchMedia("(max-width: 640px)").matches ? NARROW : ROW; }

  /** Shows these events, which are in order. New ones slide in. A list that is scrolled to its end stays at its end. */
  take(events, model, { isLive = false, more = false } = {}) {
    const known = isLive ? new Set(this.all.map((each) => each.id)) : null;
    const atEnd = this.scroll.scrollTop + this.scroll.clientHeight > this.scroll.scrollHeight - 60;
    this.model = model;
    this.all = events;
    this.more = more;
    if (known) {
      this.arrived = new Set(events.filter((each) => !known.has(each.id)).map((each) => each.id));
      setTimeout(() => this.arrived.clear(), 2500);
    }
    this.filter();
    if (isLive && atEnd && this.scroll.scrollHeight > this.scroll.clientHeight) this.scroll.scrollTop = this.scroll.scrollHeight;
  }

  filter() {
    const { wanted } = this;
    this.shown = wanted ? this.all.filter((each) => this.textOf(each).includes(wanted)) : this.all;
    const count = this.shown.length.toLocaleString();
    this.count.textContent = wanted ? `${count} of ${this.all.length.toLocaleString()}` : `${count}${this.more ? " and more" : ""}`;
    this.table.setAttribute("aria-rowcount", this.shown.length + 1);
    this.drawn = null;
    this.redraw();
  }

  textOf(each) {
    return `${spaced(each.kind)} ${each.kind} ${about(this.model, each)} ${each.actor ?? ""} ${detailText(each.detail)} ${each.provenance} ${each.position}`.toLowerCase();
  }

  redraw() {
    if (this.waits) return;
    this.waits = requestAnimationFrame(() => { this.waits = 0; this.place(); });
  }

  /** Puts the visible rows, and some around them, into the document. Rows that stay visible are not replaced. */
  place() {
    const height = this.row;
    const top = Math.floor(this.scroll.scrollTop / height);
    const bottom = Math.ceil((this.scroll.scrollTop + this.scroll.clientHeight) / height);
    const first = Math.max(0, Math.floor((top - MORE) / MORE) * MORE);
    const last = Math.min(this.shown.length, Math.ceil((bottom + MORE) / MORE) * MORE);
    const [was, till, of] = this.drawn ?? [0, 0, null];
    this.drawn = [first, last, this.shown];
    if (of === this.shown && first < till && last > was) {
      for (let n = was; n < Math.min(first, till); n += 1) this.above.nextSibling.remove();
      for (let n = till; n > Math.max(last, was); n -= 1) this.below.previousSibling.remove();
      this.above.after(...this.rowsOf(first, Math.min(was, last)));
      this.below.before(...this.rowsOf(Math.max(till, first), last));
    } else {
      this.above ??= this.space();
      this.below ??= this.space();
      const none = element("tr", {}, element("td", { colspan: "8", class: "empty", text: "No event fits." }));
      this.body.replaceChildren(...(this.shown.length ? [this.above, ...this.rowsOf(first, last), this.below] : [none]));
    }
    this.above.firstChild.style.height = `${first * height}px`;
    this.below.firstChild.style.height = `${(this.shown.length - last) * height}px`;
    this.mark();
  }

  space() {
    return element("tr", { class: "space", "aria-hidden": "true" }, element("td", { colspan: "8" }));
  }

  rowsOf(first, last) {
    const rows = [];
    for (let n = first; n < last; n += 1) rows.push(this.rowOf(n));
    return rows;
  }

  rowOf(n) {
    const each = this.shown[n];
    const before = n ? this.shown[n - 1] : null;
    const delay = each.received === null ? null : (each.received - each.at) / 1000;
    const position = each.provenance !== "reported" ? element("span", { class: "faint", text: "–", title: `Follows from everything up to position ${each.position}` })
      : element("span", { text: each.position });
    return element("tr", { class: `event ${each.kind.replaceAll(".", " ")}${this.arrived.has(each.id) ? " arrived" : ""}`, "data-n": n, "aria-rowindex": n + 2 },
      element("td", {}, element("time", { text: clock(each.at), title: utc(each.at) })),
      element("td", { class: "number", text: before ? `+${span((each.at - before.at) / 1000)}` : "" }),
      element("td", { class: `number${delay > LATE_MS ? " late" : ""}`, text: delay === null ? "–" : span(delay) }),
      element("th", { scope: "row" }, element("span", { class: "kind", text: spaced(each.kind) })),
      element("td", { class: "who", text: about(this.model, each), title: each.subject }),
      element("td", { class: "wide detail", text: detailText(each.detail).slice(0, 200) }),
      element("td", {}, element("span", { class: `known ${each.provenance}`, text: each.provenance })),
      element("td", { class: "number" }, position));
  }

  mark() {
    for (const row of this.body.querySelectorAll("tr[data-n]")) {
      const each = this.shown[Number(row.dataset.n)];
      row.classList.toggle("picked", each === this.picked);
      row.classList.toggle("tied", this.tied.has(each));
      if (each === this.picked) row.setAttribute("aria-current", "true");
      else row.removeAttribute("aria-current");
    }
  }

  /** Highlights these events. With null or an empty list, no event is highlighted. */
  tie(events) {
    this.tied = new Set(events ?? []);
    this.mark();
  }

  /** Selects an event and scrolls to it. */
  pick(event) {
    this.picked = event;
    const n = this.shown.indexOf(event);
    if (n >= 0) {
      const [top, available] = [n * this.row, this.scroll.clientHeight - 40];
      if (top < this.scroll.scrollTop) this.scroll.scrollTop = Math.max(0, top - this.row);
      else if (top + this.row > this.scroll.scrollTop + available) this.scroll.scrollTop = top + 2 * this.row - available;
    }
    this.redraw();
    this.inspect(event);
  }

  /** The event that is `by` rows after the selected one, or before it if `by` is negative. */
  next(by) {
    if (!this.shown.length) return null;
    const n = this.shown.indexOf(this.picked);
    return this.shown[n < 0 ? (by > 0 ? 0 : this.shown.length - 1) : Math.min(Math.max(n + by, 0), this.shown.length - 1)];
  }

  /** The event nearest to a moment, of those for which `fits` returns true; null if there is none. */
  near(at, fits) {
    let best = null;
    for (const each of this.all) {
      if (fits(each) && (!best || Math.abs(each.at - at) < Math.abs(best.at - at))) best = each;
    }
    return best;
  }

  inspect(each) {
    this.inspector.hidden = !each;
    this.pane.classList.toggle("chosen", Boolean(each));
    if (!each) return;
    const facts = [
      ["Happened", `${clock(each.at)} (${utc(each.at)})`],
      ["Received", each.received === null ? "not reported by an event" : `${span((each.received - each.at) / 1000)} later`, each.received === null ? null : utc(each.received)],
      ["About", about(this.model, each)], ["Id", each.subject], ["By", each.actor], ["Known by", each.provenance], ["Clock", each.clock],
      ["Position", each.provenance === "reported" ? String(each.position) : `follows from 1–${each.position}`],
      ...Object.entries(each.detail).map(([name, value]) => [spaced(name), typeof value === "object" ? JSON.stringify(value) : String(value)]),
    ];
    const list = element("dl", { class: "facts" });
    for (const [name, value, title] of facts) {
      if (value !== null && value !== undefined && value !== "") list.append(element("dt", { text: name }), element("dd", { text: value, title }));
    }
    const close = element("button", { type: "button", class: "closes", text: "×", "aria-label": "Close", title: "Close (Esc)" });
    close.addEventListener("click", () => this.on.pick(null));
    const parts = [close, element("h3", { text: spaced(each.kind) }), list];
    if (each.provenance === "reported" && this.mayRead) {
      const raw = element("button", { type: "button", text: "Raw record" });
      raw.addEventListener("click", () => this.raw(each));
      parts.splice(2, 0, element("p", { class: "pager" }, raw, element("a", { href: `/v1/records/${each.position}/body`, text: "Exact bytes" }), element("a", { href: `/log/${each.position}`, text: "In the log" })));
    }
    this.inspector.replaceChildren(...parts);
  }

  /** Fetches the record of an event and shows it in the inspector. */
  async raw(each = this.picked) {
    if (!each || each.provenance !== "reported" || !this.mayRead) return;
    this.inspector.querySelector(".raw")?.remove();
    const place = element("div", { class: "raw", "aria-live": "polite" }, element("p", { class: "faint", text: "Fetching …" }));
    this.inspector.append(place);
    try {
      const answer = await fetch(`/v1/records/${each.position}`, { headers: { accept: "application/json" } });
      const record = await answer.json();
      if (!answer.ok) throw new Error(record.detail);
      let text = record.body ?? "(no text: see the exact bytes)";
      try { text = JSON.stringify(JSON.parse(text), null, 2); } catch { /* not JSON: shown unchanged */ }
      place.replaceChildren(
        element("p", { class: "faint", text: `${record.event || "no event name"} · ${record.origin} · ${record.size_bytes.toLocaleString()} bytes · proof: ${record.proof?.scheme ?? "none"}` }),
        element("pre", { text, tabindex: "0" }));
    } catch (error) {
      place.replaceChildren(element("p", { class: "said", text: `The record could not be fetched: ${error.message}` }));
    }
  }

  /** Fills the table for print with the events that are loaded, up to PRINTED of them. */
  print() {
    const table = document.querySelector("#events-still tbody");
    if (!table || !this.model) return;
    const { shown } = this;
    this.shown = this.all.slice(0, PRINTED);
    table.replaceChildren(...this.shown.map((_, n) => this.rowOf(n)));
    if (this.all.length > PRINTED) table.append(element("tr", {}, element("td", { colspan: "8", text: `and ${this.all.length - PRINTED} more: save the events as CSV` })));
    document.querySelector("#events-still .pager")?.remove();
    this.shown = shown;
  }
}
