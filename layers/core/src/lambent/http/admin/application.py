"""Routes the admin pages, and keeps what every one of them needs: a session and its form token."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final
from urllib.parse import parse_qsl, quote, urlsplit

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from lambent.admission.audit import Action, Audit
from lambent.admission.sessions import TOKEN_S, Session, Sessions
from lambent.clock import Clock
from lambent.errors import (
    Forbidden,
    LambentError,
    NotFound,
    RateLimited,
    RequestError,
    Unauthenticated,
)
from lambent.http.admin.actions import ACTIONS
from lambent.http.admin.api import Api, Failed
from lambent.http.admin.pages import PAGES
from lambent.http.admin.redraw import redrawn, refusal_of
from lambent.http.admin.session import (
    drop_session,
    is_own_form,
    is_own_token,
    keep_session,
    own_path,
    session_of,
)
from lambent.http.admin.view import PageFunction, View, asset, make_templates
from lambent.http.audited import address_of
from lambent.http.bodies import read_body
from lambent.http.problems import error_headers, request_id_of
from lambent.settings import Settings
from lambent.telemetry import log_fields, logger

_TYPES: Final = {
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
_LARGEST_FORM_BYTES: Final = 1024 * 1024


def build_pages(
    api: ASGIApp, *, sessions: Sessions, audit: Audit, clock: Clock, settings: Settings
) -> ASGIApp:
    """The application; `api` is the API behind its admission."""
    site = Site(api, sessions=sessions, audit=audit, clock=clock, settings=settings)
    router = Router(
        routes=[
            Route("/admin/static/{name}", site.static),
            Route("/admin/sign-in", site.sign_in_page, methods=["GET"]),
            Route("/admin/sign-in", site.sign_in, methods=["POST"]),
            Route("/admin/session/end", site.sign_out, methods=["POST"]),
            Route("/admin/session/token", site.token, methods=["GET"]),
            *(_page_route(site, path, page) for path, page in PAGES),
            *(_action_route(site, name, act) for name, act in ACTIONS.items()),
        ],
        redirect_slashes=False,
        default=site.nothing_here,
    )
    return _Marked(router)


class _Marked:
    """Lets routes raise their 405 instead of answering it in plain text."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["app"] = self
        await self._app(scope, receive, send)


