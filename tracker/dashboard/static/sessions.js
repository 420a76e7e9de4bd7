// The live list of sessions. After an entry of the live stream, the script requests the figures and the rows again, at most
// once a second. It replaces only the rows that have changed.
"use strict";
(() => {
  const status = document.getElementById("live-status");
  let live = document.getElementById("live");
  if (!live || !window.EventSource) return;

  const REST = 1000;
  const IDLE = 30000;
  let last = `${live.dataset.position}-999999`;
  let asking = false;
  let again = false;
  let due = 0;

  const say = (text) => {
    if (status.textContent !== text) status.textContent = text;
    status.hidden = false;
  };

  // The last HTML of each row, without the durations: tracker.js changes those every second.
  const known = new Map();
  const contentOf = (row) => row.innerHTML.replace(/(data-since="[^"]*">)[^<]*/g, "$1");

  // The figures contain only links. The link that had the focus gets it back.
  const figures = (fresh) => {
    const old = document.getElementById("now");
    const link = old.contains(document.activeElement) ? document.activeElement.getAttribute("href") : null;
    window.tracker.localised(fresh);
    old.replaceWith(fresh);
    if (link !== null) [...fresh.querySelectorAll("a")].find((each) => each.getAttribute("href") === link)?.focus();
  };

  const place = (fresh) => {
    const old = live.querySelector("tbody");
    const rows = new Map([...old.rows].map((row) => [row.dataset.id, row]));
    const focused = document.activeElement?.closest?.("tr")?.dataset.id;
    const link = document.activeElement?.getAttribute?.("href");
    const body = fresh.querySelector("tbody");
    for (const row of [...body.rows]) {
      const before = rows.get(row.dataset.id);
      if (!before) row.classList.add("arrived");
      const text = contentOf(row);
      if (before && known.get(row.dataset.id) === text) row.replaceWith(before);
      known.set(row.dataset.id, text);
    }
    window.tracker.localised(fresh);
    live.replaceWith(fresh);
    live = fresh;
    window.tracker.tick();
    if (focused !== undefined) {
      const row = [...live.querySelectorAll("tbody tr")].find((each) => each.dataset.id === focused);
      [...(row?.querySelectorAll("a") ?? [])].find((each) => each.getAttribute("href") === link)?.focus();
    }
  };

  const refresh = async () => {
    if (asking) { again = true; return; }
    asking = true;
    try {
      const address = new URL(location.href);
      address.searchParams.set("part", "live");
      const answer = await fetch(address, { credentials: "same-origin", redirect: "manual" });
      if (answer.type === "opaqueredirect" || answer.status === 401) { say("Signed out: reload this page to sign in again."); return; }
      if (answer.ok) {
        const made = new DOMParser().parseFromString(await answer.text(), "text/html");
        const [now, fresh] = [made.getElementById("now"), made.getElementById("live")];
        if (now && fresh) { figures(document.adoptNode(now)); place(document.adoptNode(fresh)); }
      }
    } catch { /* The server is not reachable. The stream reconnects when it is back, and that starts another refresh. */ } finally {
      asking = false;
      if (again) { again = false; soon(); }
    }
  };

  const soon = () => {
    if (due) return;
    due = setTimeout(() => { due = 0; if (!document.hidden) refresh(); else again = true; }, REST);
  };

  const first = () => {
    if (due) return;
    // After a quiet second, the first entry is shown at once. Entries that follow are shown together, a second later.
    due = setTimeout(() => { due = 0; refresh(); }, 60);
  };

  let calm = 0;
  const onEntry = (event) => {
    if (event.lastEventId) last = event.lastEventId;
    if (Date.now() - calm > REST) { calm = Date.now(); first(); } else soon();
  };

  const follow = () => {
    const address = new URL("/v1/live", location.origin);
    address.searchParams.set("last_event_id", last);
    const stream = new EventSource(address);
    stream.addEventListener("entry", onEntry);
    stream.onopen = () => { say("Live"); soon(); };
    stream.onerror = () => {
      say("Reconnecting…");
      // The server answered with something other than a stream, so the browser gave up. Connect again after the last entry.
      if (stream.readyState === EventSource.CLOSED) {
        window.tracker?.leaveIfSignedOut();
        setTimeout(follow, 3000);
      }
    };
    addEventListener("pagehide", () => stream.close(), { once: true });
  };

  document.addEventListener("visibilitychange", () => { if (!document.hidden) refresh(); });
  setInterval(() => { if (!document.hidden) refresh(); }, IDLE);
  follow();

  // Empty fields would only make the address longer.
  document.querySelector("form.filters")?.addEventListener("submit", (event) => {
    for (const field of event.target.elements) if (field.name && !field.value) field.disabled = true;
  });
  addEventListener("pageshow", (event) => {
    for (const field of document.querySelectorAll("form.filters [disabled]")) field.disabled = false;
    // After the browser's Back button, reset the form so that it matches the list, not the last choice.
    if (event.persisted) document.querySelector("form.filters")?.reset();
  });
})();
