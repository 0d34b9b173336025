"""Every setting in one frozen tree, read from YAML and overridden by HEADRACE_* variables; the only reader of the environment.

A nested field is reached with two underscores: HEADRACE_GENERATOR__BASE_URL sets generator.base_url.
"""

import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Self

from pydantic import Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from deployments.core.models import BUILT_IN, Model
from deployments.core.sections import (
    Admission,
    Cache,
    Embedder,
    Gateway,
    Generator,
    Idempotency,
    Issuer,
    Log,
    Node,
    Pool,
    Retriever,
    Router,
    Session,
    Worker,
)
from deployments.core.spans import Telemetry
from deployments.core.tool_settings import Tools

_LEAST_RUNNING = 4
"""A backend is always given so many answers to write, however slow it is."""


class Settings(BaseSettings):
    """The whole tree; one value of it is passed to every stage."""

    model_config = SettingsConfigDict(frozen=True, extra="forbid", env_prefix="HEADRACE_", env_nested_delimiter="__")

    data_dir: Path = Field(default=Path(".headrace"), description="State: SQL, index, keys, logs, sockets.")
    host: str = Field(default="127.0.0.1", description="Address the edge listens on.")
    port: int = Field(default=8000, ge=1, le=65535, description="Port the edge listens on.")
    public_url: str | None = Field(
        default=None, description="How clients reach us; citation links start with it. Default: http://host:port, https with a certificate."
    )
    sql_url: SecretStr | None = Field(default=None, description="SQLAlchemy URL; default: SQLite in data_dir.")
    sql_connections: int = Field(
        default=10, ge=1, le=1000, description="Connections to it that each process keeps; under load as many again."
    )
    valkey_url: SecretStr | None = Field(default=None, description="Valkey or Redis; default: an embedded Valkey in data_dir.")
    pepper: SecretStr | None = Field(default=None, description="Secret that API keys are hashed with; default: a key file in data_dir.")
    root_key: SecretStr | None = Field(
        default=None, description="Key of all keys that content is encrypted with, 64 hex digits; default: a key file in data_dir."
    )
    starter_corpus: bool = Field(default=True, description="Ingest the starter corpus at the first start.")
    gateway: Gateway = Gateway()
    issuer: Issuer = Issuer()
    embedder: Embedder = Embedder()
    retriever: Retriever = Retriever()
    router: Router = Router()
    generator: Generator = Generator()
    models: tuple[Model, ...] = Field(
        default=(), max_length=100, description="Logical models that are there from the start; those in SQL go before them."
    )
    admission: Admission = Admission()
    session: Session = Session()
    tools: Tools = Tools()
    worker: Worker = Worker()
    log: Log = Log()
    idempotency: Idempotency = Idempotency()
    cache: Cache = Cache()
    telemetry: Telemetry = Telemetry()
    node: Node = Node()

    @model_validator(mode="after")
    def _scored(self) -> Self:
        if self.generator.tiered:
            self._sound_tiers()
        for model in self.models:
            self.check(model)
        if len({model.name for model in self.models}) < len(self.models):
            raise ValueError("models: each has a name of its own")
        return self

    def check(self, model: Model) -> None:
        """Raises ValueError for a model that can not be in the catalogue, as it names what is not configured."""
        if model.name in BUILT_IN:
            raise ValueError(f"models: {model.name!r} is there in any case")
        if wrong := model.strangers({one.name: one for one in self.generator.upstreams}, self.generator.keys):
            raise ValueError(f"models: {model.name!r}: {wrong[0]}")
        if model.tiered:
            self._sound_tiers()

    def _sound_tiers(self) -> None:
        if self.embedder.model != "embedded":
            raise ValueError("tiers need embedder.model 'embedded': the complexity of a question is learnt from its vectors")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The environment wins over the file."""
        return env_settings, init_settings

    @property
    def pool(self) -> Pool:
        """How many answers the backends write at once; an embedded one has just its slots, another is felt for."""
        stage, admission = self.generator.stage, self.admission
        high = admission.max_running or stage.max_ongoing * stage.max_replicas
        fixed = self.generator.base_url is None or admission.max_running is not None
        low = min(high, admission.min_running or (high if fixed else min(high, _LEAST_RUNNING)))
        return Pool(low=low, high=high)

    @property
    def base_url(self) -> str:
        """Where clients reach us, without a trailing slash."""
        scheme = "https" if self.node.tls_cert else "http"
        return (self.public_url or f"{scheme}://{self.host}:{self.port}").rstrip("/")

    @property
    def database_url(self) -> str:
        """The SQLAlchemy URL in force."""
        if self.sql_url is not None:
            return self.sql_url.get_secret_value()
        return f"sqlite+aiosqlite:///{self.data_dir.resolve() / 'headrace.db'}"

    @property
    def valkey(self) -> str:
        """The Valkey URL in force; where none is configured, what starts the application starts a Valkey and sets it."""
        if self.valkey_url is None:
            raise ValueError("no Valkey is named; set HEADRACE_VALKEY_URL")
        return self.valkey_url.get_secret_value()

    @property
    def index_dir(self) -> Path:
        """The folder of the Lance tables."""
        return self.data_dir.resolve() / "index"

    @property
    def vocabulary(self) -> Path | None:
        """The file of the embedded model's vocabulary; None where another backend answers."""
        if self.generator.base_url:
            return None
        name = self.generator.gguf.stem if self.generator.gguf else self.generator.model
        return self.data_dir.resolve() / "vocabularies" / f"{name}.json"

    def pepper_bytes(self) -> bytes:
        """The secret that API keys are hashed with; makes the key file where there is none."""
        if self.pepper is not None:
            return self.pepper.get_secret_value().encode()
        return keyfile(self.data_dir / "pepper.key")

    def root_bytes(self) -> bytes:
        """The key of all keys; makes the key file where there is none. Raises ValueError where it is not 32 bytes in hex."""
        text = self.root_key.get_secret_value() if self.root_key else keyfile(self.data_dir / "root.key").decode()
        return bytes.fromhex(text)


def keyfile(path: Path, make: Callable[[], bytes] | None = None) -> bytes:
    """The content of a private file (mode 0600), made with 32 random bytes in hex, or by `make`, where it is missing."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    content = make() if make else secrets.token_hex(32).encode()
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(content)
    except FileExistsError:
        return path.read_bytes()
    return content


def environment(**extra: str) -> dict[str, str]:
    """The environment for a child process, with `extra` on top."""
    return {**os.environ, **extra}