class Site:
    """The few pages without a session, and the frame around the others."""

    def __init__(
        self,
        api: ASGIApp,
        *,
        sessions: Sessions,
        audit: Audit,
        clock: Clock,
        settings: Settings,
    ) -> None:
        self._api = api
        self._sessions = sessions
        self._audit = audit
        self._clock = clock
        self._settings = settings
        self._templates = make_templates(clock)

    async def static(self, request: Request) -> Response:
        name = request.path_params["name"]
        data = asset(name)
        if data is None:
            raise NotFound("There is nothing at this path.")
        kept = {"cache-control": "public, max-age=31536000, immutable"}
        media_type = _TYPES[name.rpartition(".")[2]]
        return Response(data, media_type=media_type, headers=kept)

    async def sign_in_page(self, request: Request) -> Response:
        target = own_path(request.query_params.get("next"))
        if await session_of(request, self._sessions) is not None:
            return RedirectResponse(target, status_code=303)
        return self._sign_in_page(target)

    async def sign_in(self, request: Request) -> Response:
        if not is_own_form(request):
            return self._sign_in_page("/admin", problem="Please sign in here.", status=403)
        form = await read_form(request)
        target = own_path(form.get("next"))
        try:
            key = form.get("key", "").strip()
            session = await self._sessions.sign_in(key, address=address_of(request.scope))
        except (Unauthenticated, Forbidden, RateLimited) as error:
            answer = self._sign_in_page(target, problem=_told(error), status=error.status)
            answer.headers.update(error_headers(error))
            return answer
        await self._note(request, session, "sign_in", 303)
        response = RedirectResponse(target, status_code=303)
        keep_session(request, response, session)
        return response

    async def sign_out(self, request: Request) -> Response:
        session = await session_of(request, self._sessions)
        form = await read_form(request)
        if session is not None:
            if not (is_own_form(request) and is_own_token(session, form.get("csrf", ""))):
                raise Forbidden("This form is not from a page of yours. Load the page again.")
            everywhere = form.get("scope") == "everywhere" and session.principal.key_id
            if everywhere:
                await self._sessions.end_all(str(session.principal.key_id))
            else:
                await self._sessions.end(session)
            await self._note(request, session, "sign_out_everywhere" if everywhere else "sign_out")
        response = RedirectResponse("/admin/sign-in", status_code=303)
        drop_session(request, response)
        return response

    async def token(self, request: Request) -> Response:
        """A five-minute credential for the scripts of a page."""
        session = await session_of(request, self._sessions)
        if session is None or not is_own_form(request):
            raise Unauthenticated("Sign in first.")
        text = await self._sessions.page_token(session)
        return JSONResponse({"token": text, "expires_in_s": TOKEN_S})

    async def show(self, request: Request, page: PageFunction) -> Response:
        """One page for who is signed in; everybody else is sent to sign in."""
        session = await session_of(request, self._sessions)
        if session is None:
            return self._sign_in_first(request)
        view = self._view(request, session)
        try:
            return await page(view)
        except Failed as failed:
            return self._failed(view, failed.answer.status, failed.answer.detail)
        except LambentError as error:
            return self._failed(view, error.status, error.detail)

    async def nothing_here(self, scope: Scope, receive: Receive, send: Send) -> None:
        """A page that says so for who browses; a problem document for programs."""
        request = Request(scope, receive)
        wants = request.headers.get("accept", "")
        if request.method not in ("GET", "HEAD") or "text/html" not in wants:
            raise NotFound("There is nothing at this path.")
        await (await self.show(request, _no_such_page))(scope, receive, send)

    async def act(
        self, request: Request, name: str, act: Callable[[View, dict[str, str]], Any]
    ) -> Response:
        """One form. Only ever from our own page, with its token, by somebody who may."""
        session = await session_of(request, self._sessions)
        if session is None:
            where = f"/admin/sign-in?next={quote(_back(request))}"
            return RedirectResponse(where, status_code=303)
        form = await read_form(request)
        # A page that was drawn again has the form's address, not its own.
        back = own_path(form.pop("back")) if form.get("back") else _back(request)
        view = self._view(request, session)
        if not (is_own_form(request) and is_own_token(session, form.pop("csrf", ""))):
            return self._failed(
                view, 403, "This form is not from a page of yours. Load the page again."
            )
        if not session.may_change:
            return self._failed(
                view, 403, "Your key may look, not change: its scope is admin:read."
            )
        try:
            response: Response = await act(view, form)
        except (Failed, LambentError) as error:
            refusal = refusal_of(error)
            again = await redrawn(view, name, form, refusal, back=back)
            return again or self._failed(view, refusal.status, refusal.detail, back=back)
        return response

    def _view(self, request: Request, session: Session) -> View:
        api = Api(self._api, session.principal, request.scope)
        return View(
            request, session, api, self._templates, self._clock, self._settings.chat_base_url
        )

    def _sign_in_first(self, request: Request) -> Response:
        asked = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        if request.headers.get("sec-fetch-site") == "cross-site":
            # A strict cookie stays away when a link of another site leads here: ask once more,
            # from here.
            template = self._templates.get_template("returning.html")
            return HTMLResponse(template.render(path=own_path(asked)))
        return RedirectResponse(f"/admin/sign-in?next={quote(asked)}", status_code=303)

    def _sign_in_page(self, target: str, *, problem: str = "", status: int = 200) -> Response:
        template = self._templates.get_template("sign_in.html")
        text = template.render(
            next=target, problem=problem, auth_enabled=self._sessions.auth_enabled
        )
        return HTMLResponse(text, status_code=status)

    def _failed(self, view: View, status: int, detail: str, *, back: str = "") -> Response:
        titles = {403: "Not allowed", 404: "Not found", 409: "Not in this state"}
        if status >= 500:
            logger().warning("A page failed", **log_fields(detail=detail, status=status))
        return view.page(
            "failed.html",
            status=status,
            title=titles.get(status, "That did not work"),
            detail=detail,
            back=back or _back(view.request),
            request_id=request_id_of(view.request.scope),
        )

    async def _note(
        self, request: Request, session: Session, action: str, outcome: int = 303
    ) -> None:
        entry = await self._audit.begin(
            Action(
                principal=session.principal,
                action=action,
                target=session.principal.key_id or "",
                via="page",
                address=address_of(request.scope),
                request_id=request_id_of(request.scope),
            )
        )
        await self._audit.end(entry, outcome)


def _told(error: LambentError) -> str:
    match error:
        case Unauthenticated():
            return "This key is not known, or not good any more."
        case Forbidden():
            return "This key has neither the scope admin nor admin:read."
        case _:
            return error.detail


async def read_form(request: Request) -> dict[str, str]:
    """The fields of a posted form; repeated ones are joined by a line break."""
    body = await read_body(request, limit_bytes=_LARGEST_FORM_BYTES)
    try:
        pairs = parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=500)
    except ValueError:
        raise RequestError("The form cannot be read.") from None
    form: dict[str, str] = {}
    for name, value in pairs:
        form[name] = f"{form[name]}\n{value}" if name in form else value
    return form


def _page_route(site: Site, path: str, page: PageFunction) -> Route:
    async def endpoint(request: Request) -> Response:
        return await site.show(request, page)

    return Route(path, endpoint, methods=["GET"])


def _action_route(site: Site, name: str, act: Callable[..., Any]) -> Route:
    async def endpoint(request: Request) -> Response:
        return await site.act(request, name, act)

    return Route(f"/admin/do/{name}", endpoint, methods=["POST"])


def _back(request: Request) -> str:
    """The page that the browser came from, if it is ours."""
    came = urlsplit(request.headers.get("referer", ""))
    return own_path(came.path + (f"?{came.query}" if came.query else ""))


async def _no_such_page(view: View) -> Response:
    raise NotFound(f"There is no page at {view.request.url.path[:200]}.")
