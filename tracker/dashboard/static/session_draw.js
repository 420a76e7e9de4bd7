// Draws one frame of the swim lanes on a canvas: only what is visible. Mouse and keyboard are in session_lanes.js.
import { clock, day } from "./session_words.js";

const CHART = 54;
/** The height of what is above the lanes: the chart, the clock times and, if there are any, the notices. */
export const headOf = (model) => (model.marks.length ? 98 : 78);
const UNSURE = 56;
const TICKS = [1e4, 1e5, 2e5, 5e5, 1e6, 2e6, 5e6, 1e7, 1.5e7, 3e7, 6e7, 1.2e8, 3e8, 6e8, 9e8, 1.8e9, 3.6e9, 7.2e9, 1.44e10, 2.16e10, 4.32e10, 8.64e10, 1.728e11, 6.048e11];
const PHASES = {
  session: "session", connection: "person", aborted: "person", stream: "stream", subscription: "received",
  recording: "recording", processing: "processing", supervisor: "supervisor", activity: "activity",
};

/** The current colours of the page, and patterns made of them. */
export const palette = (host) => {
  const style = getComputedStyle(host);
  const of = (name) => style.getPropertyValue(name).trim();
  const colours = Object.fromEntries(
    ["session", "person", "stream", "received", "recording", "processing", "supervisor", "activity", "gap", "band", "grid", "steps", "now", "mark", "pick"].map((name) => [name, of(`--lane-${name}`)]),
  );
  Object.assign(colours, { ink: of("--ink"), faint: of("--faint"), paper: of("--paper"), line: of("--line"), strong: of("--strong-line"), hover: of("--row-hover") });
  const pattern = (paint) => {
    const tile = document.createElement("canvas");
    tile.width = tile.height = 12;
    const g = tile.getContext("2d");
    g.scale(2, 2);
    g.strokeStyle = colours.gap;
    paint(g);
    const made = g.createPattern(tile, "repeat");
    made.setTransform(new DOMMatrix().scale(0.5));
    return made;
  };
  const stroke = (g, width, ...points) => {
    g.lineWidth = width;
    g.beginPath();
    for (const [x1, y1, x2, y2] of points) { g.moveTo(x1, y1); g.lineTo(x2, y2); }
    g.stroke();
  };
  const up = [[-1, 7, 7, -1], [-4, 4, 4, -4], [2, 10, 10, 2]];
  const down = [[-1, -1, 7, 7], [-4, 2, 4, 10], [2, -4, 10, 4]];
  colours.derived = pattern((g) => stroke(g, 2, ...up));
  colours.inferred = pattern((g) => { stroke(g, 2, ...up); stroke(g, 1.6, ...down); });
  return { ...colours, font: style.fontFamily };
};

const thickness = { participant: 11, session: 8, recording: 10 };
export const rowHeight = (lane) => (lane.kind === "participant" ? 13 : 9);
export const laneHeight = (lane) => (lane.parent >= 0 ? 17 : 26) + (lane.rows - 1) * rowHeight(lane);

/** The vertical place of a bar in its lane: [offset, thickness]. */
export const placeOf = (bar) => {
  const { lane } = bar;
  const most = thickness[lane.kind] ?? 8;
  const thick = lane.rows > 1 ? Math.min(most, rowHeight(lane) - 2) : most;
  return [((lane.parent >= 0 ? 17 : 26) - thick) / 2 + bar.row * rowHeight(lane), thick];
};

/** Draws `scene` (a LanesView of session_lanes.js) into `g`, which is `width` × `height` CSS pixels. */
export const draw = (g, scene, width, height) => {
  const { colours } = scene;
  g.clearRect(0, 0, width, height);
  g.fillStyle = colours.paper;
  g.fillRect(0, 0, width, height);
  drawLanes(g, scene, width, height);
  g.fillStyle = colours.paper;
  g.fillRect(0, 0, width, scene.head);
  drawGrid(g, scene, width, 0, scene.head);
  drawHead(g, scene, width);
  drawCursor(g, scene, width, height);
};

const distance = (scene) => TICKS.find((each) => each * scene.perUs >= 84) ?? TICKS.at(-1);

const moments = function* (scene, step) {
  const { model, from, to } = scene;
  const zone = new Date((model.begin + from) / 1000).getTimezoneOffset() * 6e7;
  let at = Math.ceil((model.begin + from - zone) / step) * step + zone - model.begin;
  for (; at <= to; at += step) yield at;
};

const drawGrid = (g, scene, width, top, bottom) => {
  g.fillStyle = scene.colours.grid;
  for (const at of moments(scene, distance(scene))) g.fillRect(Math.round(scene.x(at)), top, 1, bottom - top);
};

