"""What a run of `headrace ingest` decides to do, without a server."""

from hypothesis import given
from hypothesis import strategies as st

from pipeline.cli.client import Held
from pipeline.cli.sync import Document, Plan, plan


def document(path: str, content: str = "1", root: str = "docs") -> Document:
    return Document(path, root, content, lambda: content.encode())


def held(name: str, path: str, content: str = "1", root: str = "docs", status: str = "completed") -> Held:
    return Held(name, status, {"path": path, "sha256": content, "root": root})


def test_what_is_new_is_sent() -> None:
    new = document("a")
    assert plan([new], []) == Plan(((new, ()),), (), 0, (), ())


def test_what_is_the_same_is_left_alone() -> None:
    assert plan([document("a")], [held("f1", "a")]) == Plan((), (), 1, (), ())


def test_what_changed_replaces_its_old_form() -> None:
    changed = document("a", "2")
    assert plan([changed], [held("f1", "a", "1")]) == Plan(((changed, ("f1",)),), (), 0, (), ())


def test_what_failed_is_tried_again() -> None:
    again = document("a")
    assert plan([again], [held("f1", "a", status="failed")]) == Plan(((again, ("f1",)),), (), 0, (), ())


def test_what_is_on_its_way_is_waited_for_and_then_replaces_its_old_form() -> None:
    there = [held("f1", "a", "1"), held("f2", "a", "2", status="in_progress")]
    assert plan([document("a", "2")], there) == Plan((), (("f2", "a", ("f1",)),), 0, (), ())


def test_what_an_interrupted_run_left_is_cleaned_up() -> None:
    there = [held("f1", "a", "1"), held("f2", "a", "2")]
    assert plan([document("a", "2")], there) == Plan((), (), 1, ("f1",), ())


def test_what_is_no_longer_found_below_its_root_is_gone() -> None:
    there = [held("f1", "a"), held("f2", "b"), held("f3", "b", root="other"), Held("f4", "completed", {}), Held("f5", "completed")]
    assert plan([document("a")], there) == Plan((), (), 1, (), ("f2",))


def test_the_same_path_below_another_root_is_another_document() -> None:
    mine = document("README.md", "2")
    assert plan([mine], [held("f1", "README.md", "1", root="other")]) == Plan(((mine, ()),), (), 0, (), ())


def test_a_folder_that_was_moved_is_the_same() -> None:
    assert plan([document("a")], [held("f1", "a", root="old place")]) == Plan((), (), 1, (), ())


PATHS = st.sampled_from("abc")
CONTENTS = st.sampled_from("12")
ROOTS = st.sampled_from(["docs", "other"])
STATES = st.sampled_from(["completed", "in_progress", "failed"])


@given(st.lists(st.tuples(PATHS, CONTENTS), max_size=4), st.lists(st.tuples(PATHS, CONTENTS, ROOTS, STATES), max_size=8))
def test_nothing_is_deleted_that_is_not_replaced_and_a_second_run_does_nothing(
    found: list[tuple[str, str]], there: list[tuple[str, str, str, str]]
) -> None:
    documents = [document(path, content) for path, content in dict(found).items()]
    store = {f"f{n}": held(f"f{n}", *each) for n, each in enumerate(there)}
    todo = plan(documents, store.values())
    replaced = (
        {old for _, olds in todo.send for old in olds} | {old for *_, olds in todo.waiting for old in olds} | {*todo.stale, *todo.gone}
    )
    assert all(store[name].attribute("root") == "docs" for name in replaced)
    left = [file for name, file in store.items() if name not in replaced]
    left = [
        Held(file.id, "completed" if any(file.id == name for name, *_ in todo.waiting) else file.status, file.attributes) for file in left
    ]
    left += [held(f"n{n}", one.path, one.sha256) for n, (one, _) in enumerate(todo.send)]
    again = plan(documents, left)
    assert again == Plan((), (), len(documents), (), ())
