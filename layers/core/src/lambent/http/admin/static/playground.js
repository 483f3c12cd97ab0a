// A chat over the chat function's stream. Model text only ever becomes text, never markup.
"use strict";
(() => {
  const $ = (id) => document.getElementById(id);
  const chat = $("chat");
  if (!chat) return;
  const base = document.body.dataset.chatBase || "";
  const log = $("log"), text = $("text"), state = $("state");
  // A stream outlives its page by this, unless the page says that it leaves. A hidden page's
  // timers may run once a minute only. A durable agent's turn needs no page: it has no lease.
  const leaseS = 90, renewMs = 30000;
  const tries = 8;
  let conversation = chat.dataset.conversation;
  let live = null; // the turn that is under way
  let durable = Promise.resolve(new Set()); // the agents that are, once they are known
  let token = "", tokenUntil = 0, renewing = null;

  const pause = (ms) => new Promise((done) => setTimeout(done, ms));
  const shown = () => document.hidden
    ? new Promise((done) => document.addEventListener("visibilitychange", done, { once: true }))
    : Promise.resolve();

  // --- requests: with a token of five minutes; one that is refused is replaced once

  // Several requests at once share one token.
  function renewToken() {
    renewing ||= newToken().finally(() => { renewing = null; });
    return renewing;
  }

  async function newToken() {
    const answer = await fetch("/admin/session/token", { redirect: "error" });
    if (!answer.ok) throw new Error("You are signed out. Load the page again.");
    const said = await answer.json();
    token = said.token;
    tokenUntil = Date.now() + (said.expires_in_s - 30) * 1000;
  }

  async function ask(method, url, { headers = {}, json, signal } = {}) {
    if (json !== undefined) headers = { ...headers, "content-type": "application/json" };
    const send = async () => fetch(url, {
      method, signal, headers: { ...headers, authorization: "Bearer " + token },
      body: json === undefined ? undefined : JSON.stringify(json),
    });
    if (Date.now() > tokenUntil) await renewToken();
    const answer = await send();
    if (answer.status !== 401) return answer;
    await renewToken();
    return send();
  }

  const streamUrl = (turn, more = "") => base + "/chat/streams/" + encodeURIComponent(turn.kept.stream) + more;

  // --- what a turn shows: parts in their order, each with its element

  const { element, textOf, toolsOf, viewsWith } = turnParts;
  const views = viewsWith((part, turn) => decision(part, turn));

  class Turn {
    // `kept` is what a reload needs: the question, the stream and what it has told so far.
    constructor(kept, box = null) {
      this.kept = kept;
      this.made = new Map();
      this.box = box || element("div", "turn assistant");
      if (!box) {
        log.append(element("div", "turn user", kept.body.input), this.box);
        this.box.prepend(element("span", "hidden", "Answer: "));
      }
      kept.parts.forEach((part) => this.draw(part));
    }

    get text() { return textOf(this.kept); }

    add(part) {
      const last = this.kept.parts.at(-1);
      if (last && last.kind === part.kind && (part.kind === "text" || part.kind === "thinking")) {
        last.text += part.text;
        part = last;
      } else this.kept.parts.push(part);
      this.draw(part);
    }

    tool(data, change) {
      const parts = this.kept.parts;
      let part = parts.find((one) => one.kind === "tool" && one.id === data.id);
      if (!part) parts.push(part = { kind: "tool", id: data.id, name: data.name, arguments: data.arguments });
      Object.assign(part, change);
      this.draw(part);
    }

    draw(part) {
      const near = log.scrollHeight - log.scrollTop - log.clientHeight < 80;
      const there = this.made.get(part);
      if (there && there.update) there.update();
      else {
        const fresh = views[part.kind](part, this);
        if (there) there.box.replaceWith(fresh.box); else this.box.append(fresh.box);
        this.made.set(part, fresh);
      }
      if (near) log.scrollTop = log.scrollHeight;
    }

    // Nothing more comes: a call without a result has none. One that a person decides on may get
    // it, unless the turn was stopped.
    close() {
      for (const part of this.kept.parts) {
        if (part.kind !== "tool" || part.result !== undefined) continue;
        if (this.kept.stopped || !part.waiting) this.tool(part, { waiting: "", over: true });
      }
    }

    note(said, bad = false) { this.add({ kind: "note", text: said, bad }); }
  }

  // A person's decision goes to the pages' own form: a page's token may not decide.
  function decision(part, turn) {
    const form = element("form", "decision");
    const note = element("input");
    note.maxLength = 1000; note.placeholder = "A word to the agent";
    const label = element("label");
    label.append(element("span", "hidden", "A word to the agent about " + part.name), note);
    const problem = element("span", "meta bad");
    problem.setAttribute("role", "alert");
    const button = (name, kind, told) => {
      const one = element("button", kind, name);
      one.type = "button";
      one.addEventListener("click", async () => {
        form.querySelectorAll("button").forEach((each) => { each.disabled = true; });
        const refused = await post("call-decide", { run: part.waiting, call: part.id, decision: name.toLowerCase(), note: note.value });
        if (!refused || /decided/.test(refused)) turn.tool(part, { waiting: "", decided: told });
        else { problem.textContent = refused; form.querySelectorAll("button").forEach((each) => { each.disabled = false; }); }
        keep(); text.focus();
      });
      return one;
    };
    form.addEventListener("submit", (event) => event.preventDefault());
    form.append(label, button("Approve", "first", "approved"), button("Decline", "danger", "declined"), problem);
    return form;
  }

  // An action of the pages; what it is refused for, or nothing.
  async function post(action, fields) {
    const csrf = document.querySelector("input[name=csrf]").value;
    try {
      const body = new URLSearchParams({ csrf, ...fields });
      const answer = await fetch("/admin/do/" + action, { method: "POST", body, redirect: "manual" });
      if (answer.type === "opaqueredirect") return "";
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      return (page.querySelector("[role=alert]") || {}).textContent || "It was refused.";
    } catch (error) { return String(error.message || error); }
  }

  // --- what a reload finds: by conversation, in this tab alone

  const place = () => "lambent-turn:" + conversation;
  function keep(turn = live) { if (turn) try { sessionStorage.setItem(place(), JSON.stringify(turn.kept)); } catch { /* full: a reload begins anew */ } }
  function found() { try { return JSON.parse(sessionStorage.getItem(place())); } catch { return null; } }

  // --- frames

  function usageOf(data) {
    const used = data.usage;
    const took = used && used.prompt_tokens + " + " + used.completion_tokens + " tokens, " + used.model_s.toFixed(1) + " s of the model";
    return [data.finish_reason === "stop" ? "" : data.finish_reason, took].filter(Boolean).join(" · ");
  }

  // One frame: true where it is the last one, "again" where this telling broke off, not the turn.
  function take(turn, frame) {
    const [id, kind, line] = [/^id: (\d+)$/m, /^event: (.*)$/m, /^data: (.*)$/m].map((one) => (one.exec(frame) || [])[1]);
    if (line === undefined) return false;
    if (line === "[DONE]") return true;
    if (id) { if (Number(id) <= turn.kept.last) return false; turn.kept.last = Number(id); }
    const data = JSON.parse(line);
    if (kind === "error") {
      if (!id) return "again";
      const stopped = /:stopped$/.test(data.type);
      turn.kept.stopped = stopped;
      turn.note(stopped ? "Stopped." : data.detail || data.title || "It broke off.", !stopped);
      return true;
    }
    state.textContent = kind === "queued" ? "Waiting for a model slot, place " + data.position : "";
    if (data.delta) turn.add({ kind: "text", text: data.delta });
    else if (data.thinking) turn.add({ kind: "thinking", text: data.thinking });
    else if (data.tool_call) turn.tool(data.tool_call, {});
    else if (data.waiting) { turn.tool(data.waiting, { waiting: data.waiting.run }); state.textContent = "Waits for your decision."; }
    else if (data.tool_result) turn.tool(data.tool_result, { waiting: "", result: data.tool_result.content, failed: data.tool_result.failed });
    else if (data.tool_calls) data.tool_calls.forEach((one) => turn.tool({ ...one, id: turn.kept.last + one.name }, {}));
    else if (data.sources) turn.add({ kind: "sources", sources: data.sources });
    else if (data.finish_reason) { const said = usageOf(data); if (said) turn.note(said); }
    return false;
  }

  async function read(turn, answer) {
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    for (let rest = ""; ;) {
      const part = await reader.read();
      if (part.done) return "again";
      const frames = (rest + part.value).split("\n\n");
      rest = frames.pop();
      for (const frame of frames) { const end = take(turn, frame); if (end) return end; }
    }
  }

  // --- a turn, from its first request or from where a reload left it

  async function first(turn) {
    if (turn.kept.stream) return ask("GET", streamUrl(turn), { headers: { "last-event-id": String(turn.kept.last) }, signal: turn.leave.signal });
    // The key makes a second request for the same turn find the first one's stream.
    const headers = { "idempotency-key": turn.kept.key };
    if (turn.kept.leased) headers["x-stream-lease"] = String(leaseS);
    return ask("POST", base + "/chat/stream", { headers, json: turn.kept.body, signal: turn.leave.signal });
  }

  async function refusal(turn, answer) {
    const said = await answer.json().catch(() => ({}));
    const gone = answer.status === 404 && turn.kept.stream;
    turn.note(gone ? "The rest of this answer is not kept any more." : (said.detail || "It was refused.") + " (" + answer.status + ")", true);
    // Nothing was said: the question is given back.
    if (!gone && !turn.text && !text.value) text.value = turn.kept.body.input;
  }

  async function follow(turn) {
    for (let failed = 0; failed < tries && !turn.leave.signal.aborted;) {
      const before = turn.kept.last, began = Date.now();
      try {
        const answer = await first(turn);
        if (!answer.ok && answer.status < 500) { await refusal(turn, answer); return; }
        if (!answer.ok && !turn.kept.stream) { await refusal(turn, answer); return; }
        if (answer.ok) {
          turn.kept.stream = answer.headers.get("x-stream-id") || turn.kept.stream;
          keep();
          if ((await read(turn, answer)) === true) return;
        }
      } catch (error) {
        if (error.name === "AbortError") break;
        if (/signed out/.test(error.message)) { turn.note(error.message, true); return; }
      }
      if (!turn.kept.stream) break;
      // A stream that ends in its time without a word is none that failed.
      failed = turn.kept.last > before || Date.now() - began > 1000 ? 0 : failed + 1;
      await shown();
      await pause(failed * 400);
    }
    turn.kept.stopped = turn.leave.signal.aborted;
    turn.note(turn.leave.signal.aborted ? "Stopped." : "The connection was lost.", !turn.leave.signal.aborted);
  }

  async function run(turn) {
    busy(true);
    if (!turn.kept.ended) await hear(turn);
    // Not where it failed: going away fails it, too, and the next page finds what is still to be added.
    turn.kept.settled = await settle(turn) && (turn.kept.settled || Date.now());
    // Nothing of it is in the conversation, or else it is for the next page to see it drawn: the
    // server may be drawing that page just now, without it.
    if (turn.kept.settled && !addable(turn)) sessionStorage.removeItem(place());
    else keep(turn);
    busy(false);
    await refresh().catch(() => {});
  }

  async function hear(turn) {
    live = turn;
    turn.leave = new AbortController();
    turn.began = Date.now();
    keep();
    const renewing = turn.kept.leased ? renew(turn) : undefined;
    await follow(turn);
    turn.close();
    turn.kept.ended = true;
    keep();
    live = null;
    clearTimeout(turn.timer);
    await renewing;
  }

  // A beacon of the page before may come after this page's first renewal: so soon again at first.
  async function renew(turn) {
    if (turn !== live) return;
    if (turn.kept.stream) await ask("POST", streamUrl(turn, "/lease")).catch(() => {});
    const soon = turn.kept.resumed && Date.now() - turn.began < 8000;
    if (turn === live) turn.timer = setTimeout(() => renew(turn), soon ? 2000 : renewMs);
  }

  function busy(yes) {
    $("send").disabled = yes; $("stop").hidden = !yes; chat.ariaBusy = String(yes);
    if (!yes) state.textContent = "";
  }

  const addable = (turn) => Boolean(turn.kept.stream && (turn.text || toolsOf(turn.kept).length));

  // A whole answer is kept by its turn; what was stopped, or ended while nobody read, is added here.
  // Tells whether nothing is left to add.
  async function settle(turn) {
    if (turn.kept.settled || !addable(turn)) return true;
    for (let tried = 0; tried < 30; tried++, await pause(500)) {
      const status = await added(turn).catch(() => 503);
      if (status && status < 500 && status !== 409 && status !== 429) return true;
    }
    return false;
  }

  // One try: the status that ended it, or 0 while the turn is told but not yet booked.
  async function added(turn) {
    const url = "/conversations/" + encodeURIComponent(conversation);
    let page = { cursor: "" };
    while (page.cursor !== null) {  // a very long one comes in pages
      const answer = await ask("GET", url + (page.cursor && "?after=" + encodeURIComponent(page.cursor)));
      if (!answer.ok) return answer.status;
      page = await answer.json();
      if (page.messages.some((one) => one.turn === turn.kept.stream)) return 200;
    }
    if (page.answering) return 0;
    const messages = [{ role: "user", content: turn.kept.body.input }, { role: "assistant", content: turn.text, tools: toolsOf(turn.kept) }];
    const headers = { "idempotency-key": turn.kept.stream };
    return (await ask("POST", url + "/messages", { headers, json: { messages } })).status;
  }

  // The list of conversations, and what can be done with this one, as the server draws them.
  async function refresh() {
    const answer = await fetch(location.href, { redirect: "error" });
    if (!answer.ok) return;
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    for (const part of ["#talks", ".head"]) {
      const there = document.querySelector(part);
      // Not under the hand of who is confirming something.
      if (!there.querySelector("details[open]")) there.replaceWith(page.querySelector(part));
    }
    document.title = page.title;
  }

  async function send(input) {
    busy(true);
    try {
      if (!conversation) {
        const made = await ask("POST", "/conversations", { json: {} });
        if (!made.ok) throw new Error((await made.json().catch(() => ({}))).detail || "No conversation could be begun.");
        conversation = (await made.json()).id;
        history.replaceState(null, "", "?conversation=" + encodeURIComponent(conversation));
      }
    } catch (error) {
      busy(false);
      state.textContent = String(error.message || error);
      text.value = input;
      return;
    }
    const body = { agent: $("agent").value, input, conversation };
    if ($("model").value) body.model = $("model").value;
    const leased = !(await durable).has(body.agent);
    await run(new Turn({ key: crypto.randomUUID(), body, leased, stream: "", last: 0, parts: [] }));
  }

  async function stop() {
    const turn = live;
    if (!turn) return;
    $("stop").hidden = true;
    if (turn.kept.stream) await ask("DELETE", streamUrl(turn)).catch(() => {});
    // The stream tells its end itself; not for ever.
    setTimeout(() => turn.leave.abort(), turn.kept.stream ? 5000 : 0);
  }

  // While the page goes away only a beacon is sure to be sent, and it brings no header.
  function leave() {
    keep();
    if (live && live.kept.leased && live.kept.stream && token) navigator.sendBeacon(streamUrl(live, "/leave"), token);
  }

  async function choices() {
    const listed = ask("GET", base + "/agents").then(async (answer) => answer.ok ? (await answer.json()).agents : []);
    durable = listed.then((all) => new Set(all.filter((one) => one.durable).map((one) => one.name))).catch(() => new Set());
    const [all, models] = await Promise.all([listed, ask("GET", base + "/v1/models")]);
    if (all.length) {
      const chosen = $("agent").value;
      const describe = () => { const one = all.find((each) => each.name === $("agent").value); $("about").textContent = one ? one.description : ""; };
      $("agent").replaceChildren(...all.map((one) => new Option(one.name, one.name, false, one.name === chosen)));
      $("agent").addEventListener("change", describe);
      describe();
    }
    // Agents are listed there too, for OpenAI's clients: an agent is no model of another one.
    const own = models.ok ? (await models.json()).data.filter((one) => !one.id.startsWith("agent:")) : [];
    $("model").append(...own.map((one) => new Option(one.id, one.id)));
  }

  $("form").addEventListener("submit", (event) => {
    event.preventDefault();
    const input = text.value.trim();
    if (!input || live) return;
    text.value = "";
    send(input);
  });
  text.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); $("form").requestSubmit(); }
  });
  $("form").hidden = $("choice").hidden = false;  // without scripts they would be dead
  $("choice").addEventListener("submit", (event) => event.preventDefault());
  $("stop").addEventListener("click", stop);
  addEventListener("pagehide", leave);
  addEventListener("pageshow", (event) => { if (event.persisted) location.reload(); });

  async function begin() {
    log.scrollTop = log.scrollHeight;
    const chosen = choices();
    const kept = conversation && found();
    if (kept) {
      // It may have ended, and been kept, while nobody looked: then the server has drawn it.
      // What this page added has no turn: it is known by its words.
      const last = [...log.querySelectorAll(".turn.assistant")].pop();
      const words = last && [...last.querySelectorAll(":scope > .text")].map((one) => one.textContent).join("");
      const drawn = log.querySelector('[data-turn="' + CSS.escape(kept.stream) + '"].assistant') || (kept.ended && last && words === textOf(kept))
        || performance.timeOrigin > (kept.settled || Infinity);  // asked for after it was added
      if (kept.stream && drawn) sessionStorage.removeItem(place());
      else { kept.resumed = true; await run(new Turn(kept)); }
    }
    await chosen;
  }
  begin().catch((error) => { state.textContent = String(error.message || error); });
})();