const drawHead = (g, scene, width) => {
  const { model, colours, gutter, from, to, head } = scene;
  const floor = CHART;
  const available = CHART - 10;
  g.font = `12px ${colours.font}`;
  g.textBaseline = "alphabetic";
  g.fillStyle = colours.ink;
  g.fillText("People present", 10, 20);
  g.fillStyle = colours.faint;
  g.fillText(`at most ${model.peak}`, 10, 36);
  g.save();
  g.beginPath();
  g.rect(gutter, 0, width - gutter, head);
  g.clip();
  if (model.peak) {
    const steps = model.steps;
    let first = 0;
    for (let low = 0, high = steps.length - 1; low <= high; ) {
      const middle = (low + high) >> 1;
      if (steps[middle][0] <= from) { first = middle; low = middle + 1; } else high = middle - 1;
    }
    const y = (count) => floor - (available * count) / model.peak;
    g.beginPath();
    g.moveTo(gutter, floor);
    let level = steps.length && steps[first][0] <= from ? steps[first][1] : 0;
    g.lineTo(gutter, y(level));
    for (let n = level || steps[first]?.[0] <= from ? first + 1 : first; n < steps.length && steps[n][0] <= to; n += 1) {
      const x = scene.x(steps[n][0]);
      g.lineTo(x, y(level));
      level = steps[n][1];
      g.lineTo(x, y(level));
    }
    const end = Math.min(scene.x(scene.until), width + 2);
    g.lineTo(end, y(level));
    g.lineTo(end, floor);
    g.closePath();
    g.fillStyle = colours.steps;
    g.fill();
    g.strokeStyle = colours.person;
    g.lineWidth = 1;
    g.stroke();
  }
  g.fillStyle = colours.strong;
  g.fillRect(gutter, floor, width - gutter, 1);
  const step = distance(scene);
  g.fillStyle = colours.faint;
  g.font = `11px ${colours.font}`;
  for (const at of moments(scene, step)) {
    const us = model.begin + at;
    const text = clock(us, step < 1e6);
    const label = step >= 8.64e10 ? day(us) : step >= 6e7 ? text.slice(0, 5) : text;
    g.fillText(label, scene.x(at) + 4, floor + 15);
  }
  g.fillStyle = colours.mark;
  for (const mark of model.marks) {
    if (mark.at < from || mark.at > to) continue;
    const x = scene.x(mark.at);
    g.beginPath();
    g.moveTo(x - 5, head - 6);
    g.lineTo(x, head - 16);
    g.lineTo(x + 5, head - 6);
    g.fill();
  }
  g.restore();
  g.fillStyle = colours.faint;
  g.font = `11px ${colours.font}`;
  g.fillText(day(model.begin + Math.max(from, 0)), 10, floor + 15);
  if (model.marks.length) g.fillText(`Notices (${model.marks.length})`, 10, head - 8);
  g.fillStyle = colours.line;
  g.fillRect(0, head - 1, width, 1);
};

const drawLanes = (g, scene, width, height) => {
  const { colours, gutter, rows, scrolled, head } = scene;
  let low = 0;
  for (let high = rows.length; low < high; ) {
    const middle = (low + high) >> 1;
    if (rows[middle].y + rows[middle].height < scrolled) low = middle + 1;
    else high = middle;
  }
  const shown = [];
  for (let n = low; n < rows.length && rows[n].y < scrolled + height - head; n += 1) shown.push(rows[n]);
  for (const { lane, y, height: tall } of shown) {
    const top = head + y - scrolled;
    if (scene.tied?.lane === lane || scene.picked?.lane === lane) {
      g.fillStyle = colours.hover;
      g.fillRect(0, top, width, tall);
    } else if (lane.parent >= 0) {
      g.fillStyle = colours.band;
      g.fillRect(0, top, width, tall);
    }
  }
  drawGrid(g, scene, width, head, height);
  g.save();
  g.beginPath();
  g.rect(gutter, head, width - gutter, height);
  g.clip();
  for (const { lane, y } of shown) drawBars(g, scene, lane, head + y - scrolled);
  if (scene.model.goes_on) {
    g.fillStyle = colours.now;
    const x = scene.x(scene.until);
    for (let y = head; y < height; y += 6) g.fillRect(x, y, 1, 3);
  }
  g.restore();
  for (const row of shown) drawLabel(g, scene, row, head + row.y - scrolled, width);
};

const drawLabel = (g, scene, { lane, height: tall, folded }, top, width) => {
  const { colours, gutter } = scene;
  const minor = lane.parent >= 0;
  if (!minor) {
    g.fillStyle = colours.line;
    g.fillRect(0, top, width, 1);
  }
  g.textBaseline = "middle";
  g.fillStyle = minor ? colours.faint : colours.ink;
  g.font = `${minor ? 11 : 13}px ${colours.font}`;
  const middle = top + (minor ? 9 : 14);
  let left = minor ? 26 : 10;
  if (lane.children) {
    g.beginPath();
    if (folded) { g.moveTo(10, middle - 4); g.lineTo(15, middle); g.lineTo(10, middle + 4); }
    else { g.moveTo(8.5, middle - 2.5); g.lineTo(16.5, middle - 2.5); g.lineTo(12.5, middle + 2.5); }
    g.fill();
    left = 22;
  }
  g.fillText(fitted(g, lane.label, gutter - left - 8), left, middle);
};

