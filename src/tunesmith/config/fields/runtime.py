"""Processes, devices and loaders: data loading, several GPUs, DeepSpeed, FSDP, Ray, FP8, profiling.

One process on one device needs none of them; what concerns only several devices comes later.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from tunesmith.config.spec import Group, option

_ONE_PROCESS = "train in one process, or in several with plain data parallelism (torchrun)"
_LOADER = "the data is prepared before the first step and read from memory"
_DDP = "it concerns only several devices, and the default is right there"
_NO_PROFILE = "the log has the tokens per second of every step"
_BF16 = "use bf16"


@dataclass(frozen=True, init=False, repr=False, eq=False)
class LoaderOptions:
    """How batches are read."""

    GROUP: ClassVar[Group] = Group("loader", "Data loading", "数据读取", ("train",))

    dataloader_num_workers: int = option(
        0, en="Processes that load batches.", zh="读取批次的进程数。", ge=0, noop=_LOADER
    )
    dataloader_pin_memory: bool = option(
        True, en="Load batches into page-locked memory.", zh="将批次读入锁页内存。", noop=_LOADER
    )
    dataloader_persistent_workers: bool = option(
        False, en="Keep loader processes between epochs.", zh="各轮之间保留读取进程。", noop=_LOADER
    )
    dataloader_prefetch_factor: int | None = option(
        None, en="Batches each loader process reads ahead.", zh="每个读取进程预取的批数。", gt=0, noop=_LOADER
    )
    dataloader_drop_last: bool = option(
        False,
        en="Leave out the last, smaller batch of an epoch.",
        zh="舍弃每轮最后不足一批的数据。",
        later="every example of an epoch is trained on; leave it out",
    )
    dataloader_multiprocessing_context: str | None = option(
        None, en="How loader processes are started.", zh="读取进程的启动方式。", noop=_LOADER
    )
    dataloader_in_order: bool = option(
        True,
        en="Keep the order of batches with several loader processes.",
        zh="多进程读取时保持批次顺序。",
        noop=_LOADER,
    )
    remove_unused_columns: bool = option(
        True, en="Drop columns that the model does not take.", zh="丢弃模型不需要的列。", noop=_LOADER
    )
    length_column_name: str = option(
        "length", en="Column with the lengths of examples.", zh="存放样本长度的列名。", noop=_LOADER
    )
    ignore_data_skip: bool = option(
        False,
        en="Start the data over when resuming.",
        zh="续训时从头读取数据。",
        later="a resumed run goes on at the exact row, at no cost",
    )
    skip_memory_metrics: bool = option(
        True,
        en="Leave memory use out of the metrics.",
        zh="指标中不含内存用量。",
        noop="peak memory is always reported",
    )


@dataclass(frozen=True, init=False, repr=False, eq=False)
class DistributedOptions:
    """Several processes and devices."""

    GROUP: ClassVar[Group] = Group("distributed", "Several devices", "多设备", ("train",))

    deepspeed: Mapping[str, Any] | str | None = option(
        None,
        en="DeepSpeed configuration: a JSON file or a mapping.",
        zh="DeepSpeed 配置：JSON 文件或映射。",
        later="a model that is too large for the device trains with finetuning_type: lora",
    )
    fsdp: bool | str | None = option(
        None, en="Fully sharded data parallelism.", zh="完全分片数据并行（FSDP）。", off=(False, ""), later=_ONE_PROCESS
    )
    fsdp_config: Mapping[str, Any] | str | None = option(
        None, en="Settings of FSDP.", zh="FSDP 的配置。", off=({},), later=_ONE_PROCESS
    )
    accelerator_config: Mapping[str, Any] | str | None = option(
        None, en="Settings of the accelerate library.", zh="accelerate 库的配置。", later=_ONE_PROCESS
    )
    ddp_timeout: int = option(1800, en="Seconds that processes wait for each other.", zh="进程间相互等待的秒数。", gt=0)
    ddp_find_unused_parameters: bool | None = option(
        None, en="Look for parameters without a gradient.", zh="查找没有梯度的参数。", noop=_DDP
    )
    ddp_bucket_cap_mb: int | None = option(
        None, en="Size of gradient buckets in MB.", zh="梯度分桶的大小（MB）。", gt=0, noop=_DDP
    )
    ddp_broadcast_buffers: bool | None = option(
        None, en="Send buffers to all processes at each step.", zh="每一步向所有进程同步缓冲区。", noop=_DDP
    )
    ddp_static_graph: bool | None = option(
        None, en="Assume the same graph at every step.", zh="假定每一步的计算图相同。", noop=_DDP
    )
    ddp_backend: str | None = option(
        None,
        en="How processes talk to each other.",
        zh="进程间的通信后端。",
        choices=("nccl", "gloo", "mpi", "ccl", "hccl", "cncl", "mccl"),
        noop="nccl is used on GPUs, gloo on CPUs",
        aliases=("xpu_backend",),
    )
    local_rank: int = option(
        -1,
        en="Number of this process on its machine.",
        zh="本进程在本机上的编号。",
        ge=-1,
        noop="the launcher's LOCAL_RANK decides",
    )
    master_addr: str | None = option(
        None, en="Address of the first Ray worker.", zh="第一个 Ray 进程的地址。", later=_ONE_PROCESS
    )
    master_port: str | None = option(
        None, en="Port of the first Ray worker.", zh="第一个 Ray 进程的端口。", later=_ONE_PROCESS
    )
    ray_num_workers: int = option(1, en="Number of Ray workers.", zh="Ray 进程数。", gt=0, later=_ONE_PROCESS)
    ray_init_kwargs: Mapping[str, Any] | str | None = option(
        None, en="Settings of the Ray cluster.", zh="Ray 集群的参数。", later=_ONE_PROCESS
    )
    use_hyper_parallel: bool = option(
        False, en="Use the HyperParallel backend.", zh="使用 HyperParallel 后端。", later=_ONE_PROCESS
    )
    hyper_parallel_args: str | None = option(
        None, en="JSON file with HyperParallel settings.", zh="HyperParallel 配置的 JSON 文件。", later=_ONE_PROCESS
    )
    hyper_parallel_cp_size: int = option(
        1, en="Context parallelism of HyperParallel.", zh="HyperParallel 的上下文并行度。", gt=0, later=_ONE_PROCESS
    )
    use_mca: bool = option(
        False, en="Use the Megatron-Core adapter.", zh="使用 Megatron-Core 适配层。", later=_ONE_PROCESS
    )
    use_megatron_bridge: bool = option(
        False, en="Use Megatron Bridge.", zh="使用 Megatron Bridge。", later=_ONE_PROCESS
    )


@dataclass(frozen=True, init=False, repr=False, eq=False)
class ProfilerOptions:
    """Profiling and FP8."""

    GROUP: ClassVar[Group] = Group("profiler", "Profiling and FP8", "性能分析与 FP8", ("train",))

    enable_torch_profiler: bool = option(
        False, en="Record a torch profile.", zh="记录 torch 性能剖析。", later=_NO_PROFILE
    )
    profiler_output_dir: str | None = option(
        None,
        en="Folder of the profile; unset: output_dir/profiler.",
        zh="剖析结果的文件夹；不设置则为 output_dir/profiler。",
        later=_NO_PROFILE,
    )
    profiler_wait_steps: int = option(1, en="Steps before profiling.", zh="剖析前等待的步数。", ge=0, later=_NO_PROFILE)
    profiler_warmup_steps: int = option(
        1, en="Steps that warm the profiler up.", zh="剖析的预热步数。", ge=0, later=_NO_PROFILE
    )
    profiler_active_steps: int = option(1, en="Steps recorded.", zh="记录的步数。", gt=0, later=_NO_PROFILE)
    profiler_repeat: int = option(
        1, en="Times to repeat; 0: until the end.", zh="重复次数；0 表示一直重复。", ge=0, later=_NO_PROFILE
    )
    profiler_record_shapes: bool = option(
        True, en="Record the shapes of tensors.", zh="记录张量形状。", later=_NO_PROFILE
    )
    profiler_profile_memory: bool = option(True, en="Record memory use.", zh="记录内存用量。", later=_NO_PROFILE)
    profiler_with_stack: bool = option(True, en="Record source lines.", zh="记录源代码位置。", later=_NO_PROFILE)
    profile_modules: tuple[str, ...] = option(
        (), en="Patterns of modules to time.", zh="需要计时的模块名模式。", later=_NO_PROFILE
    )
    fp8: bool = option(False, en="Compute in 8-bit floating point.", zh="使用 8 位浮点计算。", later=_BF16)
    fp8_backend: str = option(
        "auto", en="Library for FP8.", zh="FP8 所用的库。", choices=("auto", "torchao", "te", "msamp"), later=_BF16
    )
    fp8_enable_fsdp_float8_all_gather: bool = option(
        False, en="Gather FSDP shards in FP8.", zh="以 FP8 收集 FSDP 分片。", later=_BF16
    )
