"""A budget of retries: they stay a small share of all calls, however much fails; sans-I/O."""

from deployments.core.sections import Resilience


class Budget:
    """Each call pays in a share of a retry, each retry takes out a whole one (Finagle's RetryBudget, without its clock).

    A few are there to begin with, so that somebody who asks once a minute is helped as well.
    """

    def __init__(self, settings: Resilience):
        self._settings = settings
        self._balance = float(settings.spare_retries)

    def call(self) -> None:
        """Note a call."""
        self._balance = min(self._balance + self._settings.retry_share, float(self._settings.most_retries))

    def spend(self) -> bool:
        """Take a retry; False where there is none left."""
        if self._balance < 1:
            return False
        self._balance -= 1
        return True