const fitted = (g, text, available) => {
  if (text.length * 8 < available || g.measureText(text).width <= available) return text;
  let low = 0;
  for (let high = Math.min(text.length, 80); low < high; ) {
    const middle = (low + high + 1) >> 1;
    if (g.measureText(`${text.slice(0, middle)}…`).width <= available) low = middle;
    else high = middle - 1;
  }
  return `${text.slice(0, low)}…`;
};

const drawBars = (g, scene, lane, top) => {
  const { from, to } = scene;
  let last = -1;
  let lastRow = -1;
  for (const bar of lane.bars) {
    const start = bar.start ?? bar.end;
    if (start === null || start > to || (bar.end !== null && bar.end < from && bar.start !== null)) continue;
    const [x1, x2] = scene.spanOf(bar);
    if (x2 - x1 <= 2 && Math.floor(x1) === last && bar.row === lastRow && bar !== scene.picked && bar !== scene.tied) continue;
    last = Math.floor(x1);
    lastRow = bar.row;
    drawBar(g, scene, bar, x1, x2, top);
  }
  for (const dot of lane.dots) {
    if (dot.at < from || dot.at > to) continue;
    const [x, y] = [scene.x(dot.at), top + 13];
    g.beginPath();
    g.moveTo(x, y - 5.5); g.lineTo(x + 4.5, y); g.lineTo(x, y + 5.5); g.lineTo(x - 4.5, y);
    g.closePath();
    g.fillStyle = scene.colours.paper;
    g.fill();
    g.lineWidth = 2;
    g.strokeStyle = scene.colours.recording;
    g.stroke();
  }
};

const drawBar = (g, scene, bar, x1, x2, top) => {
  const { colours } = scene;
  const colour = colours[PHASES[bar.phase] ?? "activity"];
  const [offset, thick] = placeOf(bar);
  const y = top + offset;
  const left = Math.max(x1, scene.gutter - 60);
  const right = Math.min(x2, scene.width + 60);
  const wide = Math.max(2, right - left);
  const isBold = bar === scene.picked || bar === scene.tied;
  if (bar.phase !== "aborted") {
    g.fillStyle = colour;
    g.fillRect(left, y, wide, thick);
  }
  const unsureLeft = bar.start === null ? "inferred" : bar.startBy === "derived" || bar.startBy === "inferred" ? bar.startBy : null;
  const unsureRight = bar.endBy === "derived" || bar.endBy === "inferred" ? bar.endBy : null;
  const whole = Math.max(2, x2 - x1);
  const zone = Math.min(UNSURE, unsureLeft && unsureRight ? whole / 2 : whole);
  const hatch = (kind, from, to) => {
    const [a, b] = [Math.max(from, left), Math.min(to, left + wide)];
    if (b <= a) return;
    g.fillStyle = colours[kind];
    g.fillRect(a, y, b - a, thick);
  };
  if (unsureLeft) hatch(unsureLeft, x1, x1 + zone);
  if (unsureRight) hatch(unsureRight, x1 + whole - zone, x1 + whole);
  if (wide > 3) {
    g.strokeStyle = colour;
    g.lineWidth = 1;
    g.setLineDash(bar.phase === "aborted" || bar.phase === "processing" ? [2, 2] : []);
    g.strokeRect(left + 0.5, y + 0.5, wide - 1, thick - 1);
    g.setLineDash([]);
  }
  if (bar.end === null) {
    g.fillStyle = colour;
    g.beginPath();
    g.moveTo(x2, y - 2.5); g.lineTo(x2 + 8, y + thick / 2); g.lineTo(x2, y + thick + 2.5);
    g.fill();
  }
  if (isBold) {
    g.strokeStyle = colours.pick;
    g.lineWidth = 2;
    g.strokeRect(left - 1.5, y - 1.5, wide + 3, thick + 3);
  }
};

const drawCursor = (g, scene, width, height) => {
  for (const [at, dash] of [[scene.pickedAt, []], [scene.tiedAt, [4, 3]]]) {
    if (at === null || at < scene.from || at > scene.to) continue;
    g.strokeStyle = scene.colours.pick;
    g.lineWidth = 1;
    g.setLineDash(dash);
    g.beginPath();
    const x = Math.round(scene.x(at)) + 0.5;
    g.moveTo(x, 4);
    g.lineTo(x, height);
    g.stroke();
    g.setLineDash([]);
  }
};
