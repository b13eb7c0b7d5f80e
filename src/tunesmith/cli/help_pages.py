"""What `tunesmith VERB --help` prints: a literal table, English and Chinese side by side.

Only the settings that a newcomer changes first are listed; the full reference is generated from the schema.
A key named here must exist in the schema, and every example must name a verb: tests/cli/test_main.py holds both.
"""

from __future__ import annotations

from typing import NamedTuple


class Page(NamedTuple):
    """One help page. `examples` are (command, en, zh); `keys` are (setting, en, zh)."""

    usage: str
    purpose: tuple[str, str]
    examples: tuple[tuple[str, str, str], ...] = ()
    keys: tuple[tuple[str, str, str], ...] = ()
    takes_settings: bool = True


MODEL = ("model_name_or_path", "folder of the base model", "基座模型所在文件夹")
ADAPTER = ("adapter_name_or_path", "adapter folders, comma-separated", "LoRA 适配器文件夹，可用逗号分隔多个")
TEMPLATE = ("template", "chat template; unset: the model's own", "对话模板；不填则使用模型自带模板")

PAGES: dict[str, Page] = {
    "train": Page(
        "train FILE.yaml [key=value ...]",
        (
            "Tunes a model. The run continues from its newest complete checkpoint by itself; Ctrl-C saves and leaves.",
            "微调模型。再次运行同一命令会自动从最新的完整检查点继续；按 Ctrl-C 会先保存再退出。",
        ),
        (
            (
                "train examples/train_lora/smollm2_lora_sft.yaml",
                "LoRA on the shipped identity data",
                "用自带的自我认知数据做 LoRA 微调",
            ),
            (
                "train my.yaml learning_rate=2e-4 num_train_epochs=5",
                "a file, with two settings changed",
                "在文件基础上改两个参数",
            ),
            (
                "train --model_name_or_path DIR --dataset rows.jsonl --output_dir saves/a --do_train --stage sft",
                "no file at all",
                "不写配置文件",
            ),
        ),
        (
            MODEL,
            (
                "dataset",
                "names from dataset_info.json, or paths of files",
                "dataset_info.json 中的名称，或数据文件路径",
            ),
            TEMPLATE,
            ("finetuning_type", "lora, full or freeze", "微调方法：lora、full 或 freeze"),
            ("output_dir", "the run folder; one folder, one run", "输出文件夹，一次训练用一个"),
            (
                "cutoff_len",
                "longest example, in tokens; longer ones are cut and counted",
                "单条样本最大 token 数，超出会截断并计数",
            ),
            ("learning_rate", "the peak learning rate", "学习率峰值"),
            ("num_train_epochs", "passes over the data", "训练轮数"),
            ("per_device_train_batch_size", "examples per device and micro-batch", "每设备每个微批的样本数"),
            ("gradient_accumulation_steps", "micro-batches per optimizer step", "梯度累积步数"),
            ("overwrite_output_dir", "start anew in a folder that holds a run", "忽略已有结果，从头训练"),
        ),
    ),
    "chat": Page(
        "chat FILE.yaml [key=value ...]",
        (
            "Talks to the model of a YAML file. Given a training file it finds what that run has tuned. "
            "Also reads questions from a pipe. In the chat, /help lists the commands.",
            "与 YAML 所指模型对话；若给的是训练配置，会自动加载该次训练的结果。也可从管道读取问题。"
            "对话中输入 /help 查看命令。",
        ),
        (
            ("chat my_training.yaml", "talk to what this file has trained", "与该配置训练出的模型对话"),
            ("chat --model_name_or_path DIR", "talk to a model folder", "与某个模型文件夹对话"),
        ),
        (
            MODEL,
            ADAPTER,
            TEMPLATE,
            ("temperature", "0.01 is nearly greedy, 1.0 follows the model's odds", "温度：越低越稳定，越高越多样"),
            ("top_p", "keep the likeliest tokens up to this probability", "核采样概率阈值"),
            ("max_new_tokens", "longest answer, in tokens", "回答的最大 token 数"),
        ),
    ),
    "webchat": Page(
        "webchat FILE.yaml [key=value ...]",
        (
            "Serves a page for talking to the model of a YAML file (a training file: what it has tuned), on this "
            "machine only, at http://127.0.0.1:7860. GRADIO_SERVER_PORT chooses the port; GRADIO_SERVER_NAME another "
            "address, which needs TUNESMITH_PASSWORD. Votes and edits are kept in the run folder.",
            "在浏览器中与 YAML 所指模型对话（训练配置则加载其训练结果），默认仅本机可访问：http://127.0.0.1:7860。"
            "端口用 GRADIO_SERVER_PORT 设置；用 GRADIO_SERVER_NAME 开放给其他机器时须设置 TUNESMITH_PASSWORD。"
            "评价与修改保存在训练输出文件夹中。",
        ),
        (
            ("webchat my_training.yaml", "talk to what this file has trained", "与该配置训练出的模型对话"),
            (
                "webchat --model_name_or_path DIR --adapter_name_or_path saves/a",
                "a model with an adapter; compare both on the page",
                "加载模型与适配器，可在页面上对比两者",
            ),
        ),
        (MODEL, ADAPTER, TEMPLATE),
    ),
    "feedback": Page(
        "feedback FILE.jsonl --as kto|dpo|sft --out FOLDER [--name NAME]",
        (
            "Turns the votes, edits and choices that the web chat has kept into rows to train on, adds them to the "
            "dataset_info.json of FOLDER, and says what became of every record.",
            "将网页对话保存的评价、修改与选择转换为训练数据，登记到 FOLDER 中的 dataset_info.json，"
            "并说明每条记录的去向。",
        ),
        (
            (
                "feedback saves/a/webchat_feedback.jsonl --as kto --out data",
                "thumbs up and down, for stage: kto",
                "点赞与点踩，用于 stage: kto",
            ),
            (
                "feedback saves/a/webchat_feedback.jsonl --as dpo --out data",
                "pairs, for stage: dpo or rm",
                "偏好数据，用于 stage: dpo 或 rm",
            ),
            (
                "feedback saves/a/webchat_feedback.jsonl --as sft --out data",
                "liked and rewritten answers, for stage: sft",
                "被点赞或修改后的回答，用于 stage: sft",
            ),
        ),
        takes_settings=False,
    ),
    "api": Page(
        "api FILE.yaml [key=value ...] [--selfcheck] | api --selfcheck-url URL",
        (
            "Serves the model of a YAML file as an OpenAI API on 127.0.0.1:8000. Given a training file it finds what "
            "that run has tuned. Environment: API_HOST, API_PORT, API_KEY, API_MODEL_NAME, MAX_CONCURRENT. "
            "--selfcheck starts the server, checks every feature as clients use it, and prints a table.",
            "把 YAML 所指模型作为 OpenAI 接口提供在 127.0.0.1:8000；若给的是训练配置，会自动加载该次训练的结果。"
            "环境变量：API_HOST、API_PORT、API_KEY、API_MODEL_NAME、MAX_CONCURRENT，详见 docs/zh/api.md。"
            "--selfcheck 会启动服务、逐项检查客户端用到的功能并打印结果表。",
        ),
        (
            ("api my_training.yaml", "serve what this file has trained", "提供该配置训练出的模型"),
            (
                "api my_training.yaml --selfcheck",
                "is every feature as clients expect it?",
                "检查各项功能是否符合客户端预期",
            ),
            (
                "api --selfcheck-url http://127.0.0.1:8000/v1 --report checks.xml",
                "the same checks against any running server",
                "对任意正在运行的服务做同样的检查",
            ),
        ),
        (
            MODEL,
            ADAPTER,
            TEMPLATE,
            (
                "temperature",
                "where a request does not say it; so are top_p, top_k",
                "请求未指定时的温度；top_p、top_k 同理",
            ),
            ("max_new_tokens", "longest answer where a request does not say it", "请求未指定时回答的最大 token 数"),
        ),
    ),
    "predict": Page(
        "predict FILE.yaml [key=value ...]",
        (
            "Answers every row of eval_dataset (else what val_size holds out, else dataset) and judges the answers. "
            "Each is written at once to generated_predictions.jsonl; the same command goes on after a stop. Given a "
            "training file it asks what that run has tuned. Metrics: predict_results.json.",
            "对 eval_dataset（否则为 val_size 划出的部分，再否则为 dataset）逐行生成回答并评分。每条回答立即写入 "
            "generated_predictions.jsonl，中断后再次运行同一命令会接着做。若给的是训练配置，则使用该次训练的结果。"
            "指标写入 predict_results.json。",
        ),
        (
            (
                "predict examples/extras/nlg_eval/smollm2_lora_predict.yaml",
                "answer the demo rows with the LoRA example",
                "用 LoRA 示例的结果回答演示数据",
            ),
            (
                "predict my_training.yaml eval_dataset=test.jsonl",
                "what a run has tuned, on rows of a file",
                "用某次训练的结果回答一个文件中的数据",
            ),
        ),
        (
            MODEL,
            ADAPTER,
            TEMPLATE,
            (
                "eval_dataset",
                "names from dataset_info.json, or paths of files",
                "dataset_info.json 中的名称，或数据文件路径",
            ),
            ("output_dir", "where answers and metrics go", "回答与指标的保存位置"),
            ("max_samples", "only the first rows of every dataset", "每个数据集只取前若干行"),
            ("do_sample", "false takes the likeliest token each time", "false 表示总取概率最大的词元"),
            ("max_new_tokens", "longest answer, in tokens", "回答的最大 token 数"),
            ("infer_backend", "huggingface, vllm or sglang", "推理引擎：huggingface、vllm 或 sglang"),
            ("overwrite_output_dir", "replace predictions of something else", "替换文件夹中由其他设置生成的回答"),
        ),
    ),
    "export": Page(
        "export FILE.yaml [key=value ...]",
        (
            "Merges adapters into the model, writes safetensors (quantized, if asked), then reloads them in a fresh "
            "process and compares (proof.json). Exit code 1 when the files do not answer as the adapter did; only what "
            "is proven is uploaded.",
            "将适配器合并进模型并写成 safetensors（可量化），再在新进程中重新加载并比对（proof.json）；"
            "不一致时退出码非零，且只有通过验证的结果才会上传。",
        ),
        (
            (
                "export examples/merge_lora/smollm2_lora_sft.yaml",
                "merge what the LoRA example has trained",
                "合并 LoRA 示例的训练结果",
            ),
            ("export my_training.yaml export_dir=merged", "merge straight from a training file", "直接用训练配置合并"),
        ),
        (
            MODEL,
            ADAPTER,
            TEMPLATE,
            ("export_dir", "where the merged model goes", "合并后的模型保存位置"),
            ("export_format", "safetensors, gguf, or gguf_adapter", "safetensors、gguf 或 gguf_adapter"),
            ("export_gguf_type", "q8_0, q4_k_m, f16, ...", "q8_0、q4_k_m、f16 等"),
            ("export_size", "largest file, in GB", "单个文件的最大体积（GB）"),
            ("export_device", "cpu or auto", "合并所用设备：cpu 或 auto"),
            ("export_quantization_bit", "4 or 8: a quantized export", "4 或 8：量化导出"),
            ("export_quantization_method", "gptq, awq, torchao or bnb", "量化方法：gptq、awq、torchao 或 bnb"),
            ("export_quantization_dataset", "rows that calibrate gptq and awq", "gptq 和 awq 的校准数据"),
            ("export_hub_model_id", "OWNER/NAME to upload to, once proven", "验证后上传到的仓库（用户名/仓库名）"),
        ),
    ),
    "download": Page(
        "download OWNER/NAME [--to DIR] [--source hf|modelscope] [--revision R] [--include PATTERN] [--dataset]",
        (
            "Fetches a model or dataset, goes on where an earlier try broke off, and checks sizes and hashes against "
            "the hub's. HF_ENDPOINT names a mirror, HF_TOKEN opens gated repositories. Pickles are never fetched.",
            "下载模型或数据集，支持断点续传，并按模型站记录的大小和哈希校验。可用 HF_ENDPOINT 指定镜像，"
            "用 HF_TOKEN 访问需授权的仓库；绝不下载 pickle 文件。",
        ),
        (
            (
                "download HuggingFaceTB/SmolLM2-135M-Instruct --to models/SmolLM2-135M-Instruct",
                "into a folder",
                "下载到指定文件夹",
            ),
            ("download Qwen/Qwen3-0.6B --source modelscope --to models/Qwen3-0.6B", "from ModelScope", "从魔搭下载"),
            ("download OWNER/ROWS --dataset --include '*.jsonl' --to data/rows", "a dataset", "下载数据集"),
        ),
        takes_settings=False,
    ),
    "verify": Page(
        "verify FOLDER [--hashes]",
        (
            "Checks a model or adapter folder: LFS pointers, truncated files, missing shards, tensors that are empty "
            "or in two files, tokenizer, chat template, stop tokens. With --hashes the content too, against proof.json "
            "or download.json. Exit code 1 when something is wrong.",
            "检查模型或适配器文件夹：LFS 指针、截断的文件、缺失的分片、空张量或重复张量、分词器、对话模板、停止符。"
            "加 --hashes 还会按 proof.json 或 download.json 校验内容。有问题时退出码为 1。",
        ),
        (
            ("verify models/SmolLM2-135M-Instruct", "headers, sizes, index: milliseconds", "只看文件头、大小和索引"),
            ("verify saves/merged --hashes", "every byte of an export", "逐字节校验导出结果"),
        ),
        takes_settings=False,
    ),
    "expand": Page(
        "expand [FILE.yaml] [key=value ...]",
        (
            "Writes a deeper model whose new blocks change nothing yet; logits before and after are compared. Training "
            "with use_llama_pro: true and freeze_trainable_layers: NUM_EXPAND then trains these blocks alone.",
            "生成一个更深、但输出完全不变的模型，并比对前后的 logits；之后设置 use_llama_pro: true 与 "
            "freeze_trainable_layers: 新增层数，即可只训练新增的层。",
        ),
        (
            (
                "expand --model_name_or_path DIR --output_dir models/deeper --num_expand 8",
                "8 blocks, each after an equal number of layers",
                "均匀插入 8 层",
            ),
        ),
        (
            MODEL,
            ("num_expand", "how many blocks are added; it must divide the layers", "新增层数，须能整除原层数"),
            ("output_dir", "folder of the expanded model", "扩展后模型的文件夹"),
        ),
    ),
    "config": Page(
        "config show FILE.yaml [key=value ...] | config schema | config reference",
        ("Shows what a file really means, before it runs.", "在运行之前查看配置文件的实际含义。"),
        (
            ("config show my.yaml", "every effective value, and where it came from", "每个参数的生效值及其来源"),
            ("config schema > schema.json", "JSON schema, for editors", "导出 JSON schema，供编辑器补全"),
            ("config reference", "the documentation of every setting", "输出全部参数的文档"),
        ),
    ),
    "data": Page(
        "data preview FILE.yaml [key=value ...]",
        (
            "Shows rows as the model will see them, each token coloured: trained or only context.",
            "按模型所见展示样本，并用颜色标出哪些 token 参与损失。",
        ),
        (("data preview my.yaml", "the first rows of a training file's datasets", "预览训练配置中数据集的前几行"),),
        (
            (
                "dataset",
                "names from dataset_info.json, or paths of files",
                "dataset_info.json 中的名称，或数据文件路径",
            ),
            ("dataset_dir", "folder of dataset_info.json", "dataset_info.json 所在文件夹"),
            TEMPLATE,
        ),
    ),
    "template": Page(
        "template list | template show NAME | template check MODEL_FOLDER",
        (
            "Chat templates: what there is, what one renders to, and whether it gives the tokens of the model's own.",
            "对话模板：列出全部、查看渲染结果、检查是否与模型自带模板逐 token 一致。",
        ),
        (
            ("template list", "the known templates", "列出已有模板"),
            ("template show qwen", "one template, with a rendered example", "查看一个模板及渲染示例"),
            (
                "template check models/my-model",
                "compare with the model's own Jinja template",
                "与模型自带 Jinja 模板比对",
            ),
        ),
        takes_settings=False,
    ),
    "runs": Page(
        "runs [list] [FOLDER] | runs show RUN_FOLDER",
        (
            "Run folders under saves/ or FOLDER: finished, stopped or running, steps, loss; one run in detail.",
            "列出 saves/（或指定文件夹）下的训练记录：状态、步数、loss；也可查看单次训练详情。",
        ),
        (
            ("runs", "a table of all runs under saves/", "列出 saves/ 下的全部训练"),
            (
                "runs show saves/smollm2/lora/sft",
                "settings, row totals, checkpoints, what to do next",
                "查看设置、数据统计、检查点与后续命令",
            ),
        ),
        takes_settings=False,
    ),
    "env": Page(
        "env [--full]",
        (
            "Versions, processor, memory and devices, without importing torch. --full imports it and asks it too.",
            "显示版本、处理器、内存与设备信息（不导入 torch）；加 --full 会导入 torch 并显示其信息。",
        ),
        takes_settings=False,
    ),
    "version": Page("version", ("Prints the version.", "显示版本号。"), takes_settings=False),
    "help": Page(
        "help [VERB]", ("Lists the verbs, or explains one.", "列出全部命令，或说明某个命令。"), takes_settings=False
    ),
}
