// What lanes.json and events.json say, joined: which bars an event belongs to, and what people are called.

/** lanes.json → lanes with their bars (moments are µs after `begin`). */
export const read = (given) => {
  const { words, bars: columns } = given;
  const lanes = given.lanes.map(([kind, label, about, parent, rows, key], index) => ({
    index, kind: words[kind], label, about, parent, rows, key, bars: [], dots: [], children: 0,
  }));
  for (const lane of lanes) if (lane.parent >= 0) lanes[lane.parent].children += 1;
  const byKey = new Map();
  const keep = (key, bar) => {
    const those = byKey.get(key);
    if (those) those.push(bar);
    else byKey.set(key, [bar]);
  };
  for (let n = 0; n < columns.lane.length; n += 1) {
    const lane = lanes[columns.lane[n]];
    const bar = {
      lane, row: columns.row[n], start: columns.start[n], end: columns.end[n], startBy: words[columns.start_by[n]],
      endBy: words[columns.end_by[n]], phase: words[columns.phase[n]], reason: words[columns.reason[n]],
      note: words[columns.note[n]], key: columns.key[n],
    };
    lane.bars.push(bar);
    keep(bar.key, bar);
    if (lane.parent >= 0) keep(lanes[lane.parent].key, bar);
    if (bar.key !== lane.key) keep(lane.key, bar);
  }
  for (const [lane, at, name, position] of given.dots) lanes[lane].dots.push({ at, name: words[name], position });
  return {
    ...given,
    lanes,
    byKey,
    byLane: new Map(lanes.map((lane) => [lane.key, lane])),
    marks: given.marks.map(([at, kind, detail, position, key]) => ({ at, kind: words[kind], detail, position, key })),
    peak: given.steps.reduce((most, [, count]) => Math.max(most, count), 0),
  };
};

const FAMILY = {
  participant: ["connection", "aborted"], stream: ["stream"], subscription: ["subscription"], session: ["session"],
  recording: ["recording", "processing"], supervisor_session: ["supervisor"],
};

/** One row of events.json. */
export const event = ([id, at, received, kind, type, subject, actor, provenance, clock, position, n, detail, keys]) => ({
  id, at, received, kind, type, subject, actor, provenance, clock, position, n, detail, keys,
});

export const inOrder = (a, b) => a.at - b.at || a.position - b.position || a.n - b.n;

/** The bar an event belongs to: the one that begins or ends at its moment, else the one around or nearest to it. */
export const barOf = (model, told) => {
  const family = FAMILY[told.type] ?? ["activity"];
  const at = told.at - model.begin;
  let best = null;
  let least = Infinity;
  for (const key of told.keys) {
    for (const bar of model.byKey.get(key) ?? []) {
      if (!family.includes(bar.phase)) continue;
      const start = bar.start ?? bar.end ?? 0;
      const end = bar.end ?? Infinity;
      let far = Math.min(Math.abs(start - at), Math.abs(end - at));
      if (far > 999 && at >= start && at <= end) far = 1000;
      else if (far > 999) far += 1000;
      if (far < least) [best, least] = [bar, far];
    }
    if (best) return best;
  }
  return null;
};

/** The lane an event belongs to, with or without a bar. */
export const laneOf = (model, told) => {
  const bar = barOf(model, told);
  if (bar) return bar.lane;
  for (const key of told.keys) if (model.byLane.has(key)) return model.byLane.get(key);
  return null;
};

const person = (model, id) => {
  if (!id) return null;
  const bar = model.byKey.get(`c:${id}`)?.[0];
  return bar?.lane.label ?? model.byLane.get(`p:${id}`)?.label ?? id;
};

/** Who or what an event is about, in words. */
export const about = (model, told) => {
  if (told.type === "participant") return person(model, told.detail.connection ?? told.subject) ?? told.subject ?? "";
  if (told.type === "session") return "the session";
  const lane = laneOf(model, told);
  const owner = lane && lane.parent >= 0 ? model.lanes[lane.parent].label : person(model, told.actor);
  if (told.type === "stream" || told.type === "subscription") {
    const what = lane && lane.parent >= 0 ? lane.label : told.subject;
    return owner ? `${owner} · ${what}` : what;
  }
  if (lane?.kind === "supervisor") return lane.label;
  if (lane?.kind === "recording" && model.lanes.filter((each) => each.kind === "recording").length === 1) return lane.label;
  return [told.subject, owner].filter(Boolean).join(" · ") || told.type.replaceAll("_", " ");
};
