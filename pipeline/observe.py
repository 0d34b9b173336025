"""Prometheus, and Grafana where it is installed, beside a stack that runs on this machine; Ctrl-C ends them.

`python -m pipeline.observe` is `make observe`. Everything is kept below `.headrace/observe`, and listens on loopback only.
"""

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import yaml

from deployments.core.config import Settings, environment
from pipeline import instance
from pipeline.probe import pick

OPS = Path(__file__).parents[1] / "ops"
RAYS = Path("/tmp/ray/session_latest")  # noqa: S108 — where Ray keeps a session that nobody gave a place
KEPT = "2d"
EVERY_S = 2.0
"""Pause between two looks where Ray's agents are: a stack that starts again has others."""


class Missing(Exception):
    """Prometheus is not installed; the message says what to do."""


def targets(session: Path) -> list[dict[str, Any]]:
    """Where the agents of a Ray session on this machine tell of their metrics, as Prometheus reads it from a file."""
    ports = [path.read_text().strip() for path in sorted(session.glob("metrics_export_port_*"))]
    return [{"labels": {"job": "ray"}, "targets": [f"127.0.0.1:{port}" for port in ports if port.isdecimal()]}]


def session(data_dir: Path) -> Path:
    """The Ray session of the stack on a data folder, or the one that Ray itself keeps where none runs there."""
    card = instance.read(data_dir)
    return Path(card.short) / "ray" / "session_latest" if card and instance.running(data_dir) else RAYS


def configuration(folder: Path) -> dict[str, Any]:
    """ops/prometheus/prometheus.yml with absolute paths, and its targets in a file of ours."""
    content = yaml.safe_load((OPS / "prometheus" / "prometheus.yml").read_text())
    content["rule_files"] = [str(OPS / "prometheus" / path) for path in content["rule_files"]]
    content["scrape_configs"][0]["file_sd_configs"] = [{"files": [str(folder / "targets.json")], "refresh_interval": "5s"}]
    return content


def observe(settings: Settings) -> None:
    """Run until interrupted. Raises Missing."""
    program = shutil.which("prometheus")
    if program is None:
        raise Missing("there is no Prometheus here; on Debian: apt install --no-install-recommends prometheus")
    folder = (settings.data_dir / "observe").resolve()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    (folder / "prometheus.yml").write_text(yaml.safe_dump(configuration(folder)))
    aim(settings.data_dir, folder)
    ports = pick(2)
    url = f"http://127.0.0.1:{ports[0]}"
    command = (
        program,
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--storage.tsdb.retention.time={KEPT}",
        f"--web.listen-address=127.0.0.1:{ports[0]}",
        "--log.level=warn",
    )
    with ExitStack() as held:
        prometheus = held.enter_context(_running(folder, command, {}))
        _say(f"Prometheus  {url}")
        held.enter_context(_grafana(folder, ports[1], url))
        _say("Ctrl-C ends it.")
        while prometheus.poll() is None:
            time.sleep(EVERY_S)
            aim(settings.data_dir, folder)
        raise Missing(f"Prometheus has ended; {folder / 'prometheus.log'} says why")


def aim(data_dir: Path, folder: Path) -> None:
    """Write down where the metrics are now."""
    new = folder / "targets.new"
    new.write_text(json.dumps(targets(session(data_dir))))
    new.replace(folder / "targets.json")


@contextmanager
def _running(folder: Path, command: tuple[str, ...], extra: dict[str, str]) -> Iterator["subprocess.Popen[bytes]"]:
    name = Path(command[0]).name
    with (folder / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(command, env=environment(**extra), stdout=log, stderr=log, cwd=folder)
    pid = folder / f"{name}.pid"
    pid.write_text(str(process.pid))
    try:
        yield process
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(20)
        process.kill()
        process.wait()
        pid.unlink(missing_ok=True)


@contextmanager
def _grafana(folder: Path, port: int, prometheus: str) -> Iterator[None]:
    """Grafana with our dashboard, where it is installed; who looks is an anonymous reader."""
    program = shutil.which("grafana-server", path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin:/usr/share/grafana/bin")
    if program is None:
        _say("Grafana     not installed (grafana.com/grafana/download); ops/grafana/headrace.json is the dashboard to import")
        yield
        return
    extra = {
        "HEADRACE_PROMETHEUS": prometheus,
        "HEADRACE_DASHBOARDS": str(OPS / "grafana"),
        "GF_SERVER_HTTP_ADDR": "127.0.0.1",
        "GF_SERVER_HTTP_PORT": str(port),
        "GF_PATHS_DATA": str(folder / "grafana"),
        "GF_PATHS_PROVISIONING": str(OPS / "grafana" / "provisioning"),
        "GF_AUTH_ANONYMOUS_ENABLED": "true",
        "GF_ANALYTICS_REPORTING_ENABLED": "false",
        "GF_ANALYTICS_CHECK_FOR_UPDATES": "false",
    }
    with _running(folder, (program, "--homepath", "/usr/share/grafana"), extra):
        _say(f"Grafana     http://127.0.0.1:{port}/d/headrace")
        yield


def _say(words: str) -> None:
    sys.stdout.write(f"{words}\n")
    sys.stdout.flush()


def main() -> int:
    """Observe the stack of the usual data folder, until Ctrl-C or SIGTERM."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        observe(Settings.model_validate({}))
    except KeyboardInterrupt:
        return 0
    except Missing as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
