"""How the start looks: spinners on a terminal, one plain line a step elsewhere."""

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, Task, TaskID, TextColumn, TimeElapsedColumn
from rich.progress_bar import ProgressBar
from rich.text import Text


class _Bar(BarColumn):
    """A bar for steps that know their length; nothing for the others."""

    def render(self, task: Task) -> ProgressBar | Text:  # type: ignore[override]
        return super().render(task) if task.total else Text("")


class Spinners:
    """A live line for each step that runs; the finished ones stay above it."""

    def __init__(self, console: Console):
        self._console = console
        name, text = TextColumn("{task.fields[name]}"), TextColumn("{task.fields[text]}")
        self._progress = Progress(SpinnerColumn(), name, TimeElapsedColumn(), _Bar(24), text, console=console, transient=True)
        self._tasks: dict[str, tuple[TaskID, float]] = {}

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._progress.stop()

    def begin(self, name: str) -> None:
        """A step runs now."""
        self._tasks[name] = self._progress.add_task("", total=None, name=f"{name:<10}", text=""), time.monotonic()

    def detail(self, name: str, text: str) -> None:
        """How far a step is."""
        if name in self._tasks:
            self._progress.update(self._tasks[name][0], text=text)

    def advance(self, name: str, done: int, total: int, text: str) -> None:
        """How far a step is, as a bar."""
        if name in self._tasks:
            self._progress.update(self._tasks[name][0], completed=done, total=total, text=f"{done}/{total} {text}")

    def done(self, name: str, text: str = "") -> None:
        """A step is through."""
        task, begun = self._tasks.pop(name)
        self._progress.remove_task(task)
        self._progress.console.print(f"[green]✓[/green] {name:<10} {time.monotonic() - begun:5.1f} s  {text}", highlight=False)

    def say(self, text: str) -> None:
        """Something worth a line."""
        self._progress.console.print(f"  {text}", highlight=False, markup=False)


class Lines:
    """One plain line when a step is through; for logs and scripts."""

    def __init__(self, console: Console):
        self._console = console
        self._begun: dict[str, float] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        return None

    def begin(self, name: str) -> None:
        """A step runs now."""
        self._begun[name] = time.monotonic()

    def detail(self, name: str, text: str) -> None:
        """Not shown."""

    def advance(self, name: str, done: int, total: int, text: str) -> None:
        """Shown at the end of the step only."""

    def done(self, name: str, text: str = "") -> None:
        """A step is through."""
        self.say(f"{name:<10} {time.monotonic() - self._begun.pop(name):5.1f} s  {text}".rstrip())

    def say(self, text: str) -> None:
        """Something worth a line."""
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)


def steps(console: Console) -> Spinners | Lines:
    """The one that fits the output."""
    return Spinners(console) if console.is_terminal else Lines(console)
