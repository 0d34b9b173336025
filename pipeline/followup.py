"""The last turn of a conversation as it is searched for: by itself, or with what it follows up on; pure and without a model."""

import re
from collections.abc import Sequence

import msgspec

from deployments.core.types import Message

MAX_CHARS = 300
"""What is read of the answer before: its beginning says what it is about."""
BACKWARD = frozenset(
    """
    it its they them their theirs he him his she her hers this that these those such same both either latter former ones
    er ihn ihm ihr ihre ihren ihrem dies diese dieser dieses diesen diesem jene jener jenes davon dazu damit dafür darüber
    il elle ils elles lui leur celui celle ceux cela ça ceci ello ella ellos ellas eso esto ese esa esos esas
    """.split()
)
"""Words that point at something said before (English, German, French, Spanish)."""
UNSPACED = re.compile("それ|これ|あれ|その|この|彼|它|他们|她|这个|那个|이것|그것")
"""The same where words are not set apart by spaces."""
LEADS = re.compile(
    r"\W*(?:(?:what|how) about|and\b|und\b|et\b|y\b|why\W*$|how so\b|how come\W*$|for example\W*$|anything else\b)", re.IGNORECASE
)
WORD = re.compile(r"\w+")


class Asked(msgspec.Struct, frozen=True):
    """What the text search looks for, and what is embedded."""

    text: str
    meaning: str


def asked(question: str, before: Sequence[Message]) -> Asked:
    """The question, and where it can not stand alone the user's question before it; its meaning is that of the answer between, too.

    The words of an answer mislead a text search, while an embedding gains from them.
    """
    earlier = [message for message in before if message.content.strip() and message.role in ("user", "assistant")]
    last = next((place for place in reversed(range(len(earlier))) if earlier[place].role == "user"), None)
    if last is None or stands(question):
        return Asked(question, question)
    text = f"{question}\n{earlier[last].content}"
    answers = [message.content[:MAX_CHARS] for message in earlier[last + 1 :]][-1:]
    return Asked(text, "\n".join([text, *answers]))


def stands(question: str) -> bool:
    """Whether a question can be understood without what was said before it.

    A short one often can: among 52 real last turns of mtrag_un, lengthening the seven of up to three words made the search worse.
    """
    if LEADS.match(question) or UNSPACED.search(question):
        return False
    return BACKWARD.isdisjoint(word.lower() for word in WORD.findall(question))
