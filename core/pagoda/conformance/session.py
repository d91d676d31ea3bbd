"""One run of the kit inside pytest: which tests run, over what, and what came of them."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from pagoda import registry
from pagoda.conformance import fixtures
from pagoda.conformance.fixtures import id_of
from pagoda.conformance.profile import Profile
from pagoda.conformance.report import Report, missing_suffix
from pagoda.conformance.subject import Subject
from pagoda.platform.errors import PagodaError, Unavailable
from pagoda.platform.types import Feature


def start(config: pytest.Config, suite: Path) -> None:
    """Find the platform and join this pytest run.  Raises UsageError where it cannot be used."""
    name, device = config.getoption("--pagoda-platform"), config.getoption("--pagoda-device")
    for path in config.getoption("--pagoda-report"):
        if problem := missing_suffix(path):
            raise pytest.UsageError(problem)
    environment = dict(os.environ)  # as it was before the platform was asked anything
    try:
        choice = registry.choose(f"{name}:{device}" if device else name)
        profile: Profile = choice.platform.ask("pagoda_conformance_profile") or Profile()
        subject = Subject(
            choice,
            profile,
            level=config.getoption("--pagoda-level"),
            seed=_seed(config),
            real_model=config.getoption("--pagoda-model"),
            environment=environment,
        )
    except PagodaError as error:
        story = f"platform {name!r} cannot be checked here: {error}"
        if isinstance(error, Unavailable) and not error.remedy:
            story += " (and its refusal names no remedy, which the contract asks for)"
        raise pytest.UsageError(story) from error
    everything = config.args_source is not pytest.Config.ArgsSource.ARGS
    if everything:
        config.args[:] = [str(suite), *map(str, profile.suites)]
        everything = not (config.getoption("keyword") or config.getoption("markexpr"))
    config.addinivalue_line("markers", "needs(what): a limit or Feature the platform must claim")
    config.addinivalue_line("markers", "models(*names): tiny models to run on; 'all' for all")
    config.addinivalue_line("markers", "full: left out at the quick level")
    config.stash[fixtures.SUBJECT] = subject
    config.pluginmanager.register(fixtures, "pagoda conformance fixtures")
    config.pluginmanager.register(Session(subject, everything), "pagoda conformance session")


def _seed(config: pytest.Config) -> int:
    given: int | None = config.getoption("--pagoda-seed")
    return random.SystemRandom().randrange(1 << 31) if given is None else given


class Session:
    """The hooks of a run."""

    def __init__(self, subject: Subject, everything: bool):
        self.subject = subject
        self.report = Report(subject, everything)

    def pytest_report_header(self) -> str:
        subject = self.subject
        return (
            f"pagoda: platform {subject.name} ({subject.choice.platform.distribution}"
            f" {subject.choice.platform.version}), level {subject.level},"
            f" --pagoda-seed {subject.seed}"
        )

    # -- choosing tests -------------------------------------------------------------------------

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        subject = self.subject
        if "opened" in metafunc.fixturenames:
            marked = metafunc.definition.get_closest_marker("models")
            names = subject.families[:1] if marked is None else list(marked.args)
            names = subject.families if names == ["all"] else names
            pairs = [(m, v) for m in names if m in subject.families for v in subject.variants]
            ids = [f"{model}-{variant.name}" for model, variant in pairs]
            metafunc.parametrize("opened", pairs, indirect=True, ids=ids)
        if "family" in metafunc.fixturenames:
            metafunc.parametrize("family", subject.families)

    def pytest_collection_modifyitems(
        self, config: pytest.Config, items: list[pytest.Item]
    ) -> None:
        if self.subject.level == "quick":
            left_out = [item for item in items if item.get_closest_marker("full")]
            config.hook.pytest_deselected(items=left_out)
            self.report.num_left_out = len(left_out)
            items[:] = [item for item in items if item not in left_out]
        self.report.features = {id_of(item): _features(item) for item in items}
        used = set()
        for item in items:
            for known, reason in self.subject.profile.known_failures.items():
                if id_of(item) == known or id_of(item).startswith(f"{known}["):
                    item.add_marker(pytest.mark.xfail(reason=reason, strict=True))
                    used.add(known)
        stale = set(self.subject.profile.known_failures) - used
        if stale and self.report.everything and self.subject.level == "full":
            raise pytest.UsageError(f"known failures that name no test: {', '.join(sorted(stale))}")

    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        for marker in item.iter_markers("needs"):
            for what in marker.args:
                if reason := self.subject.lacks(what):
                    pytest.skip(reason)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.report.add(report)
        if report.failed:  # what the failure left behind must not fail the next test too
            self.subject.close()

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        self.subject.close()
        for path in session.config.getoption("--pagoda-report"):
            self.report.write(Path(path))

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        terminalreporter.write_sep("=", f"pagoda conformance of {self.subject.name}")
        terminalreporter.write_line(self.report.text())
        for path in terminalreporter.config.getoption("--pagoda-report"):
            terminalreporter.write_line(f"written: {path}")


def _features(item: pytest.Item) -> set[Feature]:
    """What a test is about: its ``needs``, or the parameter that names a feature."""
    named = {what for marker in item.iter_markers("needs") for what in marker.args}
    if isinstance(item, pytest.Function) and hasattr(item, "callspec"):
        named |= {value for value in item.callspec.params.values() if isinstance(value, Feature)}
    return {what for what in named if isinstance(what, Feature)}
