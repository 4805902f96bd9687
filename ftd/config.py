"""Every knob, its bound and its default, in one typed place.

Precedence: flag > FTD_* environment (nested by "__": FTD_LIMITS__UPLOAD_BYTES) > TOML > default.
Unknown keys are refused: a misspelt limit must not silently be the default.
"""

import difflib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic.types import SecretStr
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from ftd.core.errors import FtdError, Kind
from ftd.core.models import is_base_name
from ftd.core.spec import Lora

_HOST = re.compile(r"[A-Za-z0-9_.-]+|[0-9A-Fa-f:.]+")
_ORIGIN = re.compile(r"https?://([A-Za-z0-9_.-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?")


def default_home() -> Path:
    """$FTD_HOME, else systemd's $STATE_DIRECTORY, else ~/.local/share/ftd."""
    for variable in ("FTD_HOME", "STATE_DIRECTORY"):
        if value := os.environ.get(variable):
            return Path(value.split(":")[0])
    return Path.home() / ".local" / "share" / "ftd"


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Limits(_Section):
    """What a client may ask of us."""

    upload_bytes: int = Field(25 * 10**9, ge=1)
    """The largest upload."""
    line_bytes: int = Field(64 * 2**20, ge=1024)
    """The longest line of a training file; a longer one is a fault of that line."""
    json_depth: int = Field(64, ge=4, le=200)
    """How deep the JSON of a line or a request may nest."""
    body_bytes: int = Field(2**20, ge=1024)
    """The largest JSON request body."""
    chat_bytes: int = Field(8 * 2**20, ge=1024)
    """The largest request body for an answer: a conversation, or texts."""
    json_values: int = Field(100_000, ge=1000)
    """The most strings, numbers, objects and arrays of a JSON request body, keys included."""
    body_bytes_per_s: int = Field(1024, ge=0)
    """What a request body must bring on average while it is waited for; 0: a byte now and then."""
    connections: int = Field(1024, ge=16)
    """Connections to the REST face, and to each gRPC address, at once; more are refused."""
    requests_per_minute: int = Field(6000, ge=0)
    """What one key may ask, over REST and gRPC together; as many may come at once. 0: no limit."""
    page: int = Field(1000, ge=1)
    """The most rows of one page of jobs, events or checkpoints."""
    check_wait_s: float = Field(5.0, ge=0)
    """How long an upload waits for its check before it answers `uploaded`."""
    check_memory_bytes: int = Field(2 * 2**30, ge=2**28)
    """The address space of the process that checks a file."""
    log_bytes: int = Field(16 * 2**20, ge=2**16)
    """The size at which a worker's log is rotated; the first part and the last two are kept."""
    watchers: int = Field(256, ge=1)
    """How many event streams may be open at once."""
    cache_bytes: int = Field(20 * 2**30, ge=0)
    """Tokens of files that are kept for later jobs; those used longest ago go first."""
    ballast_bytes: int = Field(64 * 2**20, ge=0)
    """A file that only takes space, to be given up when the disk is full; 0: none."""
    keep_runs_days: float = Field(7.0, ge=0)
    """How long a finished job's runs keep their logs, spools and optimizer states;
    what was set aside in `unknown/` stays for as long."""


class Tls(_Section):
    """Both faces speak TLS, 1.2 or newer, where a certificate is given; unix sockets never do."""

    certificate: Path | None = None
    """PEM: our certificate and what it is signed by. Read at the start."""
    key: Path | None = None
    """PEM: its private key, without a password, in a file that others cannot read."""
    client_ca: Path | None = None
    """PEM: clients must show a certificate that is signed by one of these."""

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("certificate and key belong together")
        if self.client_ca is not None and self.certificate is None:
            raise ValueError("client_ca needs a certificate and a key of our own")
        return self


