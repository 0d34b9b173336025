"""The answers to questions, whole and in pieces, and what conversations consist of; for the OpenAPI document alone."""

from typing import Any, Literal

from pydantic import BaseModel, RootModel

from deployments.gateway.shapes import Shape, Trouble


class Broken(Trouble):
    """Why an answer broke off, and when it may be asked for again."""

    param: str | None = None
    type: str = ""
    retry_after_ms: int = 0


class BrokenStream(Shape):
    """The end of a stream that broke off."""

    error: Broken


class TokenCount(Shape):
    """How long an input is."""

    object: Literal["response.input_tokens"]
    input_tokens: int


class ChatUsage(Shape):
    """Tokens of a completion."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: dict[str, int]
    completion_tokens_details: dict[str, int]


class Called(Shape):
    """The function of a call."""

    name: str | None = None
    arguments: str


class ChatCall(Shape):
    """A call, or in a stream a piece of one."""

    index: int | None = None
    id: str | None = None
    type: Literal["function"] = "function"
    function: Called


class Said(Shape):
    """What the assistant said, or in a stream a piece of it."""

    role: Literal["assistant"] | None = None
    content: str | None = None
    refusal: str | None = None
    annotations: tuple[dict[str, Any], ...] = ()
    tool_calls: tuple[ChatCall, ...] = ()


_Why = Literal["stop", "length", "content_filter", "tool_calls"]


class Choice(Shape):
    """One answer."""

    index: int
    message: Said
    logprobs: dict[str, Any] | None
    finish_reason: _Why | None


class Piece(Shape):
    """A piece of one answer."""

    index: int
    delta: Said
    logprobs: dict[str, Any] | None
    finish_reason: _Why | None


class ChatCompletion(Shape):
    """A whole chat completion."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    system_fingerprint: str
    service_tier: str
    choices: list[Choice]
    usage: ChatUsage


class ChatChunk(Shape):
    """The data of one event of a streamed chat completion; behind the last comes `[DONE]`."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    system_fingerprint: str
    service_tier: str
    choices: list[Piece]
    usage: ChatUsage | None


class ChatEvent(RootModel[ChatChunk | BrokenStream]):
    """The data of one event: a chunk, or as the last of all an error."""


class TextChoice(Shape):
    """One answer to a prompt, or a piece of it."""

    text: str
    index: int
    logprobs: None
    finish_reason: _Why | None


class Completion(Shape):
    """A legacy completion, or a piece of one."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[TextChoice]
    usage: ChatUsage | None


class TextEvent(RootModel[Completion | BrokenStream]):
    """The data of one event: a piece of a completion, or as the last of all an error."""


class InputText(Shape):
    """What was said to the model."""

    type: Literal["input_text"]
    text: str


class OutputText(Shape):
    """What the model said."""

    type: Literal["output_text"]
    text: str
    annotations: list[dict[str, Any]]
    logprobs: list[dict[str, Any]]


class RefusalText(Shape):
    """What the model would not do."""

    type: Literal["refusal"]
    refusal: str


_Status = Literal["in_progress", "completed", "incomplete", "searching"]


class MessageItem(Shape):
    """A message."""

    id: str
    type: Literal["message"]
    role: Literal["user", "assistant", "system", "developer"]
    status: _Status
    content: list[InputText | OutputText | RefusalText]


class CallItem(Shape):
    """A call of one of the caller's functions."""

    id: str
    type: Literal["function_call"]
    status: _Status
    call_id: str
    name: str
    arguments: str


class OutputItem(Shape):
    """What such a call came to."""

    id: str
    type: Literal["function_call_output"]
    status: _Status
    call_id: str
    output: str | list[InputText | RefusalText]


class SearchItem(Shape):
    """A search in a vector store."""

    id: str
    type: Literal["file_search_call"]
    status: _Status
    queries: list[str]
    results: list[dict[str, Any]] | None


class ReasoningItem(Shape):
    """What the model thought."""

    id: str
    type: Literal["reasoning"]
    summary: list[dict[str, Any]]


class ServedItem(Shape):
    """A call of a tool that headrace runs, and what it came to."""

    id: str
    type: Literal["mcp_call"]
    status: Literal["in_progress", "completed", "failed"]
    server_label: str
    name: str
    arguments: str
    output: str | None
    error: dict[str, Any] | None
    approval_request_id: str | None


class ApprovalItem(Shape):
    """A call that waits for the caller's approval."""

    id: str
    type: Literal["mcp_approval_request"]
    server_label: str
    name: str
    arguments: str


class ApprovedItem(Shape):
    """What the caller said to that."""

    id: str
    type: Literal["mcp_approval_response"]
    approval_request_id: str
    approve: bool
    reason: str | None


class Item(RootModel[MessageItem | CallItem | OutputItem | SearchItem | ReasoningItem | ServedItem | ApprovalItem | ApprovedItem]):
    """Anything of a conversation."""


class Items(Shape):
    """A page of items."""

    object: Literal["list"]
    data: list[Item]
    first_id: str | None
    last_id: str | None
    has_more: bool


class Conversation(Shape):
    """A session that the server keeps."""

    id: str
    object: Literal["conversation"]
    created_at: int
    metadata: dict[str, str]


class ResponseUsage(Shape):
    """Tokens of a response."""

    input_tokens: int
    input_tokens_details: dict[str, int]
    output_tokens: int
    output_tokens_details: dict[str, int]
    total_tokens: int


class Response(Shape):
    """A response as it stands."""

    id: str
    object: Literal["response"]
    created_at: int
    completed_at: int | None
    status: Literal["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"]
    error: Broken | None
    incomplete_details: dict[Literal["reason"], str] | None
    instructions: str | None
    previous_response_id: str | None
    conversation: dict[Literal["id"], str] | None
    model: str
    output: list[Item]
    parallel_tool_calls: bool
    tools: list[dict[str, Any]]
    tool_choice: str | dict[str, Any]
    truncation: Literal["auto", "disabled"]
    text: dict[str, Any]
    temperature: float
    top_p: float
    presence_penalty: float
    frequency_penalty: float
    top_logprobs: int
    max_output_tokens: int | None
    max_tool_calls: int | None
    store: bool
    background: bool
    service_tier: str
    metadata: dict[str, str]
    usage: ResponseUsage | None
    reasoning: dict[str, Any] | None
    user: str | None
    safety_identifier: str | None
    prompt_cache_key: str | None
    prompt_cache_retention: str = ""
    prompt: dict[str, Any] | None = None


class ResponseEvent(BaseModel):
    """One event of a response; the other fields depend on its type, as OpenAI's clients know them."""

    type: str
    sequence_number: int = 0


class Events(Shape):
    """Some events of a response."""

    object: Literal["list"]
    data: list[ResponseEvent]
    has_more: bool
