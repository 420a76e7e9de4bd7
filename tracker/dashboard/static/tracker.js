// The script of every page: shows times in the reader's time zone, with UTC on hover, and updates running durations.
"use strict";
(() => {
  const zone = Intl.DateTimeFormat().resolvedOptions().timeZone || "local time";
  const day = new Intl.DateTimeFormat(undefined, { month: "short", day: "numeric" });
  const dated = new Intl.DateTimeFormat(undefined, { year: "numeric", month: "short", day: "numeric" });
  const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });

  const localised = (root) => {
    for (const each of root.querySelectorAll("time[datetime]:not(#events-still time)")) {
      const at = new Date(each.dateTime);
      const utc = each.textContent.trim();
      if (Number.isNaN(at.getTime()) || (each.title && !/^\d\d:\d\d:\d\d\.\d{3}$/.test(utc))) continue;
      if (each.title) {
        // A time of day; its date and zone are already in the title.
        each.textContent = `${clock.format(at)}.${String(at.getMilliseconds()).padStart(3, "0")}`;
        continue;
      }
      const today = at.toDateString() === new Date().toDateString();
      each.title = /UTC$/.test(utc) ? utc : each.dateTime.replace("T", " ").replace("Z", " UTC");
      each.textContent = today && !each.dataset.full ? clock.format(at) : `${(at.getFullYear() === new Date().getFullYear() ? day : dated).format(at)} ${clock.format(at)}`;
      if (each.dataset.ms !== undefined) each.textContent += `.${String(at.getMilliseconds()).padStart(3, "0")}`;
    }
  };

  const spoken = (ms) => {
    const s = Math.max(0, Math.floor(ms / 1000));
    const [h, m] = [Math.floor(s / 3600), Math.floor((s % 3600) / 60)];
    if (h >= 48) return `${Math.floor(h / 24)} d ${h % 24} h`;
    if (h) return `${h} h ${String(m).padStart(2, "0")} min`;
    return m ? `${m} min ${String(s % 60).padStart(2, "0")} s` : `${s} s`;
  };

  // Durations follow the server's clock, not the one of this machine. `data-made` is when the server made the page.
  const made = Date.parse(document.querySelector("[data-made]")?.dataset.made ?? "") || Date.now();
  const skew = made - Date.now();
  const tick = () => {
    for (const each of document.querySelectorAll("[data-since]")) {
      const since = Date.parse(each.dataset.since);
      if (!Number.isNaN(since)) each.textContent = spoken(Date.now() + skew - since) + (each.dataset.after ?? "");
    }
  };

  for (const each of document.querySelectorAll("[data-zone]")) {
    each.textContent = zone;
    // Paper has no hover.
    each.append(Object.assign(document.createElement("span"), { className: "screen-only", textContent: " (UTC on hover)" }));
  }
  localised(document);
  tick();
  setInterval(tick, 1000);
  // On narrow screens the navigation scrolls sideways. Scroll to the current page.
  const here = document.querySelector(".top nav [aria-current]");
  const row = here?.closest("ul");
  if (row && row.scrollWidth > row.clientWidth) row.scrollLeft = here.offsetLeft + here.offsetWidth - row.offsetLeft - row.clientWidth + 40;
  // When a live stream ends, the session may have expired or was signed out elsewhere: then go to the sign-in page.
  const leaveIfSignedOut = async () => {
    const answer = await fetch(location.href, { method: "HEAD", redirect: "manual" }).catch(() => null);
    if (answer?.type === "opaqueredirect") location.reload();
  };
  window.tracker = { localised, spoken, tick, leaveIfSignedOut };
})();
