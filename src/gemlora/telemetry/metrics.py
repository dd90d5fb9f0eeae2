"""All Prometheus metrics of the server, in a registry of their own. Labels are few and never taken from content."""

from collections.abc import Callable, Iterable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

LATENCY_BUCKETS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60)

EXPOSITION_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """Counters and histograms; the engine's gauges are read when somebody scrapes."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.requests = Counter(
            "gemlora_requests",
            "HTTP requests by route, status and error code (0: none).",
            ("route", "status", "code"),
            registry=self._registry,
        )
        self.request_seconds = Histogram(
            "gemlora_request_seconds",
            "Time from a request's headers to the end of its answer.",
            ("route",),
            buckets=LATENCY_BUCKETS,
            registry=self._registry,
        )
        self.generations = Counter(
            "gemlora_generations", "Generations by how they ended.", ("outcome",), registry=self._registry
        )
        self.requests_in_flight = Gauge(
            "gemlora_requests_in_flight", "Requests that a model is answering.", registry=self._registry
        )
        self.prompt_tokens = Counter(
            "gemlora_prompt_tokens", "Prompt tokens of all generations.", registry=self._registry
        )
        self.output_tokens = Counter("gemlora_output_tokens", "Tokens generated.", registry=self._registry)
        self.first_token_seconds = Histogram(
            "gemlora_first_token_seconds",
            "Time from accepting a request to its first token.",
            buckets=LATENCY_BUCKETS,
            registry=self._registry,
        )
        self.token_seconds = Histogram(
            "gemlora_token_seconds",
            "Time between two deliveries of tokens of one answer.",
            buckets=LATENCY_BUCKETS,
            registry=self._registry,
        )

    def count_generation(self, prompt_tokens: int, output_tokens: int, outcome: str) -> None:
        """Account for one generation at its end."""
        self.generations.labels(outcome).inc()
        self.prompt_tokens.inc(prompt_tokens)
        self.output_tokens.inc(output_tokens)

    def watch_engine(self, stats: Callable[[], Mapping[str, float]]) -> None:
        """Show what `stats` returns as gauges named `gemlora_engine_…`."""
        self._registry.register(_EngineGauges(stats))

    def exposition(self) -> bytes:
        """Everything in the text format of Prometheus."""
        return generate_latest(self._registry)


class _EngineGauges(Collector):
    def __init__(self, stats: Callable[[], Mapping[str, float]]) -> None:
        self._stats = stats

    def collect(self) -> Iterable[Metric]:
        for name, value in self._stats().items():
            yield GaugeMetricFamily(f"gemlora_engine_{name}", f"The engine's {name.replace('_', ' ')}.", value=value)
