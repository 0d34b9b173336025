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
