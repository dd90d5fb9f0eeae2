"""All Prometheus metrics of the server, in a registry of their own. Labels are few and never taken from content."""

from collections.abc import Callable, Iterable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

LATENCY_BUCKETS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60)

EXPOSITION_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class GenerationMetrics:
    """Counters and histograms of generations of one kind, whose names begin with `prefix`."""

    def __init__(self, registry: CollectorRegistry, prefix: str, kind: str) -> None:
        self._generations = Counter(
            f"{prefix}_generations", f"{kind} by how they ended.", ("outcome",), registry=registry
        )
        self.requests_in_flight = Gauge(f"{prefix}_requests_in_flight", f"{kind} that run now.", registry=registry)
        self._prompt_tokens = Counter(f"{prefix}_prompt_tokens", f"{kind}: tokens of their prompts.", registry=registry)
        self._output_tokens = Counter(f"{prefix}_output_tokens", f"{kind}: tokens generated.", registry=registry)
        self.first_token_seconds = Histogram(
            f"{prefix}_first_token_seconds",
            f"{kind}: time from the start to the first token.",
            buckets=LATENCY_BUCKETS,
            registry=registry,
        )
        self.token_seconds = Histogram(
            f"{prefix}_token_seconds",
            f"{kind}: time between two deliveries of tokens of one answer.",
            buckets=LATENCY_BUCKETS,
            registry=registry,
        )

    def count_generation(self, prompt_tokens: int, output_tokens: int, outcome: str) -> None:
        """Account for one generation at its end."""
        self._generations.labels(outcome).inc()
        self._prompt_tokens.inc(prompt_tokens)
        self._output_tokens.inc(output_tokens)


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
        self.generations = GenerationMetrics(self._registry, "gemlora", "Generations")
        self.shadows = GenerationMetrics(self._registry, "gemlora_shadow", "Shadow runs")
        self.shadow_runs = Counter(
            "gemlora_shadow_runs",
            "Answers that shadows were to give, by what became of them.",
            ("outcome",),
            registry=self._registry,
        )

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
