"""`headrace serve`: everything on this machine, until Ctrl-C."""

import asyncio
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from pipeline import starter
from pipeline.cli.steps import Lines, Spinners, steps
from pipeline.edge import door
from pipeline.instance import InUse, read
from pipeline.manifest import LAPTOP, Manifest, Unreadable, load
from pipeline.supervisor import StartFailed, Supervisor
from pipeline.weights import Forged

_QUESTION = "How do I define a path parameter in FastAPI?"


def serve(
    config: Annotated[Path, typer.Option(help="A Serve config file; HEADRACE_* variables win over its args.")] = LAPTOP,
) -> None:
    """Start Valkey, the edge, Ray and the application; restart what dies; end all on Ctrl-C."""
    console = Console()
    begun = time.monotonic()
    try:
        manifest = load(config)
        with steps(console) as shown:
            supervisor = Supervisor(manifest, shown)
            asyncio.run(supervisor.run(lambda: _ready(manifest, shown, begun)))
    except (Unreadable, StartFailed, InUse, Forged) as error:
        Console(stderr=True).print(f"cannot start: {error}", style="red", highlight=False, markup=False, soft_wrap=True)
        raise typer.Exit(1) from None


async def _ready(manifest: Manifest, shown: Spinners | Lines, begun: float) -> None:
    settings = manifest.settings
    shown.say(f"ready      {time.monotonic() - begun:5.1f} s  {settings.base_url}")
    for line in invitation(settings.base_url, settings.data_dir / "demo.key"):
        shown.say(line)
    if settings.starter_corpus:
        shown.begin("corpus")
        loop, card = asyncio.get_running_loop(), read(settings.data_dir)
        entrance = door(card.short) if card else None

        def progress(done: int, total: int, text: str) -> None:
            loop.call_soon_threadsafe(shown.advance, "corpus", done, total, text)

        try:
            said = await asyncio.to_thread(starter.starter, settings, progress, entrance)
        except Exception as error:  # the service is worth having without it
            said = f"failed: {error}"
        shown.done("corpus", said)
    shown.say("Ctrl-C ends it.")


def invitation(url: str, key: Path) -> list[str]:
    """What a newcomer can paste: the keys' paths, a curl command, a Python snippet."""
    return [
        "",
        f"demo key   {key}",
        f"admin key  {key.with_name('admin.key')}",
        "",
        f"""curl -N {url}/v1/chat/completions -H "Authorization: Bearer $(cat {key})" -H 'Content-Type: application/json' \\
  -d '{{"model": "headrace", "stream": true, "messages": [{{"role": "user", "content": "{_QUESTION}"}}]}}'""",
        "",
        "from openai import OpenAI",
        f'client = OpenAI(base_url="{url}/v1", api_key=open("{key}").read().strip())',
        f'messages = [{{"role": "user", "content": "{_QUESTION}"}}]',
        'for chunk in client.chat.completions.create(model="headrace", messages=messages, stream=True):',
        '    print(chunk.choices[0].delta.content or "" if chunk.choices else "", end="", flush=True)',
        "",
    ]
