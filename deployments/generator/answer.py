"""What a backend says, brought into the log: stop texts, the relay filter, probabilities and calls; sans-I/O beside its writer."""

from collections.abc import Sequence

from deployments.core.errors import StreamInterrupted
from deployments.core.estimate import estimate
from deployments.core.ids import new_id
from deployments.core.log import Writer
from deployments.core.ports import Relay
from deployments.core.types import Called, Citation, Generation, Logprob, Outcome, Reason, Text, Usage
from deployments.generator.calls import Calls, Sorted
from deployments.generator.resumed import Resumed, moved, own, spoken
from deployments.generator.sse import Piece, Seam
from deployments.generator.stops import Spoken, Stops


class Answer:
    """One model call as it is written, from its log's end on.

    Raises StreamInterrupted for a log that can't be gone on with: within the call of a function, or within JSON.
    """

    def __init__(self, generation: Generation, relay: Relay, writer: Writer):
        written, self._earlier_chars = own(generation)
        if any(isinstance(delta, Called) for delta in written):
            raise StreamInterrupted("the call of a function broke off")
        begun = any(isinstance(delta, Text) for delta in written)
        if begun and generation.sampling.owes_json:
            raise StreamInterrupted("a JSON object broke off")
        self._generation, self._writer = generation, writer
        self._relay = Resumed(relay, written) if begun else relay
        self._said_tokens = estimate(spoken(written)) if begun else 0
        self._stops = Stops(generation.sampling.stop) if generation.sampling.stop else None
        self._spoken = Spoken()
        self._calls = Sorted(generation.toolbox, Calls(lambda: new_id("call_")))
        self._reason: str | None = None
        self._usage: Usage | None = None
        self._chunks = 0

    @property
    def over(self) -> bool:
        """Whether the model has said why it ended."""
        return self._reason is not None

    @property
    def stopped(self) -> bool:
        """Whether a stop text has come, so that nothing more is wanted of the model."""
        return self._stops is not None and self._stops.stopped

    def take(self, piece: Piece) -> None:
        """Write what a piece brings."""
        if piece.seam:
            self._switch(piece.seam)
        self._reason, self._usage = piece.reason or self._reason, piece.usage or self._usage
        self._chunks += piece.chunks
        self._writer.count(piece.chunks)
        if self._stops:
            text = self._stops.feed(piece.text)
            self._say(self._relay.feed(text), self._spoken.feed(piece.logprobs, text))
        elif piece.text or piece.logprobs:
            self._say(self._relay.feed(piece.text), piece.logprobs)
        if piece.calls and not self.stopped:
            self._call(piece)

    def end(self) -> None:
        """Write what was held back; raises InvalidOutput where arguments that were to fit a schema do not."""
        self._say_rest()
        if self.over and self._reason != "length" and not self.stopped:
            self._calls.check()

    def _say_rest(self) -> None:
        text = self._stops.flush() if self._stops else ""
        held = self._relay.feed(text) if text else []
        self._say(held + self._relay.flush(), self._spoken.feed((), text))

    def outcome(self) -> Outcome:
        """How it ended; what an earlier call of the model has said counts as said, roughly, not as read."""
        said, used = self._said_tokens, self._usage
        if used:
            used = Usage(max(0, used.prompt_tokens - said), used.completion_tokens + said)
        else:  # the backend was not heard to its end: roughly what went in, and the events that came out
            used = Usage(sum(estimate(message.content) for message in self._generation.messages), self._chunks + said)
        return Outcome(self._writer.next_seq, self._why(), used, self._calls.ours)

    def _switch(self, seam: Seam) -> None:
        """Another backend takes over; what it was shown of the answer counts as said, not as read."""
        self._said_tokens, self._chunks = estimate(seam.shown), 0
        self._writer.switched(seam.code)

    def _call(self, piece: Piece) -> None:
        if not self._calls.count:
            self._say_rest()
        for call in self._calls.feed(piece.calls):
            self._writer.call(call.index, call.id, call.name, call.arguments)

    def _say(self, pieces: list[str | Citation], logprobs: Sequence[Logprob]) -> None:
        """Write; probabilities go with the first text, or wait for the next where there is none yet."""
        if logprobs:
            self._writer.text("", logprobs)
        for piece in pieces:
            self._writer.text(piece) if isinstance(piece, str) else self._writer.cite(moved(piece, self._earlier_chars))

    def _why(self) -> Reason:
        if self.stopped:
            return "stop"
        if self._reason in ("length", "content_filter"):
            return self._reason
        return "tool_calls" if self._calls.count else "stop"
