"""Counters for Prometheus; a registry of its own for each service."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from scanwise.deploy.answers import Answer

SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128)
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Meters:
    """All that /metrics shows."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = self._counter(
            "requests", "Requests by route, method and status.", "route", "method", "status"
        )
        self._seconds = Histogram(
            "scanwise_request_seconds", "Duration of requests by route.", ["route"],
            buckets=SECONDS, registry=self._registry,
        )  # fmt: skip
        self._images = self._counter("images", "Images by model and outcome.", "model", "outcome")
        self._answers = self._counter(
            "decisions", "Answered images by model and decision.", "model", "decision"
        )
        self._batches = Histogram(
            "scanwise_batch_size", "Images computed together.", ["model"],
            buckets=SIZES, registry=self._registry,
        )  # fmt: skip
        self._pending = Gauge(
            "scanwise_images_in_progress", "Images accepted and not yet answered.", ["model"],
            registry=self._registry,
        )  # fmt: skip
        self._loaded = Gauge(
            "scanwise_model_loaded", "1 for each model that answers.", ["model", "sha256"],
            registry=self._registry,
        )  # fmt: skip
        self._log_failures = self._counter("log_failures", "Lines that could not be written.")

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"scanwise_{name}", text, labels, registry=self._registry)

    def add_model(self, name: str, sha256: str, pending: Callable[[], float]) -> None:
        self._loaded.labels(name, sha256).set(1)
        self._pending.labels(name).set_function(pending)

    def request(self, route: str, method: str, status: int, seconds: float) -> None:
        self._requests.labels(route, method, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def answered(self, model: str, answer: Answer, multilabel: bool) -> None:
        self._images.labels(model, "ok").inc()
        # Each label by itself: their combinations would be too many.
        for decision in answer.decision.split("|") if multilabel else (answer.decision,):
            self._answers.labels(model, decision).inc()

    def refused(self, model: str, error: str) -> None:
        self._images.labels(model, error).inc()

    def batch(self, model: str, size: int) -> None:
        self._batches.labels(model).observe(size)

    def log_failed(self) -> None:
        self._log_failures.inc()

    def text(self) -> bytes:
        """In Prometheus's text format."""
        text: bytes = generate_latest(self._registry)
        return text
