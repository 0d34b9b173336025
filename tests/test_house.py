"""The house rules that no other tool checks: sizes, names, words, maps and promises."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from pydantic import BaseModel

from deployments.core import telemetry
from deployments.core.config import Settings
from deployments.core.sections import Section
from pipeline.weights import EMBEDDED
from tests import configuration
from tests import telemetry as metrics

ROOT = Path(__file__).parents[1]
CODE = ("deployments", "pipeline", "loadtest")
BANNED_NAMES = {"utils", "util", "helpers", "helper", "common", "manager", "base", "mixin", "misc"}
BANNED_CALLS = {"eval", "exec", "compile", "yaml.load", "yaml.unsafe_load", "torch.load", "numpy.load"}
BANNED_MODULES = {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}


@cache
def tracked() -> tuple[Path, ...]:
    """Files of the repository, those about to be added included."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    names = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\0")
    return tuple(ROOT / name for name in names if name and (ROOT / name).is_file())


def python(*folders: str) -> list[Path]:
    return [path for path in tracked() if path.suffix == ".py" and path.relative_to(ROOT).parts[0] in folders]


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), str(path))


def calls(path: Path) -> Iterator[tuple[str, int]]:
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node.lineno


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module


def test_imports_keep_the_contracts():
    done = subprocess.run([Path(sys.executable).parent / "lint-imports"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_no_file_is_too_long():
    long = {name(path): len(path.read_text().splitlines()) for path in python(*CODE, "tests")}
    assert {n: lines for n, lines in long.items() if lines > (500 if n.startswith("tests/") else 400)} == {}


def test_no_function_is_too_long():
    long = [
        f"{name(path)}:{node.lineno} {node.name}"
        for path in python(*CODE)
        if "versions" not in path.parts  # a migration is a list of statements that never changes again
        for node in ast.walk(tree(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno and node.end_lineno - node.lineno >= 60
    ]
    assert long == []


def test_files_and_classes_are_named_after_what_they_are():
    files = [name(path) for path in python(*CODE, "tests") if BANNED_NAMES & set(path.stem.split("_"))]
    classes = [
        f"{name(path)} {node.name}"
        for path in python(*CODE)
        for node in ast.walk(tree(path))
        if isinstance(node, ast.ClassDef) and re.search(r"(Utils?|Helpers?|Manager|Mixin)$", node.name)
    ]
    assert files + classes == []


def test_an_init_file_holds_a_docstring_only():
    full = [
        name(path)
        for path in python(*CODE)
        if path.name == "__init__.py" and (len(tree(path).body) != 1 or not ast.get_docstring(tree(path)))
    ]
    assert full == []


def test_no_future_annotations():
    assert [name(path) for path in python(*CODE, "tests") if "__future__" in imports(path)] == []


def test_modules_classes_and_public_functions_make_a_promise():
    silent = []
    for path in python(*CODE):
        for node in (tree(path), *tree(path).body):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and not ast.get_docstring(node):
                called = getattr(node, "name", "")
                if not called.startswith("_"):
                    silent.append(f"{name(path)} {called}")
    assert silent == []


def test_nothing_is_deserialised_into_code():
    found = [f"{name(path)}:{line} {call}" for path in python(*CODE) for call, line in calls(path) if call in BANNED_CALLS]
    found += [
        f"{name(path)} imports {module}" for path in python(*CODE) for module in imports(path) if module.split(".")[0] in BANNED_MODULES
    ]
    assert found == []


def test_only_the_settings_read_the_environment():
    readers = [
        f"{name(path)}:{node.lineno}"
        for path in python("deployments", "pipeline")
        if name(path) != "deployments/core/config.py"
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Attribute | ast.ImportFrom)
        and re.match(r"os\.(environ|getenv)|from os import .*(environ|getenv)", ast.unparse(node))
    ]
    assert readers == []


def test_nothing_is_printed_but_by_the_command_line():
    printers = [f"{name(path)}:{line}" for path in python("deployments", "pipeline") for call, line in calls(path) if call == "print"]
    assert printers == []


def models(model: type[BaseModel]) -> Iterator[type[BaseModel]]:
    yield model
    for field in model.model_fields.values():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            yield from models(field.annotation)


@pytest.mark.parametrize("model", sorted(set(models(Settings)), key=lambda m: m.__name__), ids=lambda m: m.__name__)
def test_every_setting_says_what_it_is_and_is_read(model: type[BaseModel]):
    code = "\n".join(path.read_text() for path in python("deployments", "pipeline"))
    for field, info in model.model_fields.items():
        if not (isinstance(info.annotation, type) and issubclass(info.annotation, Section)):
            assert info.description, f"{model.__name__}.{field} has no description"
        assert re.search(rf"\.{field}\b", code), f"{model.__name__}.{field} is read nowhere"


def test_every_setting_is_on_its_page():
    assert configuration.PAGE.read_text() == configuration.page(), "`python -m tests.configuration` writes the page anew"


def test_every_metric_is_on_its_page():
    assert metrics.PAGE.read_text() == metrics.page(), "`python -m tests.telemetry` writes the page anew"


def test_every_metric_is_given_values():
    names = {name for name, value in vars(telemetry).items() if isinstance(value, telemetry.Metric)}
    given = {found[1] for path in python(*CODE) for found in re.finditer(r"\b([A-Z_]+)\.(?:add|see|set)\(", path.read_text())}
    assert len(names) == len(telemetry.METRICS)
    assert names - given == set()


def test_metrics_are_named_as_prometheus_names_them():
    for one in telemetry.METRICS:
        assert re.fullmatch("(headrace|gen_ai)_[a-z_]+", one.name)
        assert one.name.endswith("_total") == (one.kind == "counter")
        assert {"tenant", "user", "key", "id"}.isdisjoint(one.labels)
    assert len({one.name for one in telemetry.METRICS}) == len(telemetry.METRICS)


def test_the_readmes_map_is_the_disk():
    mapped = set(re.findall(r"^[\s│├└─]*([\w.-]+)/", (ROOT / "README.md").read_text(), re.M))
    folders = {path.relative_to(ROOT).parts[0] for path in tracked() if len(path.relative_to(ROOT).parts) > 1}
    assert {folder for folder in folders if not folder.startswith(".")} <= mapped


def test_no_file_names_a_machine():
    words = re.compile(
        "|".join(("/wo" + "rk/", "/ro" + "ot/", "/opt/wh" + "eels", "/opt/py" + "pi", r"\.li" + "brary", "/home/" + r"\w+/"))
    )
    found = []
    for path in tracked():
        try:
            text = path.read_text()
        except UnicodeDecodeError:
            continue
        found += [f"{name(path)}:{number}" for number, line in enumerate(text.splitlines(), 1) if words.search(line)]
    assert found == []


def test_the_locks_pin_every_package_by_hash_and_name_no_index():
    for lock in ("runtime", "dev", "torch", "models"):
        text = (ROOT / "requirements" / f"{lock}.txt").read_text()
        assert not re.search(r"^--|^(https?|file):| @ ", text, re.M)
        for entry in re.split(r"\n(?=\S)", re.sub(r"^#.*\n", "", text, flags=re.M).strip()):
            if "sys_platform == 'none'" not in entry:
                assert "==" in entry, entry
                assert "--hash=sha256:" in entry, entry


def test_the_models_weights_are_pinned():
    assert {one.role for one in EMBEDDED} == {"embedder", "generator"}
    assert all(re.fullmatch(r"[0-9a-f]{64}", one.sha256) for one in EMBEDDED)
