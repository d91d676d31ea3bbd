"""What a user may choose about the HTTP server; the command line is generated from it.  No web
framework is imported here."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from pagoda.config import check_settings, setting
from pagoda.platform.errors import InvalidValue, PagodaError

KEY_VARIABLE = "PAGODA_API_KEY"


@dataclass(frozen=True)
class ServerSettings:
    """Where and how to serve; names and defaults follow vLLM's where it has one."""

    host: str = setting("0.0.0.0", "address to listen on")
    port: int = setting(8000, "port to listen on; 0 takes a free one", low=0)
    served_model_name: tuple[str, ...] = setting(
        (), "names that requests may call the model by, the first one in answers; default: --model"
    )
    api_key: tuple[str, ...] = setting(
        (), f"keys that clients may send, one of which they then must; also {KEY_VARIABLE}"
    )
    chat_template: str | None = setting(
        None, "chat template instead of the model's own: a file, or the template itself"
    )
    trust_request_chat_template: bool = setting(
        False, "let requests bring a chat template of their own"
    )
    max_body_bytes: int = setting(8 * 2**20, "largest request body, in bytes", low=1)
    shutdown_timeout: int = setting(
        120, "seconds that running requests have to finish after SIGTERM or Ctrl-C", low=0
    )
    root_path: str = setting("", "path that a proxy shows this server under, and strips")
    allowed_origins: tuple[str, ...] = setting(("*",), "origins that browsers may call from (CORS)")
    ssl_certfile: str | None = setting(None, "TLS certificate file; turns HTTPS on")
    ssl_keyfile: str | None = setting(None, "TLS private key file")
    ssl_ca_certs: str | None = setting(None, "certificates that clients' own must be signed by")
    log_level: str = setting(
        "info", "what the server logs", choices=("critical", "error", "warning", "info", "debug")
    )
    disable_access_log: bool = setting(False, "log no line a request")

    def __post_init__(self) -> None:
        check_settings(self)
        if self.port > 65535:
            raise InvalidValue("port", self.port, "must be at most 65535")
        if any(not key.strip() for key in self.api_key):
            raise InvalidValue("api_key", "", "must not be empty")
        if self.ssl_keyfile and not self.ssl_certfile:
            raise InvalidValue("ssl_keyfile", self.ssl_keyfile, "needs ssl_certfile too")
        for name in ("ssl_certfile", "ssl_keyfile", "ssl_ca_certs"):
            path = getattr(self, name)
            if path is not None and not Path(path).is_file():
                raise InvalidValue(name, path, "is not a file")

    @property
    def keys(self) -> tuple[str, ...]:
        """All accepted keys, the environment's included; none: no key is asked for."""
        more = os.environ.get(KEY_VARIABLE, "")
        return (*self.api_key, more) if more else self.api_key

    def read_chat_template(self) -> str | None:
        """The text of ``chat_template``.  Raises PagodaError when it names no readable file or is
        no template."""
        text = self.chat_template
        if text is None:
            return None
        if "{" not in text and "\n" not in text:
            try:
                text = Path(text).read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError) as error:
                raise PagodaError(
                    f"chat template {text!r} cannot be read: {error}", "--chat-template FILE"
                ) from error
        from pagoda.tokenizer.chat import check_template

        check_template(text)
        return text
