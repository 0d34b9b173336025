from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.core.config import Retriever
from deployments.core.types import Chunk, Principal, Source
from deployments.retriever.index import Index
from deployments.retriever.search import MAX_TERMS, terms, vocabulary, words
from tests.fakes import FakeEmbeds

LANGUAGES = {
    "German": ("Die Bäckerei backt jeden Morgen frische Brötchen.", "Der Zug nach München hat Verspätung.", "frische Brötchen"),
    "Japanese": (
        "東京タワーは東京都港区にある電波塔です。高さは333メートルです。",
        "京都には多くの寺院と神社があります。",
        "東京タワーの高さ",
    ),
    "Chinese": ("北京是中华人民共和国的首都。", "上海是中国最大的城市。", "首都在哪里"),
    "Arabic": ("الكتاب على الطاولة في المكتبة الكبيرة", "ذهب الولد إلى المدرسة صباحا", "أين الكتاب"),
    "Thai": ("กรุงเทพมหานครเป็นเมืองหลวงของประเทศไทย", "เชียงใหม่อยู่ทางภาคเหนือ", "เมืองหลวง"),
    "Korean": ("서울은 대한민국의 수도이다", "부산은 항구 도시이다", "대한민국 수도"),
    "Russian": ("Москва является столицей России", "Санкт-Петербург стоит на Неве", "Москва"),
}


async def nothing(principal: Principal, store_id: str) -> bool:
    return False


@pytest.mark.parametrize("language", LANGUAGES)
async def test_text_is_found_by_its_words_in_any_script(language: str, tmp_path: Path):
    wanted, other, question = LANGUAGES[language]
    index = Index(tmp_path, b"key", nothing, Retriever(open_tables=1))
    shelf = index.of(Principal("ours", "key", frozenset()))
    for name, text in (("other", other), ("wanted", wanted)):
        await shelf.replace("store", Source(name), [Chunk(0, text, (), 0, len(text), 9)], FakeEmbeds.vector(text)[None])
    _, matching = await shelf.search("store", question, FakeEmbeds.vector(question), 5)
    await index.close()
    assert [hit.file_id for hit in matching] == ["wanted"]


def test_text_search_reads_words_only():
    assert terms('Where\'s `BackgroundTasks`? AND (x:*) "quoted" ^2 \\ ;--') == "where s backgroundtasks background tasks and x quoted 2"
    assert terms("?!\"'*") == ""
    assert len(terms(" ".join(f"w{number}" for number in range(1000))).split()) == MAX_TERMS


def test_parts_of_identifiers_are_indexed_beside_the_whole():
    assert words("Use HTTPException and BackgroundTasks") == "Use HTTPException and BackgroundTasks HTTP Exception Background Tasks"
    assert vocabulary("Use HTTPException") == {"use", "httpexception", "http", "exception"}


def test_where_words_are_not_set_apart_pairs_of_signs_stand_for_them():
    assert terms("東京タワー v2") == "東京 京タ タワ ワー v2"
    assert words("水 Tokyo東京都") == "水 Tokyo東京都 水 東京 京都"
    assert vocabulary("東京都") >= {"東京", "京都"}


@given(st.text(max_size=200))
def test_any_text_gives_harmless_terms(text: str):
    assert all(
        character.isalnum() or character in "_ " or character.isidentifier() or ("a" + character).isidentifier()
        for character in terms(text)
    )
