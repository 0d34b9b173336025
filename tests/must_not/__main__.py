"""`python -m tests.must_not`: run what must never be possible, and print a table of ids, cases and failures."""

import re
import sys
from collections import Counter
from pathlib import Path

import pytest


class Tally:
    """Counts cases and failures by id; the fixture `cases` says how many a test stands for."""

    def __init__(self) -> None:
        self.cases: Counter[str] = Counter()
        self.failures: Counter[str] = Counter()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        named = re.search(r"test_([a-e]\d+)_", report.nodeid)
        if named and (report.when == "call" or report.failed):
            self.cases[named[1].upper()] += int(dict(report.user_properties).get("cases", 1))
            self.failures[named[1].upper()] += report.failed

    def table(self) -> str:
        rows = [f"{name:4}{cases:8}{self.failures[name]:10}" for name, cases in sorted(self.cases.items())]
        return "\n".join(["id     cases  failures", *rows, ""])


if __name__ == "__main__":
    tally = Tally()
    code = pytest.main([str(Path(__file__).parent), "-q", *sys.argv[1:]], plugins=[tally])
    sys.stdout.write(tally.table())
    sys.exit(code)
