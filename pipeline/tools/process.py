"""The program of the process in which one call of a Python tool runs; it imports the function, and nothing else of headrace.

Arguments of the program: the function as `module:name`, seconds, bytes of address space, characters of output, and whether it may use
the network.
Standard input holds the arguments of the call as a JSON object, standard output gets `{"output": …}` or `{"error": …}`.
"""

import asyncio
import ctypes
import inspect
import json
import os
import resource
import signal
import sys
from importlib import import_module
from typing import Any

_NEW_USER, _NEW_NETWORK = 0x10000000, 0x40000000
_MAX_ERROR_CHARS = 300


def bound(timeout_s: float, memory_bytes: int) -> None:
    """Have the system end this process where it takes more than it may; it writes no files and starts no processes."""
    cpu_s = int(timeout_s) + 1
    signal.alarm(cpu_s)  # where nobody is left to end it
    for limit, value in (
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_CPU, cpu_s),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NPROC, 0),
    ):
        resource.setrlimit(limit, (value, value))


def apart(*, network: bool) -> None:
    """Leave the namespace of users, so that no other process can be looked into, and every network where `network` is not allowed.

    Raises OSError where the kernel does not let a process leave its network; a process that may use it goes on in any case.
    """
    left = ctypes.CDLL(None, use_errno=True).unshare(_NEW_USER if network else _NEW_USER | _NEW_NETWORK) == 0
    if not (left or network):
        raise OSError(ctypes.get_errno(), "no network namespace of its own")


def call(function: str, arguments: dict[str, Any]) -> str:
    """What the function returns, as text: JSON where it is none."""
    module, _, name = function.partition(":")
    made = getattr(import_module(module), name)(**arguments)
    result: Any = asyncio.run(_awaited(made)) if inspect.isawaitable(made) else made
    return result if isinstance(result, str) else json.dumps(result, ensure_ascii=False)


async def _awaited(made: Any) -> Any:
    return await made


def main() -> None:
    """Run the call."""
    function, timeout_s, memory_bytes, most_chars, network = sys.argv[1:6]
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the function prints is no result
    try:
        apart(network=network == "network")
        bound(float(timeout_s), int(memory_bytes))
        answer = {"output": call(function, json.load(sys.stdin))[: int(most_chars)]}
    except Exception as error:
        answer = {"error": f"{type(error).__name__}: {error}"[:_MAX_ERROR_CHARS]}
    answers.write(json.dumps(answer))
    answers.flush()


if __name__ == "__main__":
    main()
