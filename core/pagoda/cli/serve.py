"""``pagoda serve``: a model behind OpenAI's HTTP API."""

from __future__ import annotations

from collections.abc import Sequence

from pagoda.cli.arguments import Parser, given, options_of
from pagoda.cli.config_file import ConfigFile
from pagoda.cli.engine_options import EngineOptions, name_model
from pagoda.cli.logs import set_up_logs
from pagoda.server.settings import ServerSettings


def run(words: Sequence[str]) -> int:
    """Run the command and return its exit code."""
    parser = Parser("pagoda serve", "Serve a model over HTTP, in OpenAI's API.", "[MODEL]")
    server = options_of(ServerSettings)
    group = parser.add_argument_group("server")
    for option in server:
        option.add_to(group)
    file = ConfigFile(parser, words)
    engine = EngineOptions(parser, [*file.words("device"), *words])
    chosen = file.namespace()
    model_of_file, chosen.model = chosen.model, ""
    args = parser.parse_args(words, chosen)
    named = {name for name in (*args.positional, args.model) if name}
    if len(named) > 1:
        parser.error(f"more than one model: {', '.join(sorted(named))}")
    if not named and hasattr(args, "last_of_several"):  # --api-key KEY MODEL
        flag, word = args.last_of_several
        hint = f"put the model first, or write --model {word}; else give {flag} once a value"
        parser.error(f"{word!r} stands behind {flag} and was taken for a value of it: {hint}")
    args.model = "".join(named) or model_of_file
    settings = ServerSettings(**given(server, args))
    set_up_logs(args.debug, default=settings.log_level)
    config = name_model(engine.config(args))
    from pagoda.server.serve import run as serve

    return serve(config, settings)
