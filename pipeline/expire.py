"""The end of what was kept for a while: files that expire, and uploads that were never completed."""

from dataclasses import dataclass

from deployments.core.config import Settings
from deployments.core.holdings import Holdings
from deployments.core.jobs import Job
from deployments.core.ports import Retrieves
from deployments.worker.work import Means, Reason


@dataclass(frozen=True)
class Expire:
    """Deletes what has expired; implements the worker's `Handles`. Its subject is `file/id` or `upload/id`, due at its end."""

    settings: Settings
    retrieves: Retrieves
    at_once: int = 1

    @property
    def lease_s(self) -> float:
        """As for ingestion: a file may be in many stores."""
        return self.settings.worker.lease_s

    async def run(self, means: Means, job: Job) -> None:
        """Delete it, wherever it is; raises NotFound where somebody was faster."""
        kind, _, name = job.subject.partition("/")
        if kind == "upload":
            await means.store.of(job.principal).uploads.expire(name)
        else:
            await Holdings(means.store, self.retrieves, job.principal).delete_file(name)
        async with means.store.jobs.finishing(job):
            pass

    async def give_up(self, means: Means, job: Job, code: Reason, message: str) -> None:
        """Leave it, and say so in the job."""
        async with means.store.jobs.finishing(job, "failed", message):
            pass

    async def lost(self, means: Means, job: Job) -> None:
        """There is nothing to take back."""