class Training(_Section):
    """How jobs train. A `[models.<name>]` section overrides the model-dependent ones."""

    context_tokens: int = Field(4096, ge=8)
    """Longer examples are cut from the end, and counted in a warning."""
    full: bool = False
    """Train every weight instead of a LoRA adapter."""
    lora: Lora = Lora()
    """rank, alpha, dropout, targets."""
    lora_learning_rate: float = Field(2e-4, gt=0)
    """What learning_rate_multiplier 1.0 means for LoRA."""
    full_learning_rate: float = Field(1e-5, gt=0)
    """What learning_rate_multiplier 1.0 means for full fine-tuning."""
    warmup_ratio: float = Field(0.03, ge=0, le=1)
    weight_decay: float = Field(0.0, ge=0)
    clip_norm: float = Field(1.0, gt=0)
    micro_batch_tokens: int = Field(8192, ge=8)
    """Tokens of one forward pass at most; gradients accumulate up to the batch size."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """What is computed in. auto: bfloat16 on a GPU, float32 on a processor."""
    threads: int = Field(default_factory=lambda: os.cpu_count() or 1, ge=1)
    """CPU threads of a trainer. A job keeps the number that it started with."""
    warm: bool = True
    """Keep one trainer ready: a job then does not wait for its trainer's imports. 0.4 GiB."""
    attempts: int = Field(3, ge=1, le=100)
    """Attempts in a row without a new checkpoint, after which a lost job has failed."""
    retry_s: float = Field(5.0, ge=0, le=300)
    """How long a lost job rests before it is tried again; then twice as long, up to 300 s."""
    checkpoint_every_minutes: float = Field(10.0, ge=0)
    """How often a job saves a point to go on from, beside the ends of its epochs. 0: never."""
    checkpoint_every_steps: int = Field(0, ge=0)
    """The same by steps; both count. 0: never."""


class ModelOverrides(_Section):
    """The keys of `[training]` that may differ by base model; None keeps the general one."""

    context_tokens: int | None = Field(None, ge=8)
    full: bool | None = None
    lora: Lora | None = None
    lora_learning_rate: float | None = Field(None, gt=0)
    full_learning_rate: float | None = Field(None, gt=0)
    micro_batch_tokens: int | None = Field(None, ge=8)


class Stopping(_Section):
    """How a trainer is stopped: asked, then SIGTERM, then SIGKILL."""

    ask_s: float = Field(60.0, ge=0)
    """From the request (obeyed at the next step boundary) to SIGTERM."""
    save_s: float = Field(600.0, ge=0)
    """The same for a pause, whose trainer saves a checkpoint before it ends."""
    term_s: float = Field(30.0, ge=0)
    """From SIGTERM to SIGKILL."""


class Silence(_Section):
    """How long a trainer may say nothing before it counts as hung and is ended: by its phase, and
    never less than ten of its steps. A healthy one says something every ten seconds, but not while
    one thing takes longer, such as a pass of a large model on a processor."""

    loading_s: float = Field(1800.0, gt=0)
    """While it loads the model."""
    tokenizing_s: float = Field(600.0, gt=0)
    """While it reads the files and prepares the first step."""
    training_s: float = Field(1800.0, gt=0)
    """Between two steps or evaluations."""
    saving_s: float = Field(1800.0, gt=0)
    """While it writes a checkpoint."""

    def by_phase(self) -> dict[str, float]:
        """The limits under the names of the phases as trainers tell them."""
        return {name.removesuffix("_s"): limit for name, limit in self.model_dump().items()}


class Devices(_Section):
    """What may be lent."""

    use: Literal["auto", "cpu"] = "auto"
    """auto: every NVIDIA GPU, or the CPU where there is none."""
    exclude: tuple[str, ...] = ()
    """UUIDs of GPUs that jobs must not use."""


