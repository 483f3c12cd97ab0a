// What the parts of a turn look like, and what a conversation keeps of them. `playground.html` draws
// a turn that is kept in the same way. Model text only ever becomes text, never markup.
"use strict";
const turnParts = (() => {
  const textOf = (kept) => kept.parts.filter((one) => one.kind === "text").map((one) => one.text).join("");
  // What a conversation keeps of the tools, each with how much was said before it.
  function toolsOf(kept) {
    let after = 0;
    return kept.parts.flatMap((one) => {
      if (one.kind === "text") after += [...one.text].length;
      if (one.kind !== "tool") return [];
      return [{ id: one.id, name: one.name, arguments: JSON.stringify(one.arguments, null, 2), result: one.result ?? null, failed: Boolean(one.failed), after }];
    });
  }
  const element = (name, kind, content = "") => {
    const made = document.createElement(name);
    if (kind) made.className = kind;
    made.textContent = content;
    return made;
  };
  const folded = (title, content) => {
    const box = element("details"), inner = element("div", "text", content);
    box.append(element("summary", "", title), inner);
    return [box, inner];
  };

  const toolState = (part) => part.waiting ? "needs approval" : part.over ? "no result" : part.result === undefined ? part.decided || "running" : part.failed ? "failed" : "done";
  const toolTone = (part) => part.waiting ? "warn" : part.over ? "" : part.result === undefined ? "busy" : part.failed ? "bad" : "good";

  // `decision`: the form for a call that a person decides on.
  const viewsWith = (decision) => ({
    text(part) {
      const box = element("div", "text", part.text);
      return { box, update: () => { box.textContent = part.text; } };
    },
    thinking(part) {
      const [box, inner] = folded("Thoughts", part.text);
      return { box, update: () => { inner.textContent = part.text; } };
    },
    tool(part, turn) {
      const box = element("div", "tool" + (part.failed ? " bad" : ""));
      const heading = element("p", "", "Tool ");
      heading.append(element("b", "", part.name), " ", element("span", "badge " + toolTone(part), toolState(part)));
      box.append(heading);
      const sent = element("pre", "", JSON.stringify(part.arguments, null, 2));
      sent.tabIndex = 0;
      if (part.waiting) box.append(sent, decision(part, turn));
      else box.append(folded("Arguments", JSON.stringify(part.arguments, null, 2))[0]);
      if (part.result !== undefined) box.append(folded("Result", part.result)[0]);
      return { box };
    },
    sources(part) {
      const box = element("ul", "sources");
      for (const one of part.sources) {
        const line = element("li"), link = element("a", "", one.title || one.url);
        if (/^https?:/.test(one.url)) { link.href = one.url; link.rel = "noreferrer noopener"; link.target = "_blank"; }
        line.append(link);
        box.append(line);
      }
      return { box };
    },
    note(part) { return { box: element("span", part.bad ? "meta bad" : "meta", part.text) }; },
  });

  return { element, textOf, toolsOf, viewsWith };
})();
