"""The shape of a run: the stages of its scenario, one after the other."""

from locust import LoadTestShape, User

from loadtest import users
from loadtest.scenario import load, scaled, stage_at


class Stages(LoadTestShape):
    """Follows the scenario named on the command line."""

    def tick(self) -> tuple[int, float, list[type[User]] | None] | None:
        """Return how many users there should be now, how fast to get there, and of which kind."""
        if self.runner is None or self.runner.environment.parsed_options is None:
            return None
        options = self.runner.environment.parsed_options
        scenario = load(options.scenario)
        stage = stage_at(scaled(scenario, options.users_factor, options.time_factor), self.get_run_time())
        return None if stage is None else (stage.users, stage.rate, [getattr(users, scenario.user)])
