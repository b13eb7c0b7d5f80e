"""Stand-ins for vLLM's and SGLang's servers: the same HTTP, ids in and ids out, from a script of answers.

`python tests/fake_servers.py vllm STATE --port N ...` listens until it is ended. What it was started with, and every
request, goes to the folder STATE as a line of JSON, so that a test can read what was sent. `answers.json` in that
folder holds the answers: {"answers": [[ids], ...], "pause_s": seconds between tokens, "per_event": tokens an event}.
As the originals, it stops at the first stop token and notices when a client has gone.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


class FakeServer(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def __init__(self, kind: str, state: Path, port: int, key: str, names: list[str]) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.kind, self.state, self.key, self.names = kind, state, key, names
        self.lock = threading.Lock()
        self.num_asked = 0

    @property
    def script(self) -> dict[str, Any]:
        return json.loads((self.state / "answers.json").read_text(encoding="utf-8"))

    def note(self, what: str, value: Any) -> None:
        with self.lock, (self.state / "seen.jsonl").open("a", encoding="utf-8") as stream:
            stream.write(json.dumps({what: value}) + "\n")

    def next_answer(self) -> list[int]:
        with self.lock:
            answers = self.script["answers"]
            self.num_asked += 1
            return list(answers[min(self.num_asked, len(answers)) - 1])


class Handler(BaseHTTPRequestHandler):
    server: FakeServer

    def do_GET(self) -> None:
        if self.path == "/health":
            self.reply(200, None)
        elif not self.allowed():
            self.reply(401, {"error": "Unauthorized"})
        elif self.path == "/v1/models":
            self.reply(200, {"data": [{"id": name, "max_model_len": 300} for name in self.server.names]})
        else:
            self.reply(404, {"error": {"message": "no such page"}})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.note("request", {"path": self.path, "body": body})
        if not self.allowed():
            self.reply(401, {"error": "Unauthorized"})
        elif "refuse" in self.server.script:
            self.reply(400, {"error": {"message": self.server.script["refuse"]}})
        else:
            getattr(self, f"answer_{self.server.kind}")(body)

    def allowed(self) -> bool:
        return not self.server.key or self.headers.get("Authorization") == f"Bearer {self.server.key}"

    def reply(self, status: int, answer: Any) -> None:
        data = b"" if answer is None else json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def answer_vllm(self, body: dict[str, Any]) -> None:
        if body.get("prompt_logprobs"):
            prompt = body["prompt"]
            rows = [None, *({str(token): {"logprob": -0.25 * place}} for place, token in enumerate(prompt[1:], 1))]
            self.reply(200, {"choices": [{"prompt_logprobs": rows}]})
            return
        ids, reason = cut(self.server.next_answer(), body["stop_token_ids"], body["max_tokens"])
        self.stream(vllm_events(ids, reason, body, self.server.script.get("per_event", 1)))

    def answer_sglang(self, body: dict[str, Any]) -> None:
        if "logprob_start_len" in body:
            rows = [[-0.25 * place if place else None, token, None] for place, token in enumerate(body["input_ids"])]
            self.reply(200, {"meta_info": {"input_token_logprobs": rows}})
            return
        sampling = body["sampling_params"]
        ids, reason = cut(self.server.next_answer(), sampling["stop_token_ids"], sampling["max_new_tokens"])
        script = self.server.script
        self.stream(sglang_events(ids, reason, body, script.get("per_event", 1), script.get("incremental", False)))

    def stream(self, events: list[dict[str, Any]]) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        num_sent = 0
        try:
            for event in [*map(json.dumps, events), "[DONE]"]:
                data = f"data: {event}\n\n".encode()
                self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
                self.wfile.flush()
                num_sent += 1
                time.sleep(self.server.script.get("pause_s", 0.0))
            self.wfile.write(b"0\r\n\r\n")
            self.server.note("finished", num_sent)
        except OSError:
            self.server.note("left", num_sent)

    def log_message(self, *args: Any) -> None:
        print("request", *args, flush=True)


def cut(ids: list[int], stop_ids: list[int], limit: int) -> tuple[list[int], str]:
    """The tokens up to the first stop token or the limit, and which of them it was."""
    for place, token in enumerate(ids[:limit]):
        if token in stop_ids:
            return ids[: place + 1], "stop"
    return ids[:limit], "length" if len(ids) >= limit else "stop"


def vllm_events(ids: list[int], reason: str, body: dict[str, Any], per_event: int) -> list[dict[str, Any]]:
    events = []
    for start in range(0, len(ids), per_event):
        part = ids[start : start + per_event]
        choice: dict[str, Any] = {"index": 0, "text": "?", "token_ids": part, "finish_reason": None}
        if start + per_event >= len(ids):
            choice["finish_reason"] = reason
        if body.get("logprobs") is not None:
            tops = [{f"token_id:{token}": -0.5, f"token_id:{token + 1}": -1.5} for token in part]
            choice["logprobs"] = {"token_logprobs": [-0.5] * len(part), "top_logprobs": tops}
        events.append({"choices": [choice]})
    return [{"choices": [{"index": 0, "text": "", "token_ids": [], "finish_reason": None}]}, *events]


def sglang_events(
    ids: list[int], reason: str, body: dict[str, Any], per_event: int, incremental: bool
) -> list[dict[str, Any]]:
    events = []
    for start in range(0, len(ids), per_event):
        end = min(start + per_event, len(ids))
        first = start if incremental else 0
        meta: dict[str, Any] = {"completion_tokens": end, "finish_reason": None}
        if end == len(ids):
            meta["finish_reason"] = {"type": reason, "matched": ids[-1]}
        if body.get("return_logprob"):
            meta["output_token_logprobs"] = [[-0.5, token, None] for token in ids[first:end]]
            meta["output_top_logprobs"] = [[[-0.5, t, None], [-1.5, t + 1, None]] for t in ids[first:end]]
        events.append({"text": "?", "output_ids": ids[first:end], "meta_info": meta})
    return events


def _value(arguments: list[str], flag: str, default: str = "") -> str:
    return arguments[arguments.index(flag) + 1] if flag in arguments else default


def main(kind: str, state: Path, arguments: list[str]) -> None:
    if (state / "fail").is_file():
        print((state / "fail").read_text(encoding="utf-8"), flush=True)
        sys.exit(3)
    config = _value(arguments, "--config")
    key = os.environ.get("VLLM_API_KEY", "")
    if config:
        key = Path(config).read_text(encoding="utf-8").removeprefix("api-key:").strip()
    modules = next(
        (arguments[arguments.index(f) + 1 :] for f in ("--lora-modules", "--lora-paths") if f in arguments), []
    )
    adapters = [text.split("=")[0] for text in modules if "=" in text]
    names = [_value(arguments, "--served-model-name"), *adapters]
    server = FakeServer(kind, state, int(_value(arguments, "--port")), key, names)
    server.note("started", {"arguments": arguments, "key": key, "pid": os.getpid()})
    server.serve_forever()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3:])
