// Writes instants as the viewer's own clock shows them, beside what the server wrote.
"use strict";
(() => {
  const clock = new Intl.DateTimeFormat("en-GB", {
    weekday: "short", day: "numeric", month: "short", year: "numeric",
    hour: "2-digit", minute: "2-digit", second: "2-digit",
  });
  const { timeZone } = clock.resolvedOptions();
  for (const one of document.querySelectorAll("[data-zone]")) one.textContent = "Your time, " + timeZone;
  for (const one of document.querySelectorAll("time[data-local]")) {
    const parts = Object.fromEntries(clock.formatToParts(new Date(one.dateTime)).map((part) => [part.type, part.value]));
    // Three letters, as the server writes it: "Sept" is British.
    one.textContent = `${parts.weekday}, ${parts.day} ${parts.month.slice(0, 3)} ${parts.year}, ${parts.hour}:${parts.minute}:${parts.second}`;
  }
})();
