"""Questions to ask, each different from all others so that no cache answers."""

QUESTIONS = (
    "How do I declare an optional query parameter?",
    "What happens to open streams when a replica restarts?",
    "Which command starts the service on a laptop?",
    "How are passages ranked after the search?",
    "Where is the API key written, and who may read it?",
    "How can I limit the number of tokens in an answer?",
    "What is the difference between a list and a tuple?",
    "How does the retry policy treat a status of 503?",
    "Which environment variable sets the data folder?",
    "How do I install a package without its dependencies?",
    "What does the health check look at?",
    "How can a client resume an interrupted answer?",
)


def question(number: int) -> str:
    """Return question `number`."""
    return f"{QUESTIONS[number % len(QUESTIONS)]} (question {number})"


def padded(text: str, words: int) -> str:
    """Return a question made longer: about so many words in all."""
    return f"{text}{' mill' * (words - text.count(' ') - 1)}"


def page(number: int) -> tuple[str, bytes]:
    """Return page `number` as the form of an upload: its content type and its bytes."""
    boundary = f"page{number:08d}"
    text = "\n\n".join(f"## Part {part}\n{question(number * 10 + part)} Wheel {number * 10 + part} turns." for part in range(10))
    parts = [
        '--{0}\r\ncontent-disposition: form-data; name="purpose"\r\n\r\nassistants\r\n',
        '--{0}\r\ncontent-disposition: form-data; name="file"; filename="page{1}.md"\r\ncontent-type: text/markdown\r\n\r\n',
    ]
    head = "".join(parts).format(boundary, number)
    return f"multipart/form-data; boundary={boundary}", f"{head}# Page {number}\n\n{text}\r\n--{boundary}--\r\n".encode()
