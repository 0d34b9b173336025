"""Logical models, which callers name, and the backends that answer for them."""

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, SecretStr, StringConstraints, Tag, model_validator

PRIMARY = "primary"
"""The name of the backend that `generator.base_url` is, or the embedded one."""
Contract = Literal["continue", "restart", "fail"]
"""What is done where a backend breaks off within an answer; `generator.on_break` says what each means."""
Tier = Literal["small", "large"]
"""How able a model is; a tier is a class of backends."""
Ability = Literal["vision", "tools", "json_schema"]
"""What a backend takes beside plain text: images, functions of the caller's, schemas that the answer is held to."""
MAX_BACKENDS = 16
"""Backends of one logical model."""

Name = Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=r"^[\w.:-]+$")]
ModelName = Annotated[str, StringConstraints(min_length=1, max_length=128, pattern=r"^[\w./:-]+$")]


class Section(BaseModel):
    """A frozen part of a tree of settings; unknown fields are an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Rates(Section):
    """Limits of one model."""

    requests_per_minute: int | None = Field(default=None, ge=1, description="Requests of one tenant to the model a minute.")
    tokens_per_minute: int | None = Field(default=None, ge=1, description="Tokens of one tenant read and written by the model a minute.")


def _address(url: str) -> str:
    """An http or https URL that holds no credentials, or "" for the embedded backend; raises ValueError."""
    parts = urlsplit(url)
    if url and (parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc or parts.query or parts.fragment):
        raise ValueError("an address begins with http:// or https:// and holds neither a user nor a query")
    return url


class Upstream(Section):
    """A model backend. It is asked where those of a lower rank fail; of one rank the nearest and quickest is asked."""

    name: str = Field(min_length=1, max_length=64, description="What it is called in logs and metrics.")
    base_url: str = Field(max_length=2048, description="An OpenAI-compatible endpoint.")
    model: str = Field(max_length=256, description="Model name sent to it.")
    api_key: SecretStr = Field(default=SecretStr("none"), description="Its bearer key.")
    key: Name | None = Field(default=None, description="The one of `generator.keys` that is its bearer key, in place of `api_key`.")
    rank: int = Field(default=1, ge=0, le=1000, description="Lower ranks are asked first; `generator.base_url` has rank 0.")
    weight: float = Field(default=1, gt=0, allow_inf_nan=False, description="How often it is drawn among those of its rank.")
    region: str = Field(
        default="", max_length=64, description="Where it is; those in `generator.region` are asked first, then those near to it."
    )
    max_ongoing: int = Field(default=1 << 20, ge=1, description="Calls of one generator that it takes at once.")
    tier: Tier | None = Field(default=None, description="The questions it is for: `small` (simple ones), `large`, or all of them.")
    continues: bool = Field(default=True, description="Whether it goes on with a last message of the assistant, as vLLM and llama.cpp do.")
    abilities: tuple[Ability, ...] = Field(
        default=("tools", "json_schema"), max_length=8, description="What it takes beside text: `vision`, `tools`, `json_schema`."
    )
    context_size: int | None = Field(default=None, ge=64, description="Tokens of prompt and answer it takes; longer ones pass it over.")
    input_cost: float = Field(default=0, ge=0, allow_inf_nan=False, description="What a million tokens read cost.")
    output_cost: float = Field(default=0, ge=0, allow_inf_nan=False, description="What a million tokens written cost, in the same money.")


class Listed(Upstream):
    """A backend of a logical model: it may be shown to anybody who administers, so its key is named, not given."""

    name: Name  # pyright: ignore[reportGeneralTypeIssues]
    base_url: Annotated[str, Field(min_length=1, max_length=2048), AfterValidator(_address)]

    def shown(self) -> dict[str, Any]:
        """Without what it leaves open: its rank, which is its place then, and a key."""
        open_fields = {"rank"} - self.model_fields_set
        return self.model_dump(mode="json", exclude={"api_key", *open_fields})

    @model_validator(mode="after")
    def _named_key(self) -> Self:
        if "api_key" in self.model_fields_set:
            raise ValueError("a key is named by `key`, and given by `generator.keys`")
        return self


def _kind(value: object) -> str:
    return "<name>" if isinstance(value, str) else "<own>"


Backend = Annotated[Annotated[Name, Tag("<name>")] | Annotated[Listed, Tag("<own>")], Discriminator(_kind)]
"""The name of a backend that is configured, or one of the model's own."""


class Model(Section):
    """A model that callers name: whether it answers from passages, and the backends that answer for it, the first to be asked first."""

    name: ModelName
    retrieves: bool = Field(default=True, description="Whether it answers from the caller's documents, as `headrace` does.")
    backends: tuple[Backend, ...] = Field(
        default=(),
        max_length=MAX_BACKENDS,
        description="Its backends, in order: the name of a configured one, or one of its own; none: all that are configured.",
    )
    on_break: Contract | None = Field(default=None, description="In place of `generator.on_break`.")
    limits: Rates = Rates()

    @model_validator(mode="after")
    def _apart(self) -> Self:
        names = [one if isinstance(one, str) else one.name for one in self.backends]
        if len(set(names)) < len(names):
            raise ValueError("each backend has a name of its own")
        return self

    @property
    def own(self) -> tuple[Listed, ...]:
        """The backends of its own."""
        return tuple(one for one in self.backends if isinstance(one, Listed))

    @property
    def tiered(self) -> bool:
        """Whether backends of its own are for some questions only."""
        return any(one.tier for one in self.own)

    def upstreams(self, configured: Iterable[Upstream]) -> tuple[Upstream, ...]:
        """Its backends, given those that are configured; one without a rank has its place as such. What is gone is left out."""
        known = {one.name: one for one in configured}
        if not self.backends:
            return tuple(known.values())
        ranked = enumerate(known.get(one) if isinstance(one, str) else one for one in self.backends)
        return tuple(_ranked(one, place) for place, one in ranked if one)

    def shown(self) -> dict[str, Any]:
        """As administrators see it, and SQL keeps it, every field with its value."""
        shown = self.model_dump(mode="json", exclude={"backends"})
        return shown | {"backends": [one if isinstance(one, str) else one.shown() for one in self.backends]}

    def strangers(self, configured: Mapping[str, Upstream], keys: Iterable[str]) -> list[str]:
        """What it names that is not configured, or is named twice: in words, none where all is well."""
        keys = set(keys)
        wrong = [f"no backend {one!r} is configured" for one in self.backends if isinstance(one, str) and one not in configured]
        wrong += [f"the backend {one.name!r} is configured; name it alone" for one in self.own if one.name in configured]
        return wrong + [f"generator.keys has no {one.key!r}" for one in self.own if one.key is not None and one.key not in keys]


def _ranked(upstream: Upstream, place: int) -> Upstream:
    stated = isinstance(upstream, Listed) and "rank" in upstream.model_fields_set
    return upstream if stated else upstream.model_copy(update={"rank": place})


DIRECT = "headrace-direct"
BUILT_IN = {one.name: one for one in (Model(name="headrace"), Model(name=DIRECT, retrieves=False))}
"""The models that are always there: with retrieval, and without."""
