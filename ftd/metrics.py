"""Every number we show to Prometheus, in one registry of our own.

Job ids are labels of gauges of running jobs alone, and go when the job goes.
"""

from collections.abc import Collection, Iterator, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric, generate_latest
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from ftd.core.job import FINAL

FAST_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
TOKEN_S = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
STEP_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
LONG_S = (1, 5, 15, 60, 300, 900, 3600, 4 * 3600, 12 * 3600, 24 * 3600)


class Metrics:
    """The families by theme, by the rules of prometheus.io: base units, `_total`, few labels."""

    def __init__(self, version: str) -> None:
        self._registry = CollectorRegistry(auto_describe=True)
        build = Gauge(
            "ftd_build_info", "The version that runs.", ["version"], registry=self._registry
        )
        build.labels(version).set(1)
        self.queue = Queue(self._registry)
        self.training = Training(self._registry)
        self.serving = Serving(self._registry)
        self.devices = Devices(self._registry)
        self.store = Storage(self._registry)
        self.api = Api(self._registry)

    def families(self) -> Iterator[Metric]:
        yield from self._registry.collect()

    def render(self, jobs: Collection[str] | None = None) -> bytes:
        """The Prometheus text format; with `jobs`, of what is told job by job only theirs."""
        if jobs is None:
            return generate_latest(self._registry)
        return generate_latest(_Of(self._registry, jobs))


class _Of(Collector):
    """A registry as those see it who may know these jobs alone."""

    def __init__(self, registry: CollectorRegistry, jobs: Collection[str]) -> None:
        self._whole = registry
        self._jobs = jobs

    def collect(self) -> Iterator[Metric]:
        for family in self._whole.collect():
            family.samples = [
                sample
                for sample in family.samples
                if sample.labels.get("job_id") is None or sample.labels["job_id"] in self._jobs
            ]
            yield family


class JobTotals(Collector):
    """Jobs ever created and finished, counted in the rows: a restart does not reset them.

    `rows` is (method, state, how many), set before a scrape.
    """

    def __init__(self) -> None:
        self.rows: Sequence[tuple[str, str, int]] = ()

    def collect(self) -> Iterator[Metric]:
        created = CounterMetricFamily("ftd_jobs_created", "Jobs accepted.", labels=["method"])
        finished = CounterMetricFamily(
            "ftd_jobs_finished", "Jobs that ended.", labels=["status", "method"]
        )
        by_method: dict[str, int] = {}
        for method, state, count in self.rows:
            by_method[method] = by_method.get(method, 0) + count
            if state in FINAL:
                finished.add_metric([state, method], count)
        for method, count in by_method.items():
            created.add_metric([method], count)
        yield created
        yield finished


class Queue:
    """Jobs by state, and how long they wait and run."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.jobs = Gauge("ftd_jobs", "Jobs by state.", ["state"], registry=registry)
        self.totals = JobTotals()
        registry.register(self.totals)
        self.oldest = Gauge(
            "ftd_queue_oldest_seconds", "Age of the oldest queued job.", registry=registry
        )
        self.wait = Histogram(
            "ftd_job_queue_wait_seconds",
            "From create to the first attempt.",
            buckets=LONG_S,
            registry=registry,
        )
        self.run = Histogram(
            "ftd_job_run_duration_seconds",
            "How long attempts ran, by their ending.",
            ["ending"],
            buckets=LONG_S,
            registry=registry,
        )
        self.exits = Counter(
            "ftd_trainer_exits_total", "Attempts that ended.", ["reason"], registry=registry
        )
        self.cycle = Histogram(
            "ftd_scheduler_cycle_duration_seconds",
            "One look at the queue.",
            buckets=FAST_S,
            registry=registry,
        )
        self.events = Counter(
            "ftd_events_total", "Events that trainers gave rise to.", registry=registry
        )


class Training:
    """Tokens and steps of all jobs, and how each running one does."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.tokens = Counter(
            "ftd_trainer_tokens_total",
            "Tokens trained: input, and those that carry loss.",
            ["kind"],
            registry=registry,
        )
        self.warm = Gauge(
            "ftd_trainer_warm", "1 while a trainer is ready and waits for a job.", registry=registry
        )
        self.steps = Counter("ftd_trainer_steps_total", "Optimizer steps.", registry=registry)
        self.step_duration = Histogram(
            "ftd_trainer_step_duration_seconds",
            "One optimizer step, its evaluation aside.",
            buckets=STEP_S,
            registry=registry,
        )

        def of_job(name: str, help_: str, *labels: str) -> Gauge:
            return Gauge(name, help_, ["job_id", *labels], registry=registry)

        self.progress = of_job("ftd_job_progress_ratio", "Steps done of all steps.")
        self.eta = of_job("ftd_job_eta_seconds", "Expected time to the end.")
        self.loss = of_job("ftd_job_loss", "The last loss.", "split")
        self.learning_rate = of_job("ftd_job_learning_rate", "The last learning rate.")
        self.grad_norm = of_job("ftd_job_grad_norm", "The last gradient norm.")
        self.tokens_per_second = of_job(
            "ftd_job_tokens_per_second", "Input tokens per second of the last step."
        )

    def forget(self, job_id: str) -> None:
        """Drop the gauges of a job that no longer runs."""
        for gauge in (
            self.progress,
            self.eta,
            self.loss,
            self.learning_rate,
            self.grad_norm,
            self.tokens_per_second,
        ):
            gauge.remove_by_labels({"job_id": job_id})


