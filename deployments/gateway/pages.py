"""The pages of the document viewer: plain HTML without script. Everything that comes from a document or a caller is escaped here."""

import base64
import hashlib
from collections.abc import Iterator, Sequence
from html import escape

from deployments.core.types import Chunk

STYLE = """
:root { color-scheme: light dark; --ink: #1c2430; --quiet: #5c6675; --paper: #fbfaf7; --line: #e2dfd7; --mark: #fff3c4; --edge: #d89b00; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e6ea; --quiet: #98a2b1; --paper: #15181d; --line: #2c323b; --mark: #3b3213; --edge: #e0b341; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 46rem; padding: 1.5rem 1.1rem 3rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.6 system-ui, sans-serif; }
header { border-bottom: 1px solid var(--line); margin-bottom: 1.5rem; padding-bottom: 1rem; }
h1 { font-size: 1.5rem; line-height: 1.25; margin: 0; overflow-wrap: anywhere; }
header p, .note { color: var(--quiet); font-size: .9rem; margin: .4rem 0 0; overflow-wrap: anywhere; }
.text { white-space: pre-wrap; overflow-wrap: anywhere; padding-bottom: 40vh; }
.passage { border-left: 3px solid var(--line); display: block; margin-left: -.9rem; padding: 0 .6rem 0 calc(.9rem - 3px);
  scroll-margin-top: 4rem; }
.passage:target { background: var(--mark); border-left-color: var(--edge); }
.number { color: var(--quiet); float: right; font-size: .75rem; padding-left: .8rem; text-decoration: none; user-select: none; }
.number:hover, .number:focus { color: var(--edge); text-decoration: underline; }
form { display: flex; flex-wrap: wrap; gap: .6rem; margin: 1.2rem 0; }
label, form p { flex-basis: 100%; }
input { background: transparent; border: 1px solid var(--quiet); border-radius: .4rem; color: inherit; flex: 1 1 14rem; font: inherit;
  min-width: 0; padding: .5rem .7rem; }
button { background: var(--ink); border: 0; border-radius: .4rem; color: var(--paper); cursor: pointer; font: inherit;
  padding: .5rem 1.2rem; }
.error { border-left: 3px solid #c0392b; margin: 1rem 0; padding-left: .8rem; }
"""

_STYLE_HASH = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()

HEADERS = {
    "content-security-policy": (
        f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "cache-control": "private, no-store",
}


def document(title: str, filename: str, text: str, passages: Sequence[Chunk]) -> str:
    """A document with each passage marked; `#chunk=n` in the address shows passage n."""
    count = f"{len(passages)} passage{'' if len(passages) == 1 else 's'}"
    head = f"<header><h1>{escape(title)}</h1><p>{escape(filename)} · {count}</p></header>"
    return _page(title, f'{head}<main class="text">{"".join(_marked(text, passages))}</main>')


def sign_in(error: str = "", elsewhere: bool = False) -> str:
    """Asks for a key, once; `elsewhere` is a visitor from another site, whose SameSite=Strict cookie the browser held back.

    Both forms go to the page's own address, so that the fragment with the passage is still there afterwards.
    """
    again = (
        '<form method="get"><p class="note">Coming from another site, after signing in here before?</p><button>Continue</button></form>'
        if elsewhere
        else ""
    )
    wrong = f'<p class="error" role="alert">{escape(error)}</p>' if error else ""
    ask = (
        '<form method="post"><label for="key">API key</label>'
        '<input id="key" name="key" type="password" autocomplete="current-password" required maxlength="256" spellcheck="false">'
        "<button>Show the document</button></form>"
    )
    note = '<p class="note">It is asked for once; this browser then keeps a session, not the key.</p>'
    return _page("Sign in", f"<header><h1>This document is private</h1></header><main>{again}{wrong}{ask}{note}</main>")


def message(title: str, words: str) -> str:
    """A page that says one thing."""
    return _page(title, f'<header><h1>{escape(title)}</h1></header><main><p class="note">{escape(words)}</p></main>')


def _page(title: str, body: str) -> str:
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f'<meta name="robots" content="noindex"><title>{escape(title)}</title><style>{STYLE}</style></head><body>{body}</body></html>'
    )


def _marked(text: str, passages: Sequence[Chunk]) -> Iterator[str]:
    """The whole text once, in order, with an element for each passage; where two overlap the first one keeps what they share."""
    at = 0
    for passage in sorted(passages, key=lambda passage: (passage.start, passage.number)):
        start, end = min(max(at, passage.start), len(text)), min(max(at, passage.end), len(text))
        yield escape(text[at:start].strip("\n"))
        name, path = passage.number, escape(" / ".join(passage.headings))
        link = f'<a class="number" href="#chunk={name}" aria-label="Passage {name}">{name}</a>'
        yield f'<span class="passage" id="chunk={name}" title="{path}">{link}{escape(text[start:end])}</span>\n'
        at = end
    yield escape(text[at:].strip("\n"))
