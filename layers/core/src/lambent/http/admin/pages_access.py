"""Pages of keys, of what was used, and of what admins did."""

from __future__ import annotations

from typing import Final

from starlette.responses import Response

from lambent.admission.decisions import Scope
from lambent.http.admin.formats import instant
from lambent.http.admin.view import View

_SHOWN: Final = 50
_SCOPES: Final = tuple(scope.value for scope in Scope)


async def keys(view: View) -> Response:
    """The keys, revoked ones too, and a form for another one."""
    page = await view.api.get(
        "/keys", client=view.query.get("client"), cursor=view.query.get("cursor"), limit=_SHOWN
    )
    now = view.clock.now()
    for key in page["keys"]:
        ends = instant(key["expires_at"])
        expired = "expired" if ends is not None and ends <= now else "active"
        key["state"] = "revoked" if key["revoked_at"] else expired
    return view.page("keys.html", keys=page["keys"], cursor=page["cursor"], scopes=_SCOPES)


async def audit(view: View) -> Response:
    """What was changed, by whom, and how it ended."""
    names = ("key_id", "action", "target", "cursor")
    asked = {name: view.query.get(name) for name in names}
    page = await view.api.get("/audit", **asked, limit=_SHOWN)
    return view.page("audit.html", entries=page["entries"], cursor=page["cursor"])


async def usage(view: View) -> Response:
    """What was used, by whom."""
    return view.page("usage.html", usage=await view.api.maybe("/usage"))
