"""Puts what was sent back into the form of a page, with the reason why it was refused."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from html.parser import HTMLParser
from itertools import accumulate
from typing import Final

from markupsafe import escape

# What a form holds hidden beside the name of what it is about.
_STATE: Final = ("was.", "kind.")
_OWN: Final = frozenset({"csrf", "back"})
_ACTIONS: Final = "/admin/do/"
_TYPED: Final = frozenset({"checkbox", "radio"})


def refill(
    html: str,
    action: str,
    sent: Mapping[str, str],
    *,
    reason: str,
    wrong: Collection[str],
    back: str,
) -> str | None:
    """The page with this form as it was sent; None where the page has no such form to fill in.

    `wrong` are the fields to mark, `back` is the address that the page is really of. Of several
    forms for one action, it is the one about the same thing: its hidden fields are those sent.
    """
    refiller = _Refiller(html, action, sent, wrong)
    refiller.feed(html)
    refiller.close()
    if refiller.found is None:
        return None
    form = refiller.found
    told = f'<p class="note bad" role="alert">{escape(reason)}</p>'
    # Sent from here, no form comes from that address any more.
    came = f'<input type="hidden" name="back" value="{escape(back)}">'
    edits = [*form.edits, (form.begins_at, form.begins_at, told), *refiller.still]
    edits += [(at, at, came) for at in refiller.forms]
    edits += [(at, at, " open") for at in form.details]
    for start, end, text in sorted(edits, reverse=True):
        html = html[:start] + text + html[end:]
    # Its address is the form's now: what was relative to the page's has to say so.
    path = escape(back.partition("?")[0])
    return html.replace('href="?', f'href="{path}?').replace('action=""', f'action="{path}"')


@dataclass(slots=True)
class _Form:
    """One form while it is read. Edits are (start, end, text), all in places of the page."""

    begins_at: int
    edits: list[tuple[int, int, str]] = field(default_factory=list)
    details: set[int] = field(default_factory=set)
    same: bool = True
    fillable: bool = False
    marked: bool = False


class _Refiller(HTMLParser):
    def __init__(
        self, html: str, action: str, sent: Mapping[str, str], wrong: Collection[str]
    ) -> None:
        super().__init__(convert_charrefs=False)
        self._lines = [0, *accumulate(len(one) for one in html.split("\n"))]
        self._action = _ACTIONS + action
        self._sent = sent
        self._wrong = wrong
        self._form: _Form | None = None
        self._details: list[int] = []
        self._select = ""
        self._text_at: int | None = None
        self.found: _Form | None = None
        self.forms: list[int] = []
        self.still: list[tuple[int, int, str]] = []

    def _at(self) -> int:
        line, column = self.getpos()
        return self._lines[line - 1] + line - 1 + column

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        text, given = self.get_starttag_text() or "", dict(attrs)
        ends_at = self._at() + len(text)
        match tag:
            case "main" if "data-live" in given:
                # A page that draws itself again would forget what was sent.
                still = text.replace(f' data-live="{escape(given["data-live"] or "")}"', "")
                self.still.append((self._at(), ends_at, still))
            case "details":
                self._details.append(ends_at - 1 if "open" not in given else -1)
            case "form" if (given.get("action") or "").startswith(_ACTIONS):
                self.forms.append(ends_at)
                if given["action"] == self._action and self.found is None:
                    self._form = _Form(ends_at, details={one for one in self._details if one >= 0})
            case "input" | "select" | "option" | "textarea" if self._form is not None:
                self._fill(self._form, tag, given, ends_at)

    def handle_endtag(self, tag: str) -> None:
        form = self._form
        if tag == "details":
            self._details.pop()
        elif tag == "textarea" and form is not None and self._text_at is not None:
            form.edits[-1] = (self._text_at, self._at(), form.edits[-1][2])
            self._text_at = None
        elif tag == "form" and form is not None:
            self.found = form if form.same and form.fillable else None
            self._form = None

    def _fill(self, form: _Form, tag: str, given: dict[str, str | None], ends_at: int) -> None:
        name = self._select if tag == "option" else given.get("name") or ""
        kind, value = given.get("type") or "text", given.get("value") or ""
        sent = self._sent.get(name)
        if tag == "input" and kind == "hidden":
            if name.startswith(_STATE) and sent is not None:
                self._set(form, given | {"value": sent}, tag, ends_at)
            elif name not in _OWN and sent != value:
                form.same = False
            return
        form.fillable = True
        if sent:
            form.details |= {one for one in self._details if one >= 0}
        match tag:
            case "select":
                self._select = name
                self._mark(form, given, tag, ends_at)
            case "option":
                self._choose(form, given, "selected", value == (sent or ""), tag, ends_at)
            case "textarea":
                self._mark(form, given, tag, ends_at)
                # A line break right behind the tag is none of the text.
                form.edits.append((ends_at, ends_at, f"\n{escape(sent or '')}"))
                self._text_at = ends_at
            case _ if kind in _TYPED:
                chosen = value in (sent or "").split("\n")
                self._choose(form, given, "checked", chosen, tag, ends_at)
            case _:
                self._set(form, self._marked(form, given | {"value": sent or ""}), tag, ends_at)

    def _choose(
        self,
        form: _Form,
        given: dict[str, str | None],
        word: str,
        chosen: bool,
        tag: str,
        ends_at: int,
    ) -> None:
        kept = {name: value for name, value in given.items() if name != word}
        self._set(form, kept | ({word: None} if chosen else {}), tag, ends_at)

    def _mark(self, form: _Form, given: dict[str, str | None], tag: str, ends_at: int) -> None:
        marked = self._marked(form, given)
        if marked != given:
            self._set(form, marked, tag, ends_at)

    def _marked(self, form: _Form, given: dict[str, str | None]) -> dict[str, str | None]:
        if (given.get("name") or "").removeprefix("in.") not in self._wrong:
            return given
        first, form.marked = not form.marked, True
        return given | {"aria-invalid": "true"} | ({"autofocus": None} if first else {})

    def _set(self, form: _Form, given: dict[str, str | None], tag: str, ends_at: int) -> None:
        shown = (f' {k}="{escape(v)}"' if v is not None else f" {k}" for k, v in given.items())
        form.edits.append((self._at(), ends_at, f"<{tag}{''.join(shown)}>"))
