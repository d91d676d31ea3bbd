"""Prometheus metrics under vLLM's names with our prefix: requests as the server sees them, and the
engine's own state read when somebody scrapes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from pagoda.engine.messages import EngineStats
from pagoda.outputs import RequestOutput
from pagoda.sampling.params import SamplingParams

LABELS = ["model_name"]
TOKENS = tuple(float(m * 10**e) for e in range(6) for m in (1, 2, 5))
TO_FIRST_TOKEN = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5),
    *(10.0, 20.0, 40.0, 80.0, 160.0, 640.0, 2560.0),
)
PER_TOKEN = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0),
    *(2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0),
)
WHOLE = (
    *(0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0),
    *(240.0, 480.0, 960.0, 1920.0, 7680.0),
)
REASONS = ("stop", "length", "abort", "error")


class EngineState(Collector):
    """The engine's latest statistics as Prometheus families."""

    def __init__(self, model_name: str, stats: Callable[[], EngineStats]):
        self.model_name = model_name
        self.stats = stats

    def collect(self) -> Iterator[Metric]:
        stats = self.stats()
        gauges = {
            "num_requests_running": (stats.num_running, "requests in the running batch"),
            "num_requests_waiting": (stats.num_waiting, "requests in the queue"),
            "kv_cache_usage_perc": (stats.kv_usage, "share of KV cache blocks in use, 0 to 1"),
        }
        counters = {
            "prefix_cache_queries": (stats.prefix_queries, "tokens looked up in the prefix cache"),
            "prefix_cache_hits": (stats.prefix_hits, "tokens found in the prefix cache"),
            "num_preemptions": (stats.num_preemptions, "requests put back for want of blocks"),
        }
        for name, (value, text) in gauges.items():
            gauge = GaugeMetricFamily(f"pagoda:{name}", text, labels=LABELS)
            gauge.add_metric([self.model_name], value)
            yield gauge
        for name, (value, text) in counters.items():
            counter = CounterMetricFamily(f"pagoda:{name}", text, labels=LABELS)
            counter.add_metric([self.model_name], value)
            yield counter


class Metrics:
    """All metrics of one served model, in a registry of their own."""

    def __init__(self, model_name: str, stats: Callable[[], EngineStats]):
        self.registry = CollectorRegistry()
        self.registry.register(EngineState(model_name, stats))
        self.model_name = model_name
        self.prompt_tokens = self._counter("prompt_tokens", "prompt tokens processed")
        self.generation_tokens = self._counter("generation_tokens", "tokens generated")
        success = Counter(
            "pagoda:request_success",
            "finished requests",
            [*LABELS, "finished_reason"],
            registry=self.registry,
        )
        self.finished = {reason: success.labels(model_name, reason) for reason in REASONS}
        self.to_first_token = self._histogram(
            "time_to_first_token_seconds", "seconds to the first token", TO_FIRST_TOKEN
        )
        self.inter_token = self._histogram(
            "inter_token_latency_seconds", "seconds between tokens of streamed requests", PER_TOKEN
        )
        self.per_token = self._histogram(
            "request_time_per_output_token_seconds",
            "a request's mean seconds a token after the first",
            PER_TOKEN,
        )
        self.whole = self._histogram(
            "e2e_request_latency_seconds", "seconds from arrival to the last token", WHOLE
        )
        self.in_queue = self._histogram(
            "request_queue_time_seconds", "seconds a request waited until it first ran", WHOLE
        )
        self.prefill = self._histogram(
            "request_prefill_time_seconds", "seconds from there to its first token", WHOLE
        )
        self.decode = self._histogram(
            "request_decode_time_seconds", "seconds from its first token to its last", WHOLE
        )
        self.inference = self._histogram(
            "request_inference_time_seconds", "prefill and decode together", WHOLE
        )
        self.request_prompt_tokens = self._histogram(
            "request_prompt_tokens", "prompt tokens a request", TOKENS
        )
        self.request_generation_tokens = self._histogram(
            "request_generation_tokens", "generated tokens a request", TOKENS
        )
        self.request_n = self._histogram("request_params_n", "n of requests", (1, 2, 5, 10, 20))

    def _counter(self, name: str, text: str) -> Counter:
        counter = Counter(f"pagoda:{name}", text, LABELS, registry=self.registry)
        return counter.labels(self.model_name)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        histogram = Histogram(
            f"pagoda:{name}", text, LABELS, registry=self.registry, buckets=buckets
        )
        return histogram.labels(self.model_name)

    def text(self) -> bytes:
        """The exposition format that Prometheus scrapes."""
        return generate_latest(self.registry)


class RequestRecord:
    """What is counted of one request while its outputs pass."""

    def __init__(self, metrics: Metrics, params: SamplingParams):
        self.metrics = metrics
        self.params = params
        self.arrived = time.monotonic()
        self.last: float | None = None  # when the newest token came
        self.num_tokens = 0
        self.done = False

    def observe(self, output: RequestOutput) -> None:
        now = time.monotonic()
        metrics = self.metrics
        num_new = sum(len(choice.token_ids) for choice in output.outputs)
        if self.last is None:
            first = output.metrics.first_token_time or now
            metrics.to_first_token.observe(max(first - self.arrived, 0.0))
            metrics.prompt_tokens.inc(len(output.prompt_token_ids))
            metrics.request_prompt_tokens.observe(len(output.prompt_token_ids))
            metrics.request_n.observe(self.params.n)
        elif num_new:
            metrics.inter_token.observe((now - self.last) / num_new)
        self.last = now
        self.num_tokens += num_new
        metrics.generation_tokens.inc(num_new)
        for choice in output.outputs:
            if choice.finish_reason is not None:
                self.count(choice.finish_reason)
        if output.finished:
            self._finish(output, now)

    def count(self, reason: str) -> None:
        """One more request ended so."""
        self.metrics.finished.get(reason, self.metrics.finished["error"]).inc()

    def _finish(self, output: RequestOutput, now: float) -> None:
        self.done = True
        metrics = self.metrics
        metrics.whole.observe(now - self.arrived)
        metrics.request_generation_tokens.observe(self.num_tokens)
        first, waited = output.metrics.first_token_time, output.metrics.time_in_queue
        if first is None:
            return
        decode = max(now - first, 0.0)
        per_choice = self.num_tokens / self.params.n
        if per_choice > 1:
            metrics.per_token.observe(decode / (per_choice - 1))
        if waited is not None:
            prefill = max(first - output.metrics.arrival_time - waited, 0.0)
            metrics.in_queue.observe(waited)
            metrics.prefill.observe(prefill)
            metrics.decode.observe(decode)
            metrics.inference.observe(prefill + decode)