class Serving(_Section):
    """How models answer. Training goes first where a device cannot be shared."""

    backend: Literal["embedded", "vllm"] = "embedded"
    """embedded: workers of our own. vllm: a `vllm serve` that runs already."""
    vllm_url: str = ""
    """Its address up to and without /v1. Its --served-model-name must be the base model's name."""
    vllm_key: SecretStr = SecretStr("")
    """Its --api-key, if it has one."""
    wait_s: float = Field(30.0, ge=0)
    """How long a request waits for a device that trains, before it is answered 503."""
    yield_s: float = Field(60.0, ge=0)
    """How long running answers may go on when a job needs the device."""
    idle_s: float = Field(600.0, ge=0)
    """A worker that has had nothing to do for so long ends."""
    workers: int = Field(2, ge=1)
    """Models that are loaded at once; the one idle longest ends for the next."""
    threads: int = Field(default_factory=lambda: os.cpu_count() or 1, ge=1)
    """CPU threads of a worker."""
    context_tokens: int = Field(8192, ge=8)
    """Prompt and answer together; the smaller of this and the model's limit counts."""
    rows: int = Field(16, ge=1, le=256)
    """Choices decoded together by one worker."""
    queue: int = Field(256, ge=1)
    """Choices that run or wait at one worker; more are answered 503."""
    silence_s: float = Field(300.0, gt=0)
    """A worker that owes an answer and says nothing for so long counts as hung, and is ended. A
    healthy one says something every ten seconds, but not while one pass takes longer."""
    adapters: int = Field(8, ge=1)
    """Adapters that one worker keeps loaded."""
    cache_tokens: int = Field(16384, ge=0)
    """Tokens of finished requests that are kept for requests that go on from them."""

    @model_validator(mode="after")
    def _reachable(self) -> Self:
        if self.backend == "vllm" and not self.vllm_url.startswith(("http://", "https://")):
            raise ValueError('backend "vllm" needs its vllm_url, such as http://127.0.0.1:8000')
        return self

    @field_validator("vllm_url")
    @classmethod
    def _base_of_paths(cls, value: str) -> str:
        return value.rstrip("/").removesuffix("/v1")


class Sandbox(_Section):
    """What workers are kept from; ftd/launch/sandbox.py has the table of what they may."""

    require: bool = False
    """Start no worker where the kernel lacks a part of it (Landlock 6: Linux 6.12, and seccomp)."""
    read: tuple[Path, ...] = ()
    """Directories that workers may read and load beside the system and this Python."""
    memory_bytes: int = Field(0, ge=0)
    """The most memory of one worker, with all that it starts; 0: nine tenths of the host's."""
    processes: int = Field(512, ge=1)
    """The most processes of one worker."""


class Metrics(_Section):
    require_key: bool = False
    """Ask for the API key on /metrics, on loopback too."""


