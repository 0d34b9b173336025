"""What figures depend on: the commit and the machine, told without naming it."""

import os
import platform
import shutil
import subprocess
import time
from typing import Any

import psutil


def facts() -> dict[str, Any]:
    """Return commit, time, Python, cores, memory and load of this run."""
    return {
        "commit": commit(),
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "python": platform.python_version(),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "load_average": [round(load, 2) for load in os.getloadavg()],
    }


def commit() -> str | None:
    """Return the short commit id with `+` when files differ from it; None outside a repository."""
    git = shutil.which("git")
    if git is None:
        return None
    head = subprocess.run([git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    changed = subprocess.run([git, "status", "--porcelain", "--untracked-files=no"], capture_output=True, check=False)
    return f"{head.stdout.strip()}{'+' if changed.stdout else ''}" if head.returncode == 0 else None
