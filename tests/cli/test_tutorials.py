"""Tutorial files and command lines as users wrote them; only paths, dataset names and precision are changed.

The training file is that of a Llama 3 tutorial, with its comma lists, `use_unsloth: true` and worker counts; the
chat takes the training file; the export is the one-line form. The model is a tiny one with Llama 3's special tokens.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.tiny import tiny_model, tiny_tokenizer
from tests.training import rows

TRAINING = """\
cutoff_len: 1024
dataset: fintech,identity
dataset_dir: data
do_train: true
finetuning_type: lora
flash_attn: auto
bf16: true
gradient_accumulation_steps: 8
learning_rate: 0.0002
logging_steps: 5
lora_alpha: 16
lora_dropout: 0
lora_rank: 8
lora_target: q_proj,v_proj
lr_scheduler_type: cosine
max_grad_norm: 1.0
max_samples: 1000
model_name_or_path: models/Llama3-8B-Chinese-Chat
num_train_epochs: 10.0
optim: adamw_torch
output_dir: saves/LLaMA3-8B-Chinese-Chat/lora/train_2024-05-25-20-27-47
packing: false
per_device_train_batch_size: 2
plot_loss: true
preprocessing_num_workers: 16
report_to: none
save_steps: 100
stage: sft
template: llama3
use_unsloth: true
warmup_steps: 0
"""

INFERENCE = """\
model_name_or_path: models/Llama3-8B-Chinese-Chat # 模型文件的路径
adapter_name_or_path: saves/LLaMA3-8B-Chinese-Chat/lora/train_2024-05-25-20-27-47 # 使用LoRA训练出来的模型权重
template: llama3 # 模板
finetuning_type: lora
"""

EXPORT = (
    "--model_name_or_path models/Llama3-8B-Chinese-Chat --adapter_name_or_path "
    "saves/LLaMA3-8B-Chinese-Chat/lora/train_2024-05-25-20-27-47 --template llama3 --finetuning_type lora "
    "--export_dir merged --export_size 2 --export_legacy_format False"
)
LLAMA3_TOKENS = ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|eom_id|>")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder: model, two registered datasets, the tutorial's files."""
    folder = tmp_path_factory.mktemp("tutorial")
    model = tiny_model(folder / "models" / "Llama3-8B-Chinese-Chat", vocab=1024)
    tokenizer = tiny_tokenizer(vocab=1000)
    tokenizer.add_special_tokens({"additional_special_tokens": list(LLAMA3_TOKENS)})
    tokenizer.bos_token, tokenizer.eos_token, tokenizer.chat_template = LLAMA3_TOKENS[0], LLAMA3_TOKENS[3], None
    assert len(tokenizer) <= 1024
    tokenizer.save_pretrained(str(model))
    (model / "chat_template.jinja").unlink(missing_ok=True)
    data = folder / "data"
    data.mkdir()
    (data / "fintech.json").write_text(json.dumps(rows(12)), encoding="utf-8")
    (data / "identity.json").write_text(json.dumps(rows(8, seed=3)), encoding="utf-8")
    columns = {"prompt": "instruction", "query": "input", "response": "output"}
    info = {"fintech": {"file_name": "fintech.json", "columns": columns}, "identity": {"file_name": "identity.json"}}
    (data / "dataset_info.json").write_text(json.dumps(info), encoding="utf-8")
    (folder / "cust").mkdir()
    (folder / "cust" / "train_llama3_lora_sft.yaml").write_text(TRAINING, encoding="utf-8")
    (folder / "cust" / "inference.yaml").write_text(INFERENCE, encoding="utf-8")
    return folder


