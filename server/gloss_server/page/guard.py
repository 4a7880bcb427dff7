"""What stands before every route: who may ask, and what every answer says about itself.

A browser carries requests of any site it shows to a page on loopback. So a request of another
origin is refused, and so is one for a name that is not ours: a site may let its own name lead here
(DNS rebinding).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gloss_server.page.problem import Problem

SECURITY_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
        "font-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'; require-trusted-types-for 'script'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_OWN_SITES = ("same-origin", "none")


class Guard:
    """Middleware.

    Args:
        app: what it stands before.
        hosts: names that the page may be reached by, besides those of loopback.
    """

    def __init__(self, app: ASGIApp, hosts: Iterable[str] = ()) -> None:
        self._app = app
        self._hosts = frozenset(host.lower() for host in hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in SECURITY_HEADERS.items():
                    headers[name] = value
                if "Cache-Control" not in headers:
                    headers["Cache-Control"] = "no-store"
            await send(message)

        problem = self._refusal(scope)
        app = self._app if problem is None else problem.response()
        await app(scope, receive, send_with_headers)

    def _refusal(self, scope: Scope) -> Problem | None:
        headers = Headers(scope=scope)
        hosts = headers.getlist("host")
        host = hosts[0] if len(hosts) == 1 else ""
        if not self._is_ours(host):
            return Problem(
                "PERMISSION_DENIED",
                f"Host: got {host[:100] or 'none'}, expected one that this page was told of",
                reason="HOST_NOT_ALLOWED",
                hint="Start gloss ui with --allow-host and that name.",
            )
        site = headers.get("sec-fetch-site", "none")
        origin = headers.get("origin")
        if origin is not None:
            is_own = urlsplit(origin).netloc.lower() == host.lower()
        else:
            # A link elsewhere may lead to the page itself; it asks for nothing yet.
            is_link = scope["path"] == "/" and headers.get("sec-fetch-mode") == "navigate"
            is_own = site in _OWN_SITES or is_link
        if is_own and (origin is None or site in _OWN_SITES):
            return None
        return Problem(
            "PERMISSION_DENIED",
            "got a request of another site, expected one of this page",
            reason="CROSS_ORIGIN",
            hint="Open the page itself.",
        )

    def _is_ours(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        if name == "localhost" or name in self._hosts:
            return True
        try:
            return ipaddress.ip_address(name).is_loopback
        except ValueError:
            return False
