// Keeps a page fresh: it is drawn again by the server, and only what changed is put in place.
"use strict";
(() => {
  const main = document.querySelector("main");
  const kind = (main && main.dataset.live) || "";
  if (!kind) return;
  const base = document.body.dataset.chatBase || "";
  const pollMs = 5000;
  const listed = kind.startsWith("runs?");
  let busy = false, again = false;
  let missed = false; // something changed where somebody was at work
  let pressed = null; // what the pointer is down on: a click needs the same element at its end
  let aheadMs = 0; // how far this browser's clock is ahead of the server's

  // --- what may not be touched now: where somebody writes, confirms, selects or presses

  function selected(part) {
    const selection = getSelection();
    return !selection.isCollapsed && selection.rangeCount > 0 && selection.getRangeAt(0).intersectsNode(part);
  }

  const held = (part) =>
    part.matches("details.confirm[open]") || part.querySelector("details.confirm[open]") !== null ||
    (part.contains(document.activeElement) && document.activeElement.matches("input, textarea, select")) ||
    (pressed !== null && part.contains(pressed)) || selected(part);

  // Once nobody is at work there any more, what was missed is made good. Later than the event:
  // the focus has to have arrived, and a click to be done.
  const free = () => setTimeout(() => { if (missed && ![...main.children].some(held)) redraw(); });
  for (const name of ["focusout", "toggle"]) main.addEventListener(name, free, true);
  document.addEventListener("selectionchange", free);
  document.addEventListener("pointerdown", (event) => { pressed = event.target; });
  for (const name of ["pointerup", "pointercancel", "dragend"]) {
    document.addEventListener(name, () => setTimeout(() => { pressed = null; free(); }));
  }

  // --- putting in place: what is still there keeps its element, and with it focus, scroll and state

  // A row is the thing that it is of or leads to, not its place in the list.
  function keyOf(node) {
    if (node.nodeType !== Node.ELEMENT_NODE) return node.nodeName;
    const about = /^(TR|LI)$/.test(node.nodeName) ? node.querySelector("details[id], a[href]") : null;
    const name = node.id || node.getAttribute("aria-label") || (about && (about.id || about.getAttribute("href")));
    return node.nodeName + " " + (name || "");
  }

  function until(first, last) {
    const found = [];
    for (let one = first; one !== last; one = one.nextSibling) found.push(one);
    return found;
  }

  function fit(there, fresh, { top = false } = {}) {
    const wanted = new Set([...fresh.children].map(keyOf));
    const drop = (node) => { if (top && node.nodeType === Node.ELEMENT_NODE && held(node)) missed = true; else node.remove(); };
    let at = there.firstChild;
    for (const one of [...fresh.childNodes]) {
      const key = keyOf(one);
      let same = at;
      while (same && keyOf(same) !== key) same = same.nextSibling;
      const passed = same ? until(at, same) : [];
      // Never past what is still to come: nothing is moved, for that would take its focus away.
      if (!same || passed.some((node) => wanted.has(keyOf(node)))) { there.insertBefore(one, at); continue; }
      passed.forEach(drop);
      at = same.nextSibling;
      renew(same, one, top);
    }
    until(at, null).forEach(drop);
  }

  function renew(there, fresh, top) {
    if (there.isEqualNode(fresh)) return;
    if (there.nodeType !== Node.ELEMENT_NODE) { there.data = fresh.data; return; }
    if (top && held(there)) { missed = true; return; }
    for (const { name } of [...there.attributes]) {
      if (!fresh.hasAttribute(name) && name !== "open") there.removeAttribute(name);
    }
    for (const { name, value } of fresh.attributes) {
      if (there.getAttribute(name) !== value && name !== "open") there.setAttribute(name, value);
    }
    fit(there, fresh);
  }

  function put(page) {
    const fresh = page.querySelector("main");
    const focused = document.activeElement;
    main.dataset.live = fresh.dataset.live || "";
    if (fresh.dataset.rows) main.dataset.rows = fresh.dataset.rows;
    clock(fresh);
    missed = false;
    fit(main, fresh, { top: true });
    if (!focused.isConnected) main.focus({ preventScroll: true });
  }

  // --- times as they pass: nothing else may happen for long while a run waits

  function clock(fresh) { aheadMs = Date.now() - Date.parse(fresh.dataset.now); }

  function span(seconds) {
    for (const [length, unit] of [[86400, "d"], [3600, "h"], [60, "min"]]) {
      if (seconds >= length) return Math.round(seconds / length) + " " + unit;
    }
    return Math.round(seconds) + " s";
  }

  function ago(at) {
    const seconds = (Date.now() - aheadMs - Date.parse(at)) / 1000;
    if (Math.abs(seconds) < 1) return "now";
    return seconds > 0 ? span(seconds) + " ago" : "in " + span(-seconds);
  }

  function passed(at) { return span(Math.max(0, (Date.now() - aheadMs - Date.parse(at)) / 1000)); }

  function tick() {
    for (const one of main.querySelectorAll("time")) {
      const goesOn = one.classList.contains("passing");
      if ((!goesOn && !/^in | ago$|^now$/.test(one.textContent)) || selected(one)) continue;
      const said = goesOn ? passed(one.dateTime) : ago(one.dateTime);
      if (one.textContent !== said) one.textContent = said;
    }
  }

  let over = false;
  function signedOut() {
    over = true;
    const note = document.createElement("p");
    note.className = "note warn";
    note.setAttribute("role", "alert");
    note.textContent = "You are signed out, and this page is no longer kept fresh. Load it again to sign in.";
    main.prepend(note);
  }

  // Tells whether it came to be drawn, or has no need to be any more.
  async function redraw() {
    if (over) return true;
    if (busy) { again = true; return true; }
    busy = true;
    let drawn = false;
    try {
      const answer = await fetch(location.href, { headers: { accept: "text/html" }, redirect: "manual" });
      if (answer.type === "opaqueredirect") { signedOut(); return true; }
      if (answer.ok) {
        put(new DOMParser().parseFromString(await answer.text(), "text/html"));
        drawn = true;
      }
    } catch { /* the next time */ } finally { busy = false; }
    if (again) { again = false; return redraw(); }
    return drawn;
  }

  const pause = (ms) => new Promise((done) => setTimeout(done, ms));
  const shown = () => document.hidden
    ? new Promise((done) => document.addEventListener("visibilitychange", done, { once: true }))
    : Promise.resolve();

  // What is under way grows though nobody says anything new.
  async function grow() {
    while (!over && main.dataset.live) {
      await pause(pollMs); await shown();
      if (main.querySelector("time.passing")) await redraw();
    }
  }

  async function poll() {
    while (!over) { await pause(pollMs); await shown(); await redraw(); }
  }

  async function token() {
    const answer = await fetch("/admin/session/token", { redirect: "manual" });
    if (answer.type === "opaqueredirect" || answer.status === 401) signedOut();
    if (!answer.ok) throw new Error("signed out");
    return (await answer.json()).token;
  }

  // Counts come with their events; the list below is drawn again only where it is another by now,
  // and then once in a while: each time is a whole page for the gateway.
  const rareMs = 3000;
  let drawnAt = 0, later = 0;
  function soon() {
    const wait = drawnAt + rareMs - Date.now();
    if (wait > 0) { later = later || setTimeout(() => { later = 0; soon(); }, wait); return; }
    drawnAt = Date.now();
    // Nobody says again what has changed: where it could not be drawn, it is tried once more.
    redraw().then((drawn) => { if (!drawn && !over) soon(); });
  }

  function counted(data) {
    const told = JSON.parse(data);
    for (const [status, { count, more }] of Object.entries(told.counts)) {
      const there = main.querySelector(`[data-count="${status}"]`);
      const said = count.toLocaleString("en") + (more ? "+" : "");
      if (there && there.textContent !== said) there.textContent = said;
    }
    if (told.runs !== main.dataset.rows) soon();
  }

  // One stream is at most a minute long; then the next one goes on from the last id. As long as none
  // comes through, a list is polled.
  async function watch(path, changed) {
    let last = "";
    while (!over) {
      await shown();
      const leave = new AbortController();
      const hidden = () => { if (document.hidden) leave.abort(); };
      document.addEventListener("visibilitychange", hidden);
      try {
        const headers = { authorization: "Bearer " + (await token()) };
        if (last) headers["last-event-id"] = last;
        const answer = await fetch(base + path, { headers, signal: leave.signal });
        if (!answer.ok) throw new Error(String(answer.status));
        const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
        let rest = "";
        for (;;) {
          const { value, done } = await reader.read();
          if (done) break;
          rest += value;
          const frames = rest.split("\n\n");
          rest = frames.pop();
          for (const frame of frames) {
            const id = /^id: (.*)$/m.exec(frame);
            if (id) last = id[1];
            if (/^data: \[DONE\]$/m.test(frame)) { while (!(await redraw())) await pause(2000); return; }
            const data = /^data: (.*)$/m.exec(frame);
            if (id && data) await changed(data[1]);
          }
        }
      } catch {
        await pause(listed ? pollMs : 2000);
        if (listed && !document.hidden) await redraw();
      }
      document.removeEventListener("visibilitychange", hidden);
    }
  }

  clock(main);
  setInterval(tick, 1000);
  if (kind.startsWith("run:")) {
    watch("/runs/" + encodeURIComponent(kind.slice(4)) + "/events", redraw);
    grow();
  } else if (listed) watch("/runs/counts/events" + kind.slice(4), counted);
  else poll();
})();
