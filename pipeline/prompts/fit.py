"""What of a turn's context goes into its prompt. Pure."""

from collections.abc import Sequence

import msgspec

from deployments.core.estimate import estimate, length
from deployments.core.types import Message, Passage, Turn
from pipeline.abridgement import abridge
from pipeline.prompts.compose import compose
from pipeline.session import recalled


class Dropped(msgspec.Struct, frozen=True, omit_defaults=True):
    """What was left out for want of room, in tokens, and the passages of which nothing is left."""

    summary_tokens: int = 0
    passage_tokens: int = 0
    passages: int = 0


class Fitted(msgspec.Struct, frozen=True):
    """What goes in, and what does not; `messages` is the prompt that it makes."""

    notes: tuple[Message, ...]
    passages: tuple[Passage, ...]
    dropped: Dropped
    messages: tuple[Message, ...] = ()


def fit(
    question: str,
    notes: Sequence[Message],
    passages: Sequence[Passage],
    context_tokens: int,
    room_tokens: int | None = None,
    earlier: Sequence[str] = (),
) -> Fitted:
    """What fits into `room_tokens` (None is no bound) beside what is said anyway: the notes on the conversation so far, which are short and
    found nowhere else; then passages in their order, which is that of score and recency, abridged to `context_tokens` at most.
    """
    wanted = sum(estimate(note.content) for note in notes)
    kept = tuple(notes) if room_tokens is None or wanted <= room_tokens else ()
    room = context_tokens if room_tokens is None else min(context_tokens, room_tokens - (wanted if kept else 0))
    sources = abridge(question, passages, max(room, 0), earlier)
    cut = sum(one.chunk.tokens for one in passages) - sum(one.chunk.tokens for one in sources)
    return Fitted(kept, sources, Dropped(0 if kept else wanted, max(cut, 0), len(passages) - len(sources)))


def prompt(
    turn: Turn, instruction: str, notes: Sequence[Message], passages: Sequence[Passage], context_tokens: int, longest: int | None
) -> Fitted:
    """The prompt of a turn, of at most `longest` tokens as `core.estimate.length` counts them (None is no bound); what the turn itself
    says is in it even so.
    """
    said = length(compose(turn.messages, (), instruction))
    budget, room = context_tokens, None if longest is None else longest - said
    while True:
        fitted = fit(turn.question, notes, passages, budget, room, turn.earlier)
        messages = recalled(turn.messages, fitted.notes) if fitted.notes else turn.messages
        made = msgspec.structs.replace(fitted, messages=compose(messages, fitted.passages, instruction))
        over = 0 if longest is None else length(made.messages) - longest
        if over <= 0 or not fitted.passages:
            return made
        budget = sum(one.chunk.tokens for one in fitted.passages) - over  # each round leaves out as much as is too much, one token at least