class Settings(BaseSettings):
    """The daemon's settings. `home` holds everything it keeps."""

    model_config = SettingsConfigDict(
        env_prefix="FTD_", env_nested_delimiter="__", extra="forbid", frozen=True
    )

    home: Path = Field(default_factory=default_home)
    rest: str = "127.0.0.1:8420"
    """HOST:PORT of the REST face; port 0 picks a free one."""
    grpc: tuple[str, ...] = ()
    """TCP addresses of the gRPC face, beside its unix socket."""
    hosts: tuple[str, ...] = ()
    """Names that clients of the REST face call us by, beside localhost and the address reached."""
    origins: tuple[str, ...] = ()
    """Web pages, such as https://lab.example, whose scripts may call, beside those we serve."""
    organization: str = "org-local"
    """organization_id of every job."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    aliases: dict[str, str] = {}
    """Names that stand for registered models: old scripts run unchanged."""
    limits: Limits = Limits()
    tls: Tls = Tls()
    training: Training = Training()
    models: dict[str, ModelOverrides] = {}
    stopping: Stopping = Stopping()
    silence: Silence = Silence()
    devices: Devices = Devices()
    serving: Serving = Serving()
    sandbox: Sandbox = Sandbox()
    metrics: Metrics = Metrics()

    @field_validator("rest")
    @classmethod
    def _host_port(cls, value: str) -> str:
        host, colon, port = value.rpartition(":")
        if not colon or not host or not port.isdigit() or int(port) > 65535:
            raise ValueError("must be HOST:PORT")
        return value

    @field_validator("hosts")
    @classmethod
    def _bare_names(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            if not _HOST.fullmatch(name):
                raise ValueError(f"{name!r} is no name of a host; give it without a port")
        return value

    @field_validator("origins")
    @classmethod
    def _bare_origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for origin in value:
            if not _ORIGIN.fullmatch(origin):
                raise ValueError(f"{origin!r} is no origin, such as https://lab.example")
        return value

    @field_validator("home")
    @classmethod
    def _absolute(cls, value: Path) -> Path:
        return value.expanduser().absolute()

    @field_validator("aliases")
    @classmethod
    def _alias_targets(cls, value: dict[str, str]) -> dict[str, str]:
        for alias, name in value.items():
            if not is_base_name(name):
                raise ValueError(f"alias {alias!r} stands for {name!r}, which is no model name")
        return value

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        del dotenv_settings, file_secret_settings
        toml = TomlConfigSettingsSource(settings_cls, _toml_file.get("path"))
        return init_settings, env_settings, toml

    def training_of(self, base: str) -> Training:
        """The training section as it holds for one base model."""
        overrides = self.models.get(base)
        if overrides is None:
            return self.training
        changed = overrides.model_dump(exclude_none=True, exclude={"lora"})
        if overrides.lora is not None:
            changed["lora"] = overrides.lora
        return self.training.model_copy(update=changed)


# pydantic-settings wants its file at class level; load() sets it for the one call.
_toml_file: dict[str, Path] = {}


def load(config: Path | None = None, **flags: Any) -> Settings:
    """Read flags (None is unset), environment and TOML. Raises FtdError that names the key."""
    if config is not None and not config.is_file():
        raise FtdError(Kind.INVALID, f"there is no configuration file {config}")
    given = {key: value for key, value in flags.items() if value is not None}
    try:
        if config is not None:
            _toml_file["path"] = config
        return Settings(**given)
    except ValidationError as error:
        raise FtdError(Kind.INVALID, _explain(error, config, given)) from error
    except ValueError as error:  # TOML that does not parse
        raise FtdError(Kind.INVALID, f"{config}: {error}") from error
    finally:
        _toml_file.clear()


def _explain(error: ValidationError, config: Path | None, flags: Mapping[str, Any]) -> str:
    """Every fault: the key, what is wrong with it, and where it was read."""
    lines = []
    for fault in error.errors():
        keys = [str(part) for part in fault["loc"]]
        what = fault["msg"].removeprefix("Value error, ")
        if fault["type"] == "extra_forbidden":
            what = _unknown(keys)
        lines.append(f"{'.'.join(keys)}: {what}{_origin(keys, config, flags)}")
    return "configuration: " + "; ".join(lines)


def _origin(keys: list[str], config: Path | None, flags: Mapping[str, Any]) -> str:
    variable = f"FTD_{'__'.join(keys)}".upper()
    if keys[0] in flags:
        return f" (--{keys[0]})"
    if variable in os.environ:
        return f" (${variable})"
    return f" (in {config})" if config is not None else ""


def _unknown(keys: list[str]) -> str:
    """A key that its section does not have, and the one that was probably meant."""
    section: type[BaseModel] = Settings
    for key in keys[:-1]:
        if key in section.model_fields:  # else it is the name of a model, before its section
            section = _section(section.model_fields[key].annotation) or section
    near = difflib.get_close_matches(keys[-1], section.model_fields, n=1)
    meant = ".".join([*keys[:-1], *near])
    return f"there is no such key; did you mean {meant}?" if near else "there is no such key"


def _section(annotation: Any) -> type[BaseModel] | None:
    """The section in a field's type: itself, or what an optional or a dict holds."""
    for kind in (annotation, *get_args(annotation)):
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            return kind
    return None
