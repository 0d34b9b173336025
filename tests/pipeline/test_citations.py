import pickle
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.core.types import Chunk, Citation, Generation, LogRef, Passage, Sampling
from pipeline.citations import MAX_FILES, MAX_SENTENCE_CHARS, CitationFilter, cite

CORS = (
    "## Use `CORSMiddleware`\n\nYou can configure it in your FastAPI application using the `CORSMiddleware`. "
    "Create a list of allowed origins (as strings). Add it as a **middleware** to your FastAPI application. "
    "The default is 600 seconds, e.g. ten minutes."
)
TASKS = (
    "You can define background tasks to be run *after* returning a response. This is useful for operations that need to happen after a "
    "request, but that the client doesn't really have to be waiting for. This includes email notifications sent after performing an action."
)
FILES = 'Declare the file parameter with a type of `UploadFile`. It uses a "spooled" file: stored in memory up to a maximum size limit.'


def passage(number: int, title: str, text: str) -> Passage:
    return Passage(f"file{number}", f"{title}.md", title, Chunk(0, text, (title,), 0, len(text), 50), 1.0, 0.6)


PASSAGES = (passage(0, "CORS", CORS), passage(1, "Background Tasks", TASKS), passage(2, "Request Files", FILES))
URLS = tuple(f"http://127.0.0.1:8000/files/file{number}#chunk=0" for number in range(3))


def run(*pieces: str, passages: tuple[Passage, ...] = PASSAGES) -> tuple[str, list[Citation]]:
    relay = CitationFilter(passages, URLS[: len(passages)])
    out = [item for piece in pieces for item in relay.feed(piece)] + relay.flush()
    text = "".join(item for item in out if isinstance(item, str))
    citations = [item for item in out if isinstance(item, Citation)]
    for citation in citations:
        assert text[citation.start : citation.end] == f"[{citation.number}]"
    return text, citations


def cited(answer: str, passages: tuple[Passage, ...] = PASSAGES) -> list[str]:
    return [citation.title for citation in run(answer, passages=passages)[1]]


def test_json_passes_as_the_model_wrote_it_whatever_passages_say():
    log = LogRef("r", "t", (), record=False)
    owed = Generation(log, (), Sampling(json_object=True), PASSAGES, URLS, 5)
    answer = '{"answer": "The default is 600 seconds, e.g. ten minutes. Create a list of allowed origins (as strings)."}'
    relay = cite(owed)
    assert (
        "".join(str(item) for piece in answer.partition("600") for item in relay.feed(piece)) + "".join(map(str, relay.flush())) == answer
    )
    plain = cite(Generation(log, (), Sampling(), PASSAGES, URLS, 5))
    assert any(isinstance(item, Citation) for item in plain.feed(answer[12:-2]) + plain.flush()), "the same words are cited in prose"


def test_a_sentence_a_passage_says_is_marked_at_its_end_with_an_exact_span():
    text, citations = run("You can define background tasks to be run after returning a response. Then go on.")
    assert text == "You can define background tasks to be run after returning a response. [1] Then go on."
    assert citations == [Citation(70, 73, 1, URLS[1], "Background Tasks")]


def test_numbers_count_in_the_order_of_first_citation():
    text, citations = run(
        "Declare the file parameter with a type of `UploadFile`. Use the `CORSMiddleware` to configure it in your application. "
        "The spooled file is stored in memory up to a maximum size."
    )
    assert [(citation.number, citation.title) for citation in citations] == [(1, "Request Files"), (2, "CORS"), (1, "Request Files")]
    assert text.count("[1]") == 2


def test_a_close_paraphrase_is_cited_and_a_distant_one_is_not():
    assert cited("Background tasks run after the response is returned, which is useful for sending email notifications.") == [
        "Background Tasks"
    ]
    assert cited("A scheduler executes deferred work once the caller has been served with all the data it asked for.") == []


@pytest.mark.parametrize(
    "sentence",
    [
        "I could not find that in the documents.",
        "I'm sorry, but the sources do not say anything about background tasks after returning a response.",
        "The documents do not mention how background tasks are run after returning a response.",
        "There is no information about the CORSMiddleware of a FastAPI application in the sources.",
        "Sure, I can help you with that!",
        "Let me know if you have any other questions about your application.",
        "You can use it in your application to do what you need.",
        "Here is an example of how to use it:",
        "I hope this helps you with your project.",
        "Yes.",
    ],
)
def test_refusals_and_small_talk_are_not_cited(sentence: str):
    assert cited(sentence) == []


@pytest.mark.parametrize(
    "sentence",
    [
        "You can define background tasks with `run_later` to be run after returning a response.",
        "You can define background tasks to be run 5 seconds after returning a response.",
        "Declare the file parameter with a type of `Upload-File` stored in memory.",
        "You can configure it in your FastAPI application using the CorsPlugin.",
    ],
)
def test_a_name_or_number_that_the_passage_lacks_is_not_supported(sentence: str):
    assert cited(sentence) == []


def test_no_sentence_cites_what_is_not_among_the_passages():
    answer = "You can define background tasks to be run after returning a response. Declare the file parameter with a type of `UploadFile`."
    assert cited(answer, passages=PASSAGES[:1]) == []
    assert cited(answer, passages=()) == []


def test_markers_the_model_writes_are_dropped():
    text, citations = run("This is so [1]. And this [2, 3] too[4] [^5]. A list [like this] stays, and [2024] too.")
    assert text == "This is so. And this too. A list [like this] stays, and [2024] too."
    assert citations == []
    text, _ = run("You can define background tasks to be run after returning a response [3].[2] Next")
    assert text == "You can define background tasks to be run after returning a response. [1] Next"


