"""The registry of prompts: templates by name and version, which never change once they are there.

The built-in ones are files, each the version "1" of its name for every tenant; a tenant adds versions of them, and prompts of its own.
One version of a name is current: it is meant where none is named. Templates are sealed as all content is.
"""

from typing import TYPE_CHECKING, Literal, get_args

import msgspec
from sqlalchemy import Select, func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from deployments.core.errors import InvalidRequest
from deployments.core.ids import checked, found, is_id
from deployments.core.tables import PromptRow, TenantRow
from deployments.core.template import placeholders

if TYPE_CHECKING:
    from deployments.core.store import Store

BuiltIn = Literal["grounded", "nothing_found", "summary"]
BUILT_IN: tuple[str, ...] = get_args(BuiltIn)
"""Prompts that a turn is answered with, whether it names one or not; they have no variables."""
SEED = 1
"""The version that a file is."""
MAX_VERSIONS = 1000
"""Versions of all prompts of a tenant together."""


class Prompt(msgspec.Struct, frozen=True):
    """One version of a prompt; `variables` are the names in its template, in order."""

    id: str
    version: str
    template: str
    variables: tuple[str, ...]
    current: bool
    created_at: int

    @property
    def name(self) -> str:
        """How records name it."""
        return named(self.id, self.version)


def named(prompt_id: str, version: str) -> str:
    """How records name a version of a prompt."""
    return f"{prompt_id}@{version}"


class Prompts:
    """The prompts of one tenant; what it reads of the built-in ones are the tenant's own versions."""

    def __init__(self, store: "Store", tenant: str):
        self._store = store
        self._tenant = tenant

    async def add(self, prompt_id: str, template: str, actor: str, *, current: bool = False) -> Prompt:
        """Add the next version of a prompt; the first of a name is current, later ones where that is wanted.

        Raises InvalidRequest for a template that may not be kept, NotFound where there is no such tenant.
        """
        if not is_id(prompt_id):
            raise InvalidRequest("an id has 1 to 64 letters, digits, '_' or '-'", param="id", code="invalid_value")
        names = placeholders(template)
        if prompt_id in BUILT_IN and names:
            raise InvalidRequest(f"'{prompt_id}' has no variables", param="template", code="invalid_template")
        async with self._store.write() as session:
            await self._alone(session)
            version, first = await self._next(session, prompt_id)
            lock, data_key = (await self._store.lock(session, self._tenant)).new("prompts", named(prompt_id, str(version)))
            row = PromptRow(
                tenant_id=self._tenant,
                id=prompt_id,
                version=version,
                current=current or first,
                created_at=int(self._store.clock()),
                data_key=data_key,
                template=lock.seal(template.encode(), "prompts", named(prompt_id, str(version)), "template"),
            )
            if row.current:
                await self._unset(session, prompt_id)
            session.add(row)
            await session.flush()
            detail = {"version": str(version), "current": row.current}
            await self._store.audit.append(session, actor, "prompt.added", self._tenant, prompt_id, **detail)
            return await self._shown(session, row)

    async def list(self) -> list[Prompt]:
        """Every version of every prompt, by name."""
        async with self._store.session() as session:
            rows = await session.scalars(self._of(None).order_by(PromptRow.id, PromptRow.version))
            return [await self._shown(session, row) for row in rows]

    async def get(self, prompt_id: str, version: str | None = None) -> Prompt:
        """A version of a prompt, the current one where none is named; raises NotFound."""
        checked("prompt", prompt_id)
        wanted = self._of(prompt_id)
        wanted = wanted.where(PromptRow.current if version is None else PromptRow.version == _number(version))
        async with self._store.session() as session:
            row = await session.scalar(wanted)
            shown = prompt_id if version is None else named(prompt_id, version[:16])
            return await self._shown(session, found(row, "prompt", shown))

    async def use(self, prompt_id: str, version: str, actor: str) -> None:
        """Make a version the current one; raises NotFound."""
        async with self._store.write() as session:
            await self.make_current(session, prompt_id, version)
            await self._store.audit.append(session, actor, "prompt.used", self._tenant, prompt_id, version=version)

    async def require(self, session: AsyncSession, prompt_id: str, version: str) -> None:
        """Return where there is that version, or it is that of a file; raises NotFound."""
        if prompt_id not in BUILT_IN or _number(version) != SEED:
            wanted = self._of(checked("prompt", prompt_id)).where(PromptRow.version == _number(version))
            found(await session.scalar(wanted), "prompt", named(prompt_id, version[:16]))

    async def make_current(self, session: AsyncSession, prompt_id: str, version: str) -> None:
        """Make a version the current one, in a transaction of the caller's, who puts it on record; raises NotFound."""
        await self._alone(session)
        await self.require(session, prompt_id, version)
        await self._unset(session, prompt_id)
        this = (PromptRow.tenant_id == self._tenant, PromptRow.id == prompt_id, PromptRow.version == _number(version))
        await session.execute(update(PromptRow).where(*this).values(current=True))  # none is that of the file

    async def _alone(self, session: AsyncSession) -> None:
        """Change one at a time: versions are counted. Raises NotFound where there is no such tenant."""
        mine = select(TenantRow.id).where(TenantRow.id == checked("tenant", self._tenant)).with_for_update()
        found(await session.scalar(mine), "tenant", self._tenant)

    async def _next(self, session: AsyncSession, prompt_id: str) -> tuple[int, bool]:
        """The next version of a name, and whether it is the first there is."""
        kept = await session.scalar(select(func.count()).select_from(PromptRow).where(PromptRow.tenant_id == self._tenant)) or 0
        if kept >= MAX_VERSIONS:
            raise InvalidRequest(f"a tenant has at most {MAX_VERSIONS} versions of prompts", param="id", code="too_many_prompts")
        last = await session.scalar(
            select(func.max(PromptRow.version)).where(PromptRow.tenant_id == self._tenant, PromptRow.id == prompt_id)
        )
        before = last or (SEED if prompt_id in BUILT_IN else 0)
        return before + 1, before == 0

    async def _unset(self, session: AsyncSession, prompt_id: str) -> None:
        mine = (PromptRow.tenant_id == self._tenant, PromptRow.id == prompt_id, PromptRow.current)
        await session.execute(update(PromptRow).where(*mine).values(current=False))

    def _of(self, prompt_id: str | None) -> Select[PromptRow]:
        mine = select(PromptRow).where(PromptRow.tenant_id == self._tenant)
        return mine if prompt_id is None else mine.where(PromptRow.id == prompt_id)

    async def _shown(self, session: AsyncSession, row: PromptRow) -> Prompt:
        name = named(row.id, str(row.version))
        lock = (await self._store.lock(session, self._tenant)).of(row.data_key, "prompts", name)
        template = lock.open(row.template, "prompts", name, "template").decode()
        return Prompt(row.id, str(row.version), template, tuple(sorted(placeholders(template))), row.current, row.created_at)


def _number(version: str) -> int:
    """A version as it is counted; 0, which is none, where it is no number."""
    return int(version) if version.isascii() and version.isdecimal() and len(version) < 10 else 0
