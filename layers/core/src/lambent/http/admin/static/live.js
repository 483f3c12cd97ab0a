// Keeps a page fresh: it is drawn again by the server, and only what changed is put in place.
"use strict";
(() => {
  const main = document.querySelector("main");
  const kind = (main && main.dataset.live) || "";
  if (!kind) return;
  const base = document.body.dataset.chatBase || "";
  const pollMs = 5000;
  let busy = false, again = false;

  // Not while somebody writes, chooses or confirms.
  const occupied = () =>
    main.querySelector("details.confirm[open]") !== null ||
    (main.contains(document.activeElement) && document.activeElement.matches("input, textarea, select"));

  let over = false;
  function signedOut() {
    over = true;
    const note = document.createElement("p");
    note.className = "note warn";
    note.setAttribute("role", "alert");
    note.textContent = "You are signed out, and this page is no longer kept fresh. Load it again to sign in.";
    main.prepend(note);
  }

  async function redraw() {
    if (over) return;
    if (busy) { again = true; return; }
    busy = true;
    try {
      const answer = await fetch(location.href, { headers: { accept: "text/html" }, redirect: "manual" });
      if (answer.type === "opaqueredirect") { signedOut(); return; }
      if (answer.ok && !occupied()) {
        const fresh = new DOMParser().parseFromString(await answer.text(), "text/html").querySelector("main");
        const open = new Set([...main.querySelectorAll("details[open][id]")].map((one) => one.id));
        const focused = document.activeElement && document.activeElement.closest("details[id]");
        for (const one of fresh.querySelectorAll("details[id]")) one.open = open.has(one.id);
        main.dataset.live = fresh.dataset.live || "";
        main.replaceChildren(...fresh.childNodes);
        if (focused) { const same = document.getElementById(focused.id); if (same) same.querySelector("summary").focus({ preventScroll: true }); }
      }
    } catch { /* the next time */ }
    busy = false;
    if (again) { again = false; await redraw(); }
  }

  const pause = (ms) => new Promise((done) => setTimeout(done, ms));
  const shown = () => document.hidden
    ? new Promise((done) => document.addEventListener("visibilitychange", done, { once: true }))
    : Promise.resolve();

  async function poll() {
    while (!over) { await pause(pollMs); await shown(); await redraw(); }
  }

  async function token() {
    const answer = await fetch("/admin/session/token", { redirect: "manual" });
    if (answer.type === "opaqueredirect" || answer.status === 401) signedOut();
    if (!answer.ok) throw new Error("signed out");
    return (await answer.json()).token;
  }

  // One stream is at most a minute long; then the next one goes on from the last id.
  async function watch(run) {
    let last = "";
    while (!over) {
      await shown();
      const leave = new AbortController();
      const hidden = () => { if (document.hidden) leave.abort(); };
      document.addEventListener("visibilitychange", hidden);
      try {
        const headers = { authorization: "Bearer " + (await token()) };
        if (last) headers["last-event-id"] = last;
        const answer = await fetch(base + "/runs/" + encodeURIComponent(run) + "/events", { headers, signal: leave.signal });
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
            if (/^data: \[DONE\]$/m.test(frame)) { await redraw(); return; }
            if (id) await redraw();
          }
        }
      } catch { await pause(2000); }
      document.removeEventListener("visibilitychange", hidden);
    }
  }

  if (kind.startsWith("run:")) watch(kind.slice(4)); else poll();
})();
