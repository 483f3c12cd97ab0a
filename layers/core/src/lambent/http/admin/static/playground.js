// A chat over the chat function's stream. Model text only ever becomes text, never markup.
"use strict";
(() => {
  const $ = (id) => document.getElementById(id);
  const chat = $("chat");
  if (!chat) return;
  const base = document.body.dataset.chatBase || "";
  const kept = "lambent-playground";
  const log = $("log"), text = $("text"), state = $("state");
  let talk = { messages: [], stream: "" };
  try { talk = JSON.parse(sessionStorage.getItem(kept)) || talk; } catch { /* a fresh one */ }
  let going = null, token = "", tokenUntil = 0;

  const keep = () => sessionStorage.setItem(kept, JSON.stringify(talk));

  async function headers(more = {}) {
    if (Date.now() > tokenUntil) {
      const answer = await fetch("/admin/session/token", { redirect: "error" });
      if (!answer.ok) throw new Error("You are signed out. Load the page again.");
      const said = await answer.json();
      token = said.token;
      tokenUntil = Date.now() + (said.expires_in_s - 30) * 1000;
    }
    return { authorization: "Bearer " + token, ...more };
  }

  function show(role, content, meta) {
    const turn = document.createElement("div");
    turn.className = "turn " + role;
    const body = document.createElement("span");
    body.textContent = content;
    turn.append(body);
    if (meta) note(turn, meta);
    log.append(turn);
    log.scrollTop = log.scrollHeight;
    return turn;
  }

  function note(turn, meta) {
    const line = document.createElement("span");
    line.className = "meta";
    line.textContent = meta;
    turn.append(line);
  }

  function usageOf(data) {
    const used = data.usage || {};
    const parts = [data.finish_reason, used.prompt_tokens !== undefined && used.prompt_tokens + " + " + used.completion_tokens + " tokens"];
    return parts.filter(Boolean).join(" · ");
  }

  async function read(answer, turn, message) {
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    const body = turn.firstChild;
    let rest = "", done = false;
    for (;;) {
      const part = await reader.read();
      if (part.done) break;
      rest += part.value;
      const frames = rest.split("\n\n");
      rest = frames.pop();
      for (const frame of frames) {
        const kind = /^event: (.*)$/m.exec(frame), line = /^data: (.*)$/m.exec(frame);
        if (!line) { if (frame.startsWith(": queue")) state.textContent = frame.slice(2); continue; }
        if (line[1] === "[DONE]") { done = true; continue; }
        const data = JSON.parse(line[1]);
        if (kind && kind[1] === "error") { turn.classList.add("bad"); note(turn, data.detail || data.title || "It broke off."); done = true; }
        else if (kind && kind[1] === "queued") state.textContent = "Waiting for a model slot, place " + data.position;
        else if (data.delta !== undefined) { state.textContent = ""; message.content += data.delta; body.textContent = message.content; log.scrollTop = log.scrollHeight; }
        else if (data.tool_call || data.tool_calls || data.approval) note(turn, kind ? kind[1] + ": " + JSON.stringify(data) : JSON.stringify(data));
        else if (data.finish_reason) { message.meta = usageOf(data); note(turn, message.meta); }
      }
    }
    if (!done) note(turn, "The stream ended early.");
  }

  async function send(content) {
    talk.messages.push({ role: "user", content });
    show("user", content);
    const sent = talk.messages.map(({ role, content }) => ({ role, content })).filter((one) => one.content);
    const message = { role: "assistant", content: "" };
    const turn = show("assistant", "");
    const body = { agent: $("agent").value, messages: sent };
    if ($("model").value) body.model = $("model").value;
    await run(turn, message, async (signal) => fetch(base + "/chat/stream", {
      method: "POST", signal, body: JSON.stringify(body), headers: await headers({ "content-type": "application/json" }),
    }));
  }

  async function run(turn, message, ask) {
    going = new AbortController();
    $("send").disabled = true; $("stop").hidden = false; chat.ariaBusy = "true";
    try {
      const answer = await ask(going.signal);
      if (!answer.ok) {
        const said = await answer.json().catch(() => ({}));
        turn.classList.add("bad");
        note(turn, (said.detail || "It was refused.") + " (" + answer.status + ")");
      } else {
        talk.stream = answer.headers.get("x-stream-id") || "";
        talk.messages.push(message); keep();
        await read(answer, turn, message);
      }
    } catch (error) {
      note(turn, error.name === "AbortError" ? "Stopped." : String(error.message || error));
    }
    talk.stream = ""; keep();
    going = null; state.textContent = "";
    $("send").disabled = false; $("stop").hidden = true; chat.ariaBusy = "false";
  }

  // Stops the model, also while the page goes away: such a request outlives it, as a beacon would.
  function stop() {
    if (!going) return;
    if (talk.stream && token) fetch(base + "/chat/streams/" + encodeURIComponent(talk.stream), { method: "DELETE", keepalive: true, headers: { authorization: "Bearer " + token } }).catch(() => {});
    going.abort();
  }

  async function choices() {
    const [agents, models] = await Promise.all([fetch(base + "/agents", { headers: await headers() }), fetch(base + "/v1/models", { headers: await headers() })]);
    if (agents.ok) {
      const chosen = $("agent").value;
      $("agent").replaceChildren(...(await agents.json()).agents.map((one) => new Option(one.name, one.name, false, one.name === chosen)));
    }
    if (models.ok) $("models").replaceChildren(...(await models.json()).data.map((one) => new Option("", one.id)));
  }

  $("form").addEventListener("submit", (event) => {
    event.preventDefault();
    const content = text.value.trim();
    if (!content || going) return;
    text.value = "";
    send(content);
  });
  text.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); $("form").requestSubmit(); }
  });
  $("stop").addEventListener("click", stop);
  $("clear").addEventListener("click", () => { stop(); talk = { messages: [], stream: "" }; keep(); log.replaceChildren(); text.focus(); });
  addEventListener("pagehide", stop);

  for (const one of talk.messages) show(one.role, one.content, one.meta);
  choices().catch((error) => { state.textContent = String(error.message || error); });
})();
