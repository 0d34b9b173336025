"""Watches a run: one line of progress, and how busy the load generator itself is."""

import sys
import time

import gevent
from locust.env import Environment

WINDOW_S = 5
"""CPU is judged over windows of this length; locust's own monitor looks every ten seconds, and first after twenty."""

LINE_S = 10
"""Between lines when stderr is no terminal."""


class Watch:
    """Looks at a run once a second until the process ends."""

    def __init__(self, environment: Environment, scenario: str) -> None:
        self._environment = environment
        self._scenario = scenario
        self.busiest_percent = 0.0
        """The highest CPU use of one window, in percent of a core."""

    def run(self) -> None:
        """Watch, for ever; to be spawned as a greenlet."""
        terminal = sys.stderr.isatty()
        begun = window = time.monotonic()
        used = time.process_time()
        for second in range(1, sys.maxsize):
            gevent.sleep(1)
            now = time.monotonic()
            if second % WINDOW_S == 0:
                spent = time.process_time()
                self.busiest_percent = max(self.busiest_percent, 100 * (spent - used) / (now - window))
                window, used = now, spent
            if terminal or second % LINE_S == 0:
                line = self._line(now - begun)
                sys.stderr.write(f"\r{line} " if terminal else f"{line}\n")
                sys.stderr.flush()

    def _line(self, elapsed_s: float) -> str:
        runner, stats = self._environment.runner, self._environment.stats
        ended, first = stats.get(self._scenario, "E2E"), stats.get(self._scenario, "TTFT")
        return (
            f"{elapsed_s:4.0f} s  users {runner.user_count if runner else 0:3d}  answers {ended.num_requests:5d}  "
            f"failed {ended.num_failures:3d}  TTFT p95 {first.get_current_response_time_percentile(0.95) or 0:5.0f} ms"
        )
