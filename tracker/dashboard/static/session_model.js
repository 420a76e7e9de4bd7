// Joins lanes.json and events.json: finds the bar and the lane of an event, and the names of people.

/** Turns lanes.json into lanes with their bars. Moments are µs after `begin`. */
export const read = (fetched) => {
  const { words, bars: columns } = fetched;
  const lanes = fetched.lanes.map(([kind, label, about, parent, rows, key], index) => ({
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
  for (const [lane, at, name, position] of fetched.dots) lanes[lane].dots.push({ at, name: words[name], position });
  return {
    ...fetched,
    lanes,
    byKey,
    byLane: new Map(lanes.map((lane) => [lane.key, lane])),
    marks: fetched.marks.map(([at, kind, detail, position, key]) => ({ at, kind: words[kind], detail, position, key })),
    peak: fetched.steps.reduce((most, [, count]) => Math.max(most, count), 0),
  };
};

const FAMILY = {
  participant: ["connection", "aborted"], stream: ["stream"], subscription: ["subscription"], session: ["session"],
  recording: ["recording", "processing"], supervisor_session: ["supervisor"],
};

/** Turns one row of events.json into an object. */
export const event = ([id, at, received, kind, type, subject, actor, provenance, clock, position, n, detail, keys]) => ({
  id, at, received, kind, type, subject, actor, provenance, clock, position, n, detail, keys,
});

export const inOrder = (a, b) => a.at - b.at || a.position - b.position || a.n - b.n;

/** The bar of an event: the one that starts or ends at its moment, else one that contains the moment, else the nearest. */
export const barOf = (model, entry) => {
  const family = FAMILY[entry.type] ?? ["activity"];
  const at = entry.at - model.begin;
  let best = null;
  let least = Infinity;
  for (const key of entry.keys) {
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

/** The lane of an event, even if the event has no bar. */
export const laneOf = (model, entry) => {
  const bar = barOf(model, entry);
  if (bar) return bar.lane;
  for (const key of entry.keys) if (model.byLane.has(key)) return model.byLane.get(key);
  return null;
};

const person = (model, id) => {
  if (!id) return null;
  const bar = model.byKey.get(`c:${id}`)?.[0];
  return bar?.lane.label ?? model.byLane.get(`p:${id}`)?.label ?? id;
};

/** Who or what an event is about, in words. */
export const about = (model, entry) => {
  if (entry.type === "participant") return person(model, entry.detail.connection ?? entry.subject) ?? entry.subject ?? "";
  if (entry.type === "session") return "the session";
  const lane = laneOf(model, entry);
  const owner = lane && lane.parent >= 0 ? model.lanes[lane.parent].label : person(model, entry.actor);
  if (entry.type === "stream" || entry.type === "subscription") {
    const what = lane && lane.parent >= 0 ? lane.label : entry.subject;
    return owner ? `${owner} · ${what}` : what;
  }
  if (lane?.kind === "supervisor") return lane.label;
  if (lane?.kind === "recording" && model.lanes.filter((each) => each.kind === "recording").length === 1) return lane.label;
  return [entry.subject, owner].filter(Boolean).join(" · ") || entry.type.replaceAll("_", " ");
};
