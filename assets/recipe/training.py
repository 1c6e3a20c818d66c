"""What each training phase needs: processes, weights in one buffer, a state to resume from."""

import argparse
import math
import tempfile
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing
from safetensors.torch import save_file
from torch import Tensor, nn

Step = Callable[[], None]


@dataclass(frozen=True)
class Process:
    """One of the processes of a phase, one a GPU (or a single one on the CPU)."""

    rank: int
    count: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this process writes files and reports."""
        return self.rank == 0

    def average(self, tensor: Tensor) -> None:
        """Average over the processes, in place."""
        if self.count > 1:
            dist.all_reduce(tensor)
            tensor /= self.count

    def share(self, tensor: Tensor) -> None:
        """Give every process the first one's values, in place."""
        if self.count > 1:
            dist.broadcast(tensor, 0)


def launch(work: Callable[..., None], *args: object) -> None:
    """Run work(process, *args) in a process for each GPU."""
    count = max(1, torch.cuda.device_count())
    with tempfile.TemporaryDirectory() as folder:
        if count == 1:
            start(0, 1, folder, work, args)
        else:
            torch.multiprocessing.spawn(start, (count, folder, work, args), nprocs=count)


def command_line(work: Callable[..., None], purpose: str, steps: int) -> None:
    """Run a phase that trains: RUN [--steps N] [--minutes M]."""
    parser = argparse.ArgumentParser(description=purpose.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--steps", type=int, default=steps)
    parser.add_argument("--minutes", type=float, default=9.0)
    args = parser.parse_args()
    launch(work, args.run, args.steps, args.minutes)


def start(
    rank: int, count: int, folder: str, work: Callable[..., None], args: tuple[object, ...]
) -> None:
    """Be one of the processes of `launch`."""
    gpu = torch.cuda.is_available()
    device = torch.device("cuda", rank) if gpu else torch.device("cpu")
    if gpu:
        torch.cuda.set_device(device)
        torch.backends.cudnn.benchmark = True
        torch.set_float32_matmul_precision("high")
    else:
        torch.set_num_threads(1)
    torch.manual_seed(rank)
    if count > 1:
        dist.init_process_group(
            "nccl" if gpu else "gloo", f"file://{folder}/meeting", rank=rank, world_size=count
        )
    work(Process(rank, count, device), *args)
    if count > 1:
        dist.destroy_process_group()


def fast(module: Callable[..., Tensor], device: torch.device) -> Callable[..., Tensor]:
    """Compile for the GPU."""
    return torch.compile(module, dynamic=False) if device.type == "cuda" else module


def half_precision(device: torch.device) -> AbstractContextManager[object]:
    """Multiply in bfloat16 on the GPU; the weights stay float32."""
    if device.type == "cpu":
        return nullcontext()
    return torch.autocast(
        "cuda", torch.bfloat16, cache_enabled=False
    )  # a CUDA graph must cast anew in each replay


def captured(step: Step, device: torch.device) -> Step:
    """Record a step as a CUDA graph: small networks are bound by the launching of their kernels."""
    if device.type == "cpu":
        return step
    side = torch.cuda.Stream(device)
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        step()
    return graph.replay


class Weights:
    """The parameters of some modules as views of one buffer: one all-reduce, AdamW and average.

    `value`, `value.grad` and `average` are flat float32 buffers; the modules' parameters and
    gradients are views.
    """

    ALIGNMENT = 64  # elements; compiled kernels read in long words

    def __init__(self, modules: dict[str, nn.Module], process: Process) -> None:
        for module in modules.values():
            module.to(process.device, memory_format=torch.channels_last)
        named = [
            (f"{name}.{key}", p)
            for name, module in modules.items()
            for key, p in module.named_parameters()
        ]
        self.names = [name for name, _ in named]
        self.parameters = [parameter for _, parameter in named]
        self.starts: list[int] = []
        size = 0
        for parameter in self.parameters:
            self.starts.append(size)
            size += -(-parameter.numel() // self.ALIGNMENT) * self.ALIGNMENT
        self.value = nn.Parameter(torch.zeros(size, device=process.device))
        self.value.grad = torch.zeros_like(self.value)
        for parameter, value, gradient in zip(
            self.parameters,
            self.views(self.value.data),
            self.views(self.value.grad),
            strict=True,
        ):
            value.copy_(parameter.data)
            parameter.data, parameter.grad = value, gradient
        process.share(self.value.data)
        self.average = self.value.data.clone()

    def views(self, buffer: Tensor) -> list[Tensor]:
        """The parameters as they lie in a buffer."""
        return [
            buffer.as_strided(p.shape, p.stride(), start)
            for p, start in zip(self.parameters, self.starts, strict=True)
        ]

    def state_dict(self, buffer: Tensor, name: str) -> dict[str, Tensor]:
        """The tensors of one module as they are in a buffer such as `average`."""
        views = zip(self.names, self.views(buffer), strict=True)
        return {
            key.removeprefix(f"{name}."): view for key, view in views if key.startswith(f"{name}.")
        }


class Optimizer:
    """AdamW on flat weights, gradients clipped to norm 1, the rate warmed up, then let down to 0.

    The learning rate follows a cosine over `steps`; `weights.average` follows with `decay` at most.
    """

    WARM_UP = 300

    def __init__(
        self, weights: Weights, process: Process, rate: float, steps: int, decay: float
    ) -> None:
        self.weights, self.process = weights, process
        self.rate, self.steps, self.decay = rate, steps, decay
        self.adam = torch.optim.AdamW([weights.value], betas=(0.9, 0.99), weight_decay=1e-3)

    @torch.no_grad()
    def step(self, done: int) -> None:
        """Average the gradients over the processes and take one step; `done` steps came before."""
        gradient = self.weights.value.grad
        self.process.average(gradient)
        gradient *= (1 / (gradient.norm() + 1e-6)).clamp(max=1)
        cosine = 0.5 + 0.5 * math.cos(math.pi * done / self.steps)
        self.adam.param_groups[0]["lr"] = self.rate * min(1, (done + 1) / self.WARM_UP) * cosine
        self.adam.step()
        self.weights.average.lerp_(
            self.weights.value.data, 1 - min(self.decay, (done + 1) / (done + 10))
        )

    def state_dict(self) -> dict[str, object]:
        """All that the next step depends on."""
        return {
            "value": self.weights.value.data,
            "average": self.weights.average,
            "adam": self.adam.state_dict(),
        }

    def load_state_dict(self, state: dict[str, object]) -> None:
        """Take up what state_dict gave."""
        self.weights.value.data.copy_(state["value"])
        self.weights.average.copy_(state["average"])
        self.adam.load_state_dict(state["adam"])


def train(
    name: str,
    process: Process,
    run: Path,
    step: Callable[[], Tensor],
    optimizer: Optimizer,
    minutes: float,
) -> bool:
    """Take `step`, which returns a loss, `optimizer.steps` times; says whether that is finished.

    After `minutes` the state is left in RUN/NAME.state.pt, from which the next run goes on.
    """
    deadline = time.monotonic() + 60 * minutes
    device, path = process.device, run / f"{name}.state.pt"
    done = 0
    if path.exists():
        state = torch.load(path, map_location=device, weights_only=True)
        optimizer.load_state_dict(state["optimizer"])
        done = state["done"]
        torch.manual_seed(done * process.count + process.rank)
    report = torch.zeros((), device=device)

    def backward() -> None:
        optimizer.weights.value.grad.zero_()
        loss = step()
        loss.backward()
        report.copy_(loss.detach())

    advance = captured(backward, device)
    clock, last = time.monotonic(), done
    while done < optimizer.steps:
        advance()
        optimizer.step(done)
        done += 1
        if done % 100 == 0:
            seconds = torch.tensor(time.monotonic(), device=device, dtype=torch.float64)
            process.share(seconds)  # so that all processes stop at the same step
            if process.first:
                rate = (done - last) / (time.monotonic() - clock)
                loss = f"loss {report.item():.4f}, {rate:.1f} steps/s"
                print(f"{name} {done}/{optimizer.steps}: {loss}", flush=True)
                clock, last = time.monotonic(), done
            if seconds.item() > deadline:
                break
    if process.first:
        save_state({"optimizer": optimizer.state_dict(), "done": done}, path)
    return done == optimizer.steps


def save_state(state: dict[str, object], path: Path) -> None:
    """Write a state to resume from."""
    torch.save(state, path.with_suffix(".tmp"))
    path.with_suffix(".tmp").replace(path)


def save_weights(state: dict[str, Tensor], path: Path) -> None:
    """Write a state dict as float16 safetensors."""
    half = {key: tensor.detach().half().cpu().contiguous() for key, tensor in state.items()}
    save_file(half, path.with_suffix(".tmp"), metadata={"format": "pt"})
    path.with_suffix(".tmp").replace(path)


def batches(count: int, size: int) -> Iterable[slice]:
    """Slices of `size` that cover `count`."""
    return (slice(i, min(i + size, count)) for i in range(0, count, size))