def _cli(home: Path, *arguments: str, typed: str | None = None) -> subprocess.CompletedProcess[str]:
    command = Path(sys.executable).parent / "llamafactory-cli"
    done = subprocess.run(
        [str(command), *arguments], cwd=home, input=typed, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.mark.slow
def test_train_chat_and_export_as_the_tutorials_write_them(home: Path) -> None:
    trained = _cli(home, "train", "cust/train_llama3_lora_sft.yaml")
    assert "use_unsloth" in trained.stdout, "that the built-in path serves it must be said"
    run = home / "saves/LLaMA3-8B-Chinese-Chat/lora/train_2024-05-25-20-27-47"
    assert (run / "training_loss.png").is_file()
    config = json.loads((run / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], sorted(config["target_modules"])) == (8, 16, ["q_proj", "v_proj"])

    by_training_file = _cli(home, "chat", "cust/train_llama3_lora_sft.yaml", "do_sample=false", typed="who are you?\n")
    by_inference_file = _cli(home, "chat", "cust/inference.yaml", "do_sample=false", typed="who are you?\n")
    assert by_training_file.stdout.strip()
    assert by_training_file.stdout == by_inference_file.stdout

    question = {"model": "anything else is a 404", "messages": [{"role": "user", "content": "who are you?"}]}
    for config in ("cust/train_llama3_lora_sft.yaml", "cust/inference.yaml"):
        with _served(home, "api", config, "API_PORT", "/v1/models") as url:
            question["model"] = json.loads(_fetch(f"{url}/v1/models"))["data"][0]["id"]
            answer = json.loads(_fetch(f"{url}/v1/chat/completions", question | {"temperature": 0}))
        assert answer["choices"][0]["message"]["content"].split() == by_training_file.stdout.split()
    with _served(home, "webchat", "cust/inference.yaml", "GRADIO_SERVER_PORT", "/") as url:
        assert b"gradio" in _fetch(url)

    _cli(home, "export", *EXPORT.split())
    proof = json.loads((home / "merged" / "proof.json").read_text())
    assert (home / "merged" / "model.safetensors").is_file()
    assert proof
    _assert_plain_libraries_answer_alike(home)


@contextmanager
def _served(home: Path, verb: str, config: str, port_variable: str, path: str) -> Iterator[str]:
    """The address of a server that the tutorial's command has started; it is ended by its own process id."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(Path(sys.executable).parent / "llamafactory-cli"), verb, config]
    environment = {**os.environ, port_variable: str(port)}
    url = f"http://127.0.0.1:{port}"
    with (
        (home / f"{verb}.log").open("w") as log,
        subprocess.Popen(
            command, cwd=home, env=environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL
        ) as process,
    ):
        try:
            deadline = time.monotonic() + 180
            while not _answers(url + path):
                assert process.poll() is None, (home / f"{verb}.log").read_text()
                assert time.monotonic() < deadline, (home / f"{verb}.log").read_text()
                time.sleep(0.3)
            yield url
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                raise


def _answers(url: str) -> bool:
    try:
        return bool(_fetch(url))
    except (urllib.error.URLError, ConnectionError):
        return False


def _fetch(url: str, body: dict[str, Any] | None = None) -> bytes:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as response:
        return bytes(response.read())


def _assert_plain_libraries_answer_alike(home: Path) -> None:
    """The adapter in plain PEFT and the merged folder in plain transformers give the same greedy answers."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    run = home / "saves/LLaMA3-8B-Chinese-Chat/lora/train_2024-05-25-20-27-47"
    base = AutoModelForCausalLM.from_pretrained(home / "models/Llama3-8B-Chinese-Chat")
    adapted = PeftModel.from_pretrained(base, run).eval()
    merged = AutoModelForCausalLM.from_pretrained(home / "merged").eval()
    tokenizer = AutoTokenizer.from_pretrained(home / "merged")
    for question in ("who are you?", "what can you do for me", "yes"):
        message = [{"role": "user", "content": question}]
        prompt = tokenizer.apply_chat_template(message, add_generation_prompt=True, return_tensors="pt")
        ids = prompt["input_ids"] if not isinstance(prompt, torch.Tensor) else prompt
        answers = [
            model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=20)
            for model in (adapted, merged)
        ]
        assert torch.equal(*answers)