def test_code_is_left_alone():
    code = "Look:\n```python\nx = items[0]  # background tasks run after returning a response.\n\ny = a[1]\n```\nUse `b[2]` there.\n"
    assert run(code) == (code, [])
    unclosed = "~~~\nYou can define background tasks to be run after returning a response.\n"
    assert run(unclosed) == (unclosed, [])


def test_headings_and_tables_are_not_marked_and_list_items_are():
    heading = "## Define background tasks to be run after returning a response\n"
    table = "| define background tasks | run after returning a response |\n"
    assert run(heading + table) == (heading + table, [])
    text, _ = run("1. Define background tasks to be run after returning a response\n2. Create a list of allowed origins as strings\n")
    assert (
        text == "1. Define background tasks to be run after returning a response [1]\n2. Create a list of allowed origins as strings [2]\n"
    )


@pytest.mark.parametrize(
    "sentence",
    [
        "You can define background tasks, e.g. email notifications, to be run after returning a response.",
        "You can define background tasks (vs. Celery) to be run after returning a response.",
        "The default of `CORSMiddleware` is 600 seconds (see https://example.org/a.b), about ten minutes.",
        "You can define background tasks to be run by J. Smith after returning a response.",
        "Background tasks to be run after returning a response... include email notifications.",
    ],
)
def test_a_full_stop_inside_a_sentence_does_not_end_it(sentence: str):
    text, _ = run(sentence + " Next.")
    assert text == f"{sentence} [1] Next."


def test_text_is_passed_on_with_the_feed_that_brings_it():
    relay = CitationFilter(PASSAGES, URLS)
    for token in ["You", " can", " define", " background", " tasks", ","]:
        assert relay.feed(token) == [token]
    assert relay.feed(" ") == []
    assert relay.feed("[") == []
    assert relay.feed("link") == [" [link"]


def test_not_more_than_a_few_files_are_cited():
    passages = tuple(
        passage(number, f"Title {number}", f"The colour of widget{number}_x is shade{number}_y in the catalogue{number}_z.")
        for number in range(5)
    )
    relay = CitationFilter(passages, [f"u{number}" for number in range(5)])
    out = relay.feed(" ".join(p.chunk.text for p in passages)) + relay.flush()
    assert len({item.url for item in out if isinstance(item, Citation)}) == MAX_FILES


def test_memory_is_bounded_and_an_endless_sentence_is_not_cited():
    relay = CitationFilter(PASSAGES, URLS)
    for _ in range(200):
        relay.feed("background tasks to be run after returning a response, " * 10 + " " * 50 + "[1")
    assert len(pickle.dumps(relay)) < 40 * MAX_SENTENCE_CHARS
    assert not [item for item in relay.flush() if isinstance(item, Citation)]


def test_the_filter_can_be_pickled():
    relay = pickle.loads(pickle.dumps(CitationFilter(PASSAGES, URLS)))  # noqa: S301 - our own bytes
    assert relay.feed("You can define background tasks to be run after returning a response.\n")


SAMPLE = (
    "You can define background tasks to be run after returning a response [2]. Configure `CORSMiddleware` in your FastAPI application[3], "
    "e.g. as\n\n## Head [1]\n```py\na[1]\n```\n- Create a list of allowed origins (as strings)\n\n"
    "See [docs](x) v1.2. 🙂 Declare the file parameter with type UploadFile."
)


@given(st.lists(st.integers(0, len(SAMPLE)), max_size=30))
def test_the_result_does_not_depend_on_how_the_text_is_split(cuts: list[int]):
    edges = [0, *sorted(cuts), len(SAMPLE)]
    pieces = [SAMPLE[start:end] for start, end in pairwise(edges)]
    assert run(*pieces) == run(SAMPLE)
    assert len(run(SAMPLE)[1]) == 4


@given(st.lists(st.integers(0, 9000), max_size=30))
def test_endless_words_and_spaces_are_the_same_however_they_are_split(cuts: list[int]):
    said = "You can define background tasks to be run after returning a response."
    text = f"{said} {' ' * 5000}[1] {'a' * 3000}. {said}\n"
    edges = [0, *sorted(cuts), len(text)]
    assert run(*[text[start:end] for start, end in pairwise(edges)]) == run(text)


@given(st.text(alphabet=st.sampled_from("ab. [1]\n`~#|*-,^!? \u00e9\U0001f600"), max_size=80), st.data())
def test_any_text_gives_the_same_in_one_piece_and_in_many(text: str, data: st.DataObject):
    cut = data.draw(st.integers(0, len(text)))
    whole = run(text)
    assert run(*text) == whole
    assert run(text[:cut], text[cut:]) == whole


@given(st.text(alphabet=st.sampled_from("ab. ]\n#|*-,^!? \u00e9\U0001f600"), max_size=80))
def test_text_without_markers_and_support_comes_out_as_it_went_in(text: str):
    assert run(text) == (text, [])


def test_a_record_that_is_quoted_is_cited() -> None:
    fields = {"anvil": "Hult", "gearwheel": "Nyman"}
    texts = [f"part: {part}\nsupplier: {supplier}\nprice: {number}.5" for number, (part, supplier) in enumerate(fields.items(), 70)]
    chunks = [Chunk(number, text, (), 0, len(text), 9, {"supplier": "known"}) for number, text in enumerate(texts)]
    found = [Passage("f", "parts.csv", "parts", chunk, 0.6, 0.6, {}, 0) for chunk in chunks]
    for number, text in enumerate(texts):
        relay = CitationFilter(found, ["u0", "u1"])
        said = [*relay.feed(text.replace("\n", ", ")), *relay.flush()]
        assert [one.url for one in said if isinstance(one, Citation)] == [f"u{number}"]
