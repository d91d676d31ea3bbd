"""ServerSettings: what is refused, and where keys and templates come from."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest

from pagoda.platform.errors import PagodaError
from pagoda.server.settings import ServerSettings


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"port": -1}, "port"),
        ({"port": 70000}, "port"),
        ({"max_body_bytes": 0}, "max_body_bytes"),
        ({"log_level": "loud"}, "log_level"),
        ({"api_key": ("",)}, "api_key"),
        ({"ssl_certfile": "/nowhere.pem"}, "ssl_certfile"),
        ({"ssl_keyfile": "/nowhere.pem"}, "ssl_keyfile"),
    ],
)
def test_bad_settings(settings: dict[str, Any], field: str) -> None:
    with pytest.raises(PagodaError, match=field):
        ServerSettings(**settings)


def test_keys_come_from_the_environment_too(monkeypatch: Any) -> None:
    monkeypatch.delenv("PAGODA_API_KEY", raising=False)
    assert ServerSettings().keys == ()
    monkeypatch.setenv("PAGODA_API_KEY", "b")
    assert ServerSettings(api_key=("a",)).keys == ("a", "b")


def test_chat_templates(tmp_path: Path) -> None:
    file = tmp_path / "chat.jinja"
    file.write_text("{{ messages }}")
    assert ServerSettings(chat_template=str(file)).read_chat_template() == "{{ messages }}"
    assert ServerSettings(chat_template="{{ a }}").read_chat_template() == "{{ a }}"
    with pytest.raises(PagodaError, match=r"gone\.jinja"):
        ServerSettings(chat_template=str(tmp_path / "gone.jinja")).read_chat_template()
    file.write_text("{% for m in %}")
    with pytest.raises(PagodaError, match="is no valid template"):
        ServerSettings(chat_template=str(file)).read_chat_template()


def test_a_taken_port() -> None:
    from pagoda.server.serve import bind

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(PagodaError, match=f"cannot listen on 127.0.0.1:{port}"):
            bind(ServerSettings(host="127.0.0.1", port=port))
    with pytest.raises(PagodaError, match=r"no\.such\.host"):
        bind(ServerSettings(host="no.such.host.invalid"))
