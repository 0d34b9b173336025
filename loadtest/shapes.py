"""The shape of a run: its users are started, and it is over when they have ended by themselves."""

from locust import LoadTestShape, User

from loadtest.scenario import load, scaled
from loadtest.sessions import Session
from loadtest.users import SEARCHABLE_S, Arrivals

FASTEST = 100.0
"""Users a second: locust advises against more."""


class Stages(LoadTestShape):
    """Follows the scenario named on the command line; one user sends all arrivals."""

    begun = False

    def tick(self) -> tuple[int, float, list[type[User]] | None] | None:
        """Return how many users there should be, how fast to get there, and of which kind; None when the run is over."""
        if self.runner is None or self.runner.environment.parsed_options is None:
            return None
        options = self.runner.environment.parsed_options
        scenario = scaled(load(options.scenario), options.load_factor, options.time_factor, options.turns)
        last_s = sum(stage.seconds for stage in scenario.stages)
        if scenario.user == "Arrivals":
            last_s += scenario.over_s + SEARCHABLE_S + (scenario.peak.seconds if scenario.peak else 0)
        if (self.begun and not self.runner.user_count) or self.get_run_time() > last_s:
            return None
        self.begun = self.begun or bool(self.runner.user_count)
        if scenario.user == "Arrivals":
            return 1, 1, [Arrivals]
        (stage,) = scenario.stages
        return stage.sessions, min(max(stage.sessions / stage.begin_s, 0.5), FASTEST), [Session]
