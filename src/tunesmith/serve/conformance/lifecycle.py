"""A server under several clients: it stays readable, does not mix answers up, and survives clients that leave."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import httpx

from tunesmith.serve.conformance.suite import Checks
from tunesmith.serve.conformance.target import Mode, Target, expect

CHECKS = Checks()
NUM_CLIENTS = 8


@CHECKS.add("answers in company equal those alone")
def _company(target: Target, mode: Mode) -> None:
    questions = [f"Repeat this word: w{number}{number}" for number in range(NUM_CLIENTS)]
    alone = [target.chat(mode, question, max_tokens=6).first.text for question in questions]
    with ThreadPoolExecutor(NUM_CLIENTS) as pool:
        together = list(pool.map(lambda question: target.chat(mode, question, max_tokens=6).first.text, questions))
    different = [number for number in range(NUM_CLIENTS) if alone[number] != together[number]]
    expect(not different, f"{len(different)} of {NUM_CLIENTS} differ, as {[together[n] for n in different[:1]]}")


@CHECKS.add("models and health answer while generating", ["plain"])
def _responsive(target: Target, mode: Mode) -> None:
    with ThreadPoolExecutor(1) as pool:
        busy = pool.submit(target.chat, "plain", "Tell me a long story.", max_tokens=20)
        time.sleep(0.2)
        began = time.monotonic()
        target.send("GET", "models")
        target.send("GET", "/health")
        seconds = time.monotonic() - began
        busy.result()
    expect(seconds < 2, f"they took {seconds:.1f} s")


@CHECKS.add("a client that leaves frees its place")
def _leaving(target: Target, mode: Mode) -> None:
    body = {"model": target.model, "messages": [{"role": "user", "content": "Tell me a long story."}]}
    headers = {"Authorization": f"Bearer {target.key}"} if target.key else {}
    long_body = {**body, "max_tokens": 1500, "stream": mode == "stream", "temperature": 1}
    for _ in range(NUM_CLIENTS):
        try:
            httpx.post(f"{target.url}/chat/completions", json=long_body, headers=headers, timeout=0.3)
        except httpx.TimeoutException:
            continue
    began = time.monotonic()
    target.chat("plain", "Hi", max_tokens=1)
    seconds = time.monotonic() - began
    expect(seconds < 10, f"the next answer waited {seconds:.1f} s")
