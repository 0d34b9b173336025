"""Which models there are: the built-in ones, those of the settings, and those in SQL, which are changed while everything runs."""

import hashlib
import logging
import time
from collections.abc import Callable, Mapping
from types import MappingProxyType

from pydantic import ValidationError
from sqlalchemy import func, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncSession

from deployments.core.config import Settings
from deployments.core.errors import InvalidRequest, NoSuchModel
from deployments.core.handling import Handling
from deployments.core.models import BUILT_IN, Model
from deployments.core.store import Store
from deployments.core.tables import ModelRow

_logger = logging.getLogger("headrace.catalogue")

FRESH_S = 1.0
"""How long a reading is good: with the reading itself, a change is seen everywhere within two seconds."""
MAX_MODELS = 200
"""Models in SQL, those included that hide one of the settings."""


class Catalogue:
    """The models as they stand, read from SQL at most once a second by each process; where SQL is away, as they last stood."""

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.monotonic):
        self._seeds = BUILT_IN | {model.name: model for model in settings.models}
        self._clock = clock
        self._read_at = 0.0
        self._models: Mapping[str, Model] | None = None

    async def all(self, store: Store) -> Mapping[str, Model]:
        """Every model by its name, the built-in ones first."""
        if self._models is not None and self._clock() - self._read_at < FRESH_S:
            return self._models
        return await self._read(store)

    async def get(self, store: Store, name: str) -> Model:
        """One model; raises NoSuchModel. Built-in ones are not looked up; one that is not known is, as another process may have seen it."""
        if name in BUILT_IN:
            return BUILT_IN[name]
        return (await self.all(store)).get(name) or (await self._read(store)).get(name) or _missing(name)

    async def _read(self, store: Store) -> Mapping[str, Model]:
        self._read_at = self._clock()  # whoever comes meanwhile goes by the last reading
        try:
            async with store.session() as session:
                self._models = _overlaid(self._seeds, await _rows(session))
        except (SQLAlchemyError, OSError) as error:
            _logger.warning("the models are those of before: %s", error)
        return self._models or self._seeds


class Models:
    """The models as an administrator sees them; every change is on the audit record under the name of who made it."""

    def __init__(self, store: Store, settings: Settings, actor: str):
        self._store, self._settings, self._actor = store, settings, actor
        self._seeds = {model.name: model for model in settings.models}

    async def all(self) -> list[Model]:
        """Every model, the built-in ones first."""
        async with self._store.session() as session:
            return list(_overlaid(BUILT_IN | self._seeds, await _rows(session)).values())

    async def get(self, name: str) -> Model:
        """One model; raises NoSuchModel."""
        return next((model for model in await self.all() if model.name == name), None) or _missing(name)

    async def backends(self) -> list[str]:
        """The names of all backends: those that are configured, and the models' own."""
        own = [one.name for model in await self.all() for one in model.own]
        return list(dict.fromkeys([*(one.name for one in self._settings.generator.upstreams), *own]))

    async def put(self, model: Model) -> Model:
        """Add a model, or put it in the place of the one of that name; raises InvalidRequest."""
        try:
            self._settings.check(model)
        except ValueError as error:
            raise InvalidRequest(str(error), param="name" if model.name in BUILT_IN else "backends", code="invalid_value") from None
        spec = model.shown()
        async with self._store.write() as session:
            row = await session.get(ModelRow, model.name, with_for_update=True)
            there = row.spec is not None if row else model.name in self._seeds
            if row is None and await session.scalar(select(func.count()).select_from(ModelRow)) == MAX_MODELS:
                raise InvalidRequest(f"there are {MAX_MODELS} models; remove one before", code="too_many_models")
            await self._set(session, row or ModelRow(name=model.name), spec)
            act = "model.changed" if there else "model.added"
            await self._store.audit.append(session, self._actor, act, None, model.name, model=spec)
        return model

    async def remove(self, name: str) -> None:
        """Remove a model; one of the settings stays hidden by a row. Raises NoSuchModel, or InvalidRequest for a built-in one."""
        if name in BUILT_IN:
            raise InvalidRequest(f"the model '{name}' can't be removed", param="model", code="invalid_value")
        async with self._store.write() as session:
            row = await session.get(ModelRow, name, with_for_update=True) if name else None
            if row.spec is None if row else name not in self._seeds:
                _missing(name)
            if name in self._seeds:
                await self._set(session, row or ModelRow(name=name), None)
            elif row:
                await session.delete(row)
                await session.flush()
            await self._store.audit.append(session, self._actor, "model.removed", None, name)

    async def _set(self, session: AsyncSession, row: ModelRow, spec: dict[str, object] | None) -> None:
        row.spec, row.changed_at = spec, int(self._store.clock())
        session.add(row)
        await session.flush()


def handling(model: Model) -> Handling:
    """How turns are handled that name a model."""
    if model.name in BUILT_IN:
        return Handling(retrieves=model.retrieves)
    recipe = hashlib.sha256(model.model_dump_json(exclude={"limits"}).encode()).hexdigest()[:16]
    limits = model.limits
    return Handling(
        model.retrieves,
        model.tiered,
        recipe,
        requests_per_minute=limits.requests_per_minute,
        tokens_per_minute=limits.tokens_per_minute,
    )


async def _rows(session: AsyncSession) -> list[ModelRow]:
    return list(await session.scalars(select(ModelRow).order_by(ModelRow.name).limit(MAX_MODELS)))


def _overlaid(seeds: Mapping[str, Model], rows: list[ModelRow]) -> Mapping[str, Model]:
    """The seeds as SQL has them by now; a row that this version can not read is passed over."""
    models = dict(seeds)
    for row in rows:
        models.pop(row.name, None)
        try:
            if row.spec is not None:
                models[row.name] = Model.model_validate(row.spec)
        except ValidationError as error:
            _logger.error("the model '%s' can't be read: %s", row.name, error)
    return MappingProxyType(models)


def _missing(name: str) -> Model:
    raise NoSuchModel(f"the model '{name}' does not exist", param="model")