class Serving:
    """Requests for answers, by the base model at the root of what was asked for."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.requests = Gauge(
            "ftd_inference_requests",
            "Requests that run (their prompt is read) or wait.",
            ["state", "base"],
            registry=registry,
        )
        self.first_token = Histogram(
            "ftd_inference_time_to_first_token_seconds",
            "From a request, through any wait for a device, to the first piece of its answer.",
            ["base"],
            buckets=TOKEN_S,
            registry=registry,
        )
        self.inter_token = Histogram(
            "ftd_inference_inter_token_latency_seconds",
            "Between pieces of one answer, most often one token each.",
            ["base"],
            buckets=TOKEN_S,
            registry=registry,
        )
        self.tokens = Counter(
            "ftd_inference_tokens_total",
            "Tokens read of prompts, taken over from earlier requests (cached), and written.",
            ["kind", "base"],
            registry=registry,
        )
        self.adapters = Gauge(
            "ftd_inference_adapters", "Adapters loaded.", ["base"], registry=registry
        )
        self.workers = Gauge(
            "ftd_inference_workers", "Inference workers.", ["base"], registry=registry
        )


class Devices:
    """What is lendable, what is lent, and what the sensors say."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.info = Gauge(
            "ftd_device_info", "A lendable device.", ["device", "kind", "model"], registry=registry
        )

        def of_device(name: str, help_: str) -> Gauge:
            return Gauge(name, help_, ["device"], registry=registry)

        self.allocated = of_device(
            "ftd_device_allocated", "1 while a job or an inference worker leases it."
        )
        self.withheld = of_device(
            "ftd_device_withheld",
            "1 while it is lent to nobody, because a run's memory is still in use there.",
        )
        self.utilization = of_device("ftd_device_utilization_ratio", "How busy it is, 0 to 1.")
        self.used = of_device("ftd_device_memory_used_bytes", "Memory in use.")
        self.total = of_device("ftd_device_memory_total_bytes", "Memory in all.")
        self.temperature = of_device("ftd_device_temperature_celsius", "Temperature.")
        self.power = of_device("ftd_device_power_watts", "Power drawn.")


class Storage:
    """The database, the disk, and the loop that everything waits for."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.start_time = Gauge(
            "ftd_start_time_seconds", "When the daemon started (Unix time).", registry=registry
        )
        self.loop_lag = Gauge(
            "ftd_event_loop_lag_seconds", "How late the last tick came.", registry=registry
        )
        self.transactions = Histogram(
            "ftd_db_transaction_duration_seconds",
            "One group commit.",
            buckets=FAST_S,
            registry=registry,
        )
        self.database_size = Gauge(
            "ftd_db_size_bytes", "The database file and its log.", ["file"], registry=registry
        )
        self.free = Gauge(
            "ftd_storage_free_bytes", "Free space of the home's disk.", registry=registry
        )
        self.full = Gauge(
            "ftd_storage_full",
            "1 while the home's disk is full, and new work is refused.",
            registry=registry,
        )


class Api:
    """Requests of both faces; the gRPC families have the names that dashboards know."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._http = Histogram(
            "ftd_http_request_duration_seconds",
            "REST requests.",
            ["route", "method", "code"],
            buckets=FAST_S,
            registry=registry,
        )
        self._handled = Counter(
            "grpc_server_handled_total",
            "RPCs ended.",
            ["grpc_service", "grpc_method", "grpc_code"],
            registry=registry,
        )
        self._handling = Histogram(
            "grpc_server_handling_seconds",
            "RPC durations.",
            ["grpc_service", "grpc_method"],
            buckets=FAST_S,
            registry=registry,
        )
        self.upload_bytes = Counter(
            "ftd_upload_bytes_total", "Bytes of uploads written.", registry=registry
        )
        self.uploads = Gauge("ftd_uploads_in_progress", "Uploads under way.", registry=registry)

    def observe_http(self, route: str, method: str, code: int, seconds: float) -> None:
        self._http.labels(route, method, str(code)).observe(seconds)

    def observe_rpc(self, service: str, method: str, code: str, seconds: float) -> None:
        self._handled.labels(service, method, code).inc()
        self._handling.labels(service, method).observe(seconds)
