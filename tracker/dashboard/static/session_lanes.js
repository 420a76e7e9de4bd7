// The interactive swim lanes: zoom, pan, fold, hover and click. The canvas is as large as the visible part of the lanes.
import { draw, headOf, laneHeight, palette, placeOf } from "./session_draw.js";
import { clock, element, spaced, span, utc } from "./session_words.js";

const NEAREST = 50_000; // µs on the whole axis at the highest zoom
const MANY = 160; // with more lanes than this, people are folded at first

export class LanesView {
  /** `on`: { hover(bar | null), pick(bar, at), mark(mark) } */
  constructor(host, tools, on) {
    this.on = on;
    this.model = null;
    this.folded = new Set();
    this.shows = { stream: true, subscription: false };
    this.from = 0;
    this.to = 1;
    this.fits = true;
    this.picked = this.tied = null;
    this.pickedAt = this.tiedAt = null;
    this.until = 0;
    this.canvas = element("canvas", { "aria-hidden": "true" });
    this.space = element("div");
    this.scroll = element("div", { class: "lanes-scroll" }, this.canvas, this.space);
    this.tip = element("div", { class: "lanes-tip", hidden: true });
    this.view = element("div", {
      class: "lanes-view", tabindex: "0", role: "application", "aria-label": "Timeline of the call",
      "aria-describedby": "lanes-keys",
    }, this.scroll, this.tip);
    this.keys = element("p", { class: "keys", id: "lanes-keys" });
    for (const [key, what] of [["j", ""], ["k", "next and previous event"], ["←", ""], ["→", "move"], ["+", ""], ["−", "zoom"], ["0", "fit"], ["Enter", "raw record"]]) {
      this.keys.append(element("kbd", { text: key }), what ? ` ${what}  ` : " ");
    }
    this.note = element("p", { class: "lanes-note", hidden: true });
    host.append(this.view, this.keys, this.note);
    this.makeTools(tools);
    this.colours = palette(this.view);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { this.colours = palette(this.view); this.redraw(); });
    new ResizeObserver(() => this.resized()).observe(this.view);
    this.scroll.addEventListener("scroll", () => this.redraw(), { passive: true });
    this.listen();
  }

  makeTools(tools) {
    const button = (text, label, act) => {
      const made = element("button", { type: "button", text, "aria-label": label, title: label });
      made.addEventListener("click", act);
      return made;
    };
    const toggle = (text, kind) => {
      const box = element("input", { type: "checkbox" });
      box.checked = this.shows[kind];
      box.addEventListener("change", () => { this.shows[kind] = box.checked; this.folded.clear(); this.lay(); });
      this[`${kind}Box`] = box;
      return element("label", {}, box, text);
    };
    tools.append(
      toggle("Published", "stream"), toggle("Received", "subscription"),
      button("−", "Zoom out", () => this.zoom(1.6)), button("+", "Zoom in", () => this.zoom(1 / 1.6)), button("Fit", "Fit the whole call", () => this.fit()),
    );
  }

  /** Shows a model. The first one decides what is folded. */
  take(model) {
    const first = this.model === null;
    this.model = model;
    this.until = model.until;
    this.head = headOf(model);
    if (first) {
      const count = (kind) => model.lanes.filter((lane) => lane.kind === kind).length;
      this.shows.subscription = count("subscription") > 0 && model.lanes.length <= 40;
      this.shows.stream = model.lanes.length - count("subscription") <= MANY;
      this.streamBox.checked = this.shows.stream;
      this.subscriptionBox.checked = this.shows.subscription;
    }
    this.picked = this.tied = null;
    const bars = model.lanes.flatMap((lane) => lane.bars);
    const running = bars.filter((bar) => bar.end === null).length;
    Object.assign(this.view.dataset, { bars: bars.length, running });
    this.view.setAttribute("aria-label", `Timeline of the call: ${model.lanes.length} lanes, ${bars.length} bars, ${running} still running`);
    const cut = Object.entries(model.left_out).map(([what, count]) => `${count.toLocaleString()} ${what}`);
    this.note.hidden = !cut.length;
    this.note.textContent = `Only the first ${cut.join(", ")} are drawn; the files have everything.`;
    this.lay();
    if (this.fits) this.fit(false);
  }

  /** Moves the end of the axis while the session is open. `until`: µs after begin. */
  tick(until) {
    if (!this.model?.goes_on || until <= this.until) return;
    this.until = until;
    if (this.fits) this.fit();
    else this.redraw();
  }

  /** Computes which lanes are shown, and where. */
  lay() {
    const rows = [];
    let y = 0;
    for (const lane of this.model.lanes) {
      if (lane.parent >= 0) {
        const opened = this.folded.has(this.model.lanes[lane.parent].key);
        if (opened === this.shows[lane.kind]) continue;
      }
      const folded = lane.children > 0 && !(this.shows.stream || this.shows.subscription) !== this.folded.has(lane.key);
      const height = laneHeight(lane);
      rows.push({ lane, y, height, folded });
      y += height;
    }
    this.rows = rows;
    this.rowOf = new Map(rows.map((row) => [row.lane.index, row]));
    this.tall = y;
    this.resized();
  }

  resized() {
    if (!this.model || !this.view.clientWidth) return;
    const most = Math.max(220, Math.round(innerHeight * 0.58));
    const height = Math.min(this.head + this.tall + 6, most);
    this.scroll.style.height = `${height}px`;
    const width = this.scroll.clientWidth;
    const ratio = Math.min(devicePixelRatio || 1, 2);
    if (this.canvas.width !== Math.round(width * ratio) || this.canvas.height !== Math.round(height * ratio)) {
      this.canvas.width = Math.round(width * ratio);
      this.canvas.height = Math.round(height * ratio);
      this.canvas.style.width = `${width}px`;
      this.canvas.style.height = `${height}px`;
    }
    Object.assign(this, { width, height, ratio, gutter: width < 600 ? 104 : 210 });
    this.space.style.height = `${Math.max(0, this.head + this.tall + 6 - height)}px`;
    this.redraw();
  }

  redraw() {
    if (this.waits) return;
    this.waits = requestAnimationFrame(() => {
      this.waits = 0;
      if (!this.model || !this.width) return;
      const g = this.canvas.getContext("2d");
      g.setTransform(this.ratio, 0, 0, this.ratio, 0, 0);
      draw(g, this, this.width, this.height);
    });
  }

  get scrolled() { return this.scroll.scrollTop; }
  get plot() { return Math.max(40, this.width - this.gutter - 18); }
  get perUs() { return this.plot / (this.to - this.from); }
  x(at) { return this.gutter + (at - this.from) * this.perUs; }
  at(x) { return this.from + (x - this.gutter) / this.perUs; }

  /** The left and right edges of a bar, in CSS pixels. */
  spanOf(bar) {
    const right = this.x(bar.end ?? this.until);
    const left = bar.start === null ? right - 16 : this.x(bar.start);
    return [left, Math.max(left + 2, right)];
  }

  fit(redraw = true) {
    this.fits = true;
    this.from = 0;
    this.to = Math.max(this.until, 1_000_000);
    if (redraw) this.redraw();
  }

  /** Zooms by `factor` around `x` (CSS pixels). Without `x`: around the selected moment if it is visible, else the middle. */
  zoom(factor, x) {
    const inView = this.pickedAt !== null && this.pickedAt > this.from && this.pickedAt < this.to;
    const centre = x !== undefined ? this.at(Math.max(x, this.gutter)) : inView ? this.pickedAt : (this.from + this.to) / 2;
    const whole = Math.max(this.model.latest, this.until);
    const wide = Math.min(Math.max((this.to - this.from) * factor, NEAREST), Math.max(whole * 1.2, 1_000_000));
    const share = (centre - this.from) / (this.to - this.from);
    this.look(centre - share * wide, wide);
  }

  pan(share) { this.look(this.from + (this.to - this.from) * share, this.to - this.from); }

  look(from, wide) {
    const whole = Math.max(this.model.latest, this.until);
    const slack = wide * 0.5;
    this.from = Math.min(Math.max(from, -slack), Math.max(whole - wide + slack, -slack));
    this.to = this.from + wide;
    this.fits = false;
    this.redraw();
  }

  /** Highlights a moment and its bar without selecting them. */
  tie(bar, at) {
    if (this.tied === bar && this.tiedAt === at) return;
    Object.assign(this, { tied: bar, tiedAt: at });
    this.redraw();
  }

  /** Selects a moment and its bar, and scrolls to them. */
  pick(bar, lane, at) {
    Object.assign(this, { picked: bar, pickedAt: at });
    if (at !== null && (at < this.from || at > this.to)) this.look(at - (this.to - this.from) / 2, this.to - this.from);
    const shown = lane && (this.rowOf.get(lane.index) ?? (lane.parent >= 0 ? this.rowOf.get(lane.parent) : null));
    if (shown) {
      const available = this.height - this.head;
      if (shown.y < this.scrolled) this.scroll.scrollTop = shown.y - 20;
      else if (shown.y + shown.height > this.scrolled + available) this.scroll.scrollTop = shown.y + shown.height - available + 20;
    }
    this.redraw();
  }

  rowAt(y) {
    const inside = y - this.head + this.scrolled;
    let low = 0;
    for (let high = this.rows.length; low < high; ) {
      const middle = (low + high) >> 1;
      if (this.rows[middle].y + this.rows[middle].height <= inside) low = middle + 1;
      else high = middle;
    }
    return y < this.head ? null : this.rows[low] ?? null;
  }

  /** What is at a point: { row, bar, dot, mark }. */
  under(x, y) {
    const row = this.rowAt(y);
    if (!row) {
      const mark = y > this.head - 20 && y < this.head ? this.model.marks.find((each) => Math.abs(this.x(each.at) - x) < 7) : undefined;
      return { row: null, bar: null, mark };
    }
    const dot = row.lane.dots.find((each) => Math.abs(this.x(each.at) - x) < 6);
    let found = null;
    let least = 5;
    const top = this.head + row.y - this.scrolled;
    for (const bar of row.lane.bars) {
      const [left, right] = this.spanOf(bar);
      const far = x < left ? left - x : x > right + (bar.end === null ? 9 : 0) ? x - right : 0;
      const [offset, thick] = placeOf(bar);
      const away = row.lane.rows > 1 && Math.abs(y - top - offset - thick / 2) > thick ? 4 : 0;
      if (far + away < least) [found, least] = [bar, far + away];
    }
    return { row, bar: x < this.gutter ? null : found, dot };
  }

  listen() {
    const { canvas } = this;
    const fingers = new Map();
    let moved = 0;
    const point = (e) => { const box = canvas.getBoundingClientRect(); return [e.clientX - box.left, e.clientY - box.top]; };
    canvas.addEventListener("wheel", (e) => {
      if (e.ctrlKey || e.metaKey) { e.preventDefault(); this.zoom(Math.exp(e.deltaY / 240), point(e)[0]); }
      else if (Math.abs(e.deltaX) > Math.abs(e.deltaY) || e.shiftKey) { e.preventDefault(); this.pan((e.deltaX || e.deltaY) / this.plot); }
    }, { passive: false });
    canvas.addEventListener("pointerdown", (e) => { fingers.set(e.pointerId, point(e)); moved = 0; if (e.pointerType !== "touch") canvas.setPointerCapture(e.pointerId); });
    canvas.addEventListener("pointermove", (e) => {
      const now = point(e);
      const before = fingers.get(e.pointerId);
      if (!before) return this.hovered(...now);
      if (fingers.size === 2) {
        const other = [...fingers].find(([id]) => id !== e.pointerId)[1];
        const [was, is] = [Math.abs(before[0] - other[0]), Math.abs(now[0] - other[0])];
        if (was > 10 && is > 10) this.zoom(was / is, (now[0] + other[0]) / 2);
      } else if (before[0] >= this.gutter || moved) {
        this.pan((before[0] - now[0]) / this.plot);
        if (moved > 4) canvas.classList.add("dragged");
      }
      moved += Math.abs(now[0] - before[0]);
      fingers.set(e.pointerId, now);
      return undefined;
    });
    const lifted = (e) => { fingers.delete(e.pointerId); canvas.classList.remove("dragged"); };
    canvas.addEventListener("pointerup", (e) => { if (fingers.has(e.pointerId) && moved < 5) this.clicked(...point(e)); lifted(e); });
    canvas.addEventListener("pointercancel", lifted);
    canvas.addEventListener("pointerleave", () => { this.tip.hidden = true; this.on.hover(null); });
    canvas.addEventListener("dblclick", (e) => this.zoom(0.5, point(e)[0]));
  }

  hovered(x, y) {
    const { row, bar, dot, mark } = this.under(x, y);
    this.canvas.classList.toggle("over", Boolean(bar || mark || (x < this.gutter && row?.lane.children)));
    this.on.hover(bar);
    const words = mark ? [spaced(mark.kind), mark.detail] : dot ? [`${row.lane.label}: ${spaced(dot.name)}`, this.moment(dot.at)]
      : bar ? this.describe(bar) : row && x < this.gutter ? [row.lane.label, row.lane.about ?? ""] : y < this.head && x > this.gutter ? this.present(x) : null;
    this.tip.hidden = !words;
    if (!words) return;
    this.tip.replaceChildren(element("strong", { text: words[0] }), ...words.slice(1).filter(Boolean).map((text) => element("span", { text: `${text} ` })));
    const box = this.tip.getBoundingClientRect();
    this.tip.style.left = `${Math.max(4, Math.min(x + 14, this.width - box.width - 6))}px`;
    this.tip.style.top = `${Math.max(4, y + 18 + box.height > this.height ? y - box.height - 10 : y + 18)}px`;
  }

  clicked(x, y) {
    const { row, bar, mark } = this.under(x, y);
    if (row && x < this.gutter && row.lane.children) {
      const { key } = row.lane;
      if (!this.folded.delete(key)) this.folded.add(key);
      this.lay();
    } else if (bar) {
      const at = this.at(x);
      const nearEnd = bar.end !== null && (bar.start === null || Math.abs(bar.end - at) < Math.abs(at - bar.start));
      this.on.pick(bar, this.model.begin + (nearEnd ? bar.end : bar.start ?? bar.end));
    } else if (mark) this.on.mark(mark);
  }

  moment(at) { const us = this.model.begin + at; return `${clock(us)} · ${utc(us)}`; }

  present(x) {
    const at = this.at(x);
    let count = 0;
    for (const [since, present] of this.model.steps) { if (since > at) break; count = present; }
    return at >= 0 && at <= this.until ? [`${count} ${count === 1 ? "person" : "people"} present`, this.moment(at)] : null;
  }

  /** Describes a bar in two lines: who or what it is; then its phase, start and end, how each is known, and the reason. */
  describe(bar) {
    const { model } = this;
    const owner = bar.lane.parent >= 0 ? `${model.lanes[bar.lane.parent].label} · ` : "";
    const end = (at, by, missing) => (at === null ? missing : `${clock(model.begin + at)}${by === "reported" ? "" : ` (${by})`}`);
    const long = bar.start !== null && bar.end !== null ? `, ${span((bar.end - bar.start) / 1000)}` : "";
    const why = bar.reason ? ` ${spaced(bar.reason)}${bar.note && bar.note !== bar.reason ? ` (${bar.note})` : ""}` : bar.note ? ` ${spaced(bar.note)}` : "";
    return [`${owner}${bar.lane.label}`, `${spaced(bar.phase)} ${end(bar.start, bar.startBy, "start unknown")} – ${end(bar.end, bar.endBy, "still running")}${long}${why ? ` ·${why}` : ""}`];
  }
}
