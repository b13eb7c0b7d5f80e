"""Load a running OpenAI-compatible server: throughput, cross-talk, leaving clients, memory.

    python scripts/load_api.py http://127.0.0.1:8000/v1 [--clients 16] [--requests 64] [--tokens 32] [--leaving 8]
                               [--seconds 0] [--pid SERVER_PID]

Every prompt asks for a word of its own, at temperature 0. First the answers are fetched one after the other, then by
all clients at once: each must be the same, so that a mixed-up answer cannot hide. `--leaving` clients hang up in the
middle of a stream, again and again, while the others ask. `--seconds` repeats the crowd for so long, and with
`--pid` the server's memory is printed once a round. The key is read from API_KEY. Exit code 1: an answer differed.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import httpx

TIMEOUT_S = 600.0


@dataclass
class Load:
    """One run: what is asked, and what came of it."""

    url: str
    model: str
    num_tokens: int
    client: httpx.AsyncClient
    num_left: int = 0

    def body(self, number: int) -> dict[str, object]:
        """The request whose answer is about word `number`."""
        question = f"Write a sentence with the word w{number * 7919 % 99991}."
        messages = [{"role": "user", "content": question}]
        return {"model": self.model, "messages": messages, "temperature": 0, "max_tokens": self.num_tokens}

    async def ask(self, number: int) -> tuple[str, int]:
        """(text, tokens) of one answer; a full queue is waited for as it says."""
        while True:
            response = await self.client.post(f"{self.url}/chat/completions", json=self.body(number))
            if response.status_code != 429:
                break
            await asyncio.sleep(float(response.headers["retry-after"]))
        response.raise_for_status()
        told = response.json()
        return told["choices"][0]["message"]["content"], told["usage"]["completion_tokens"]

    async def leave_again_and_again(self, number: int, stop: asyncio.Event) -> None:
        """Open a stream, read a little, hang up; until `stop`."""
        while not stop.is_set():
            body = {**self.body(number), "stream": True, "max_tokens": 400}
            async with self.client.stream("POST", f"{self.url}/chat/completions", json=body) as response:
                async for _ in response.aiter_raw():
                    break
            self.num_left += 1
            await asyncio.sleep(0.2)

    async def crowd(self, numbers: list[int], num_clients: int) -> tuple[dict[int, str], int, float]:
        """(answers, tokens, seconds) of all `numbers`, by so many clients at once."""
        waiting = list(reversed(numbers))
        answers: dict[int, str] = {}
        num_tokens = 0

        async def one_client() -> None:
            nonlocal num_tokens
            while waiting:
                number = waiting.pop()
                answers[number], tokens = await self.ask(number)
                num_tokens += tokens

        began = time.monotonic()
        await asyncio.gather(*(one_client() for _ in range(num_clients)))
        return answers, num_tokens, time.monotonic() - began


def rss_mb(pid: int) -> float:
    """Resident memory of a process, in MB (Linux)."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return 0.0


async def run(given: argparse.Namespace) -> int:
    """Print the figures; returns the exit code."""
    key = os.environ.get("API_KEY", "")
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(headers=headers, timeout=TIMEOUT_S, limits=limits) as client:
        model = given.model or (await client.get(f"{given.url}/models")).json()["data"][0]["id"]
        load = Load(given.url, model, given.tokens, client)
        numbers = list(range(given.requests))
        await load.ask(0)  # warm
        alone, tokens, seconds = await load.crowd(numbers, 1)
        alone_rate = tokens / seconds
        print(f"1 client:   {tokens} tokens in {seconds:.1f} s, {alone_rate:.1f} tokens/s", flush=True)
        return await _crowds(load, given, alone, alone_rate)


async def _crowds(load: Load, given: argparse.Namespace, alone: dict[int, str], alone_rate: float) -> int:
    stop = asyncio.Event()
    leaving = [asyncio.create_task(load.leave_again_and_again(10**6 + n, stop)) for n in range(given.leaving)]
    end = time.monotonic() + given.seconds
    num_wrong, rounds = 0, 0
    while rounds == 0 or time.monotonic() < end:
        answers, tokens, seconds = await load.crowd(list(alone), given.clients)
        different = [number for number in alone if answers[number] != alone[number]]
        num_wrong += len(different)
        rounds += 1
        rate = tokens / seconds
        memory = f", {rss_mb(given.pid):.0f} MB" if given.pid else ""
        print(
            f"{given.clients} clients: {tokens} tokens in {seconds:.1f} s, {rate:.1f} tokens/s, "
            f"{rate / alone_rate:.2f} x one client, {len(different)} of {len(alone)} answers differ{memory}",
            flush=True,
        )
    stop.set()
    await asyncio.gather(*leaving)
    if given.leaving:
        print(f"{load.num_left} clients left in the middle of an answer")
    return 1 if num_wrong else 0


def main() -> int:
    """Load the server as the arguments say and print the figures; 1 when an answer was wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("--model", default="")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--requests", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--leaving", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=0)
    parser.add_argument("--pid", type=int, default=0)
    return asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    sys.exit(main())
