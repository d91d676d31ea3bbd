"""Who may call: one of the configured keys as ``Authorization: Bearer KEY``."""

from __future__ import annotations

import hmac

from starlette.types import ASGIApp, Receive, Scope, Send

from pagoda.server.errors import RequestError

OPEN_PATHS = frozenset({"/health", "/ping"})
"""What load balancers ask; everything else needs a key when there is one, unknown paths too."""


class KeyCheck:
    """ASGI middleware that answers 401 to requests without a known key."""

    def __init__(self, app: ASGIApp, keys: tuple[str, ...]):
        self.app = app
        self.keys = [key.encode() for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or self._may_pass(scope):
            await self.app(scope, receive, send)
            return
        refusal = RequestError(
            401,
            "a valid API key is needed: send the header 'Authorization: Bearer KEY'",
            code="invalid_api_key",
            headers={"WWW-Authenticate": "Bearer"},
        )
        await refusal.response()(scope, receive, send)

    def _may_pass(self, scope: Scope) -> bool:
        root = scope.get("root_path", "")
        path = scope["path"]
        if root and path.startswith(root + "/"):
            path = path[len(root) :]
        if path in OPEN_PATHS:
            return True
        headers = [value for name, value in scope["headers"] if name == b"authorization"]
        if len(headers) != 1:
            return False
        scheme, _, token = headers[0].partition(b" ")
        # Every key is compared, each in constant time: the answer's delay says nothing.
        matches = [hmac.compare_digest(token.strip(), key) for key in self.keys]
        return any(matches) and scheme.lower() == b"bearer"
