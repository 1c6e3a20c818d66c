"""Predictions in words and in figures, for `lcm info`, `lcm bench` and reports."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from runtimes.rknn.cost.prediction import PLATFORM, Prediction

_SHOWN_KINDS, _MIN_SHARE = 3, 0.005
_PAYS = 0.9  # of one core's seconds: what several cores must save, for they share the memory


def lines(predictions: Mapping[int, Prediction], platforms: Sequence[str]) -> Iterator[str]:
    """Lines about a network: its seconds on one core, where they go, and those on more cores.

    `predictions` are those of the programs that the file holds, by the number of cores.
    """
    if 1 not in predictions:
        known = "of an unknown form"
        if PLATFORM not in platforms:
            known = f"for {', '.join(platforms) or 'an unknown platform'}, only {PLATFORM} is known"
        yield f"no prediction: the NPU's program in it is {known}"
        return
    prediction = predictions[1]
    shares = list(prediction.shares().items())[:_SHOWN_KINDS]
    parts = ", ".join(f"{share:.0%} {kind}" for kind, share in shares if share >= _MIN_SHARE)
    cpu = f", {prediction.on_cpu} layers on the CPU not counted" if prediction.on_cpu else ""
    seconds = f"predicted {_seconds(prediction.seconds)} on one core of {PLATFORM}"
    yield f"{seconds}: {parts} ({_sums(prediction)}{cpu})"
    more = {cores: each for cores, each in predictions.items() if cores > 1}
    if more:
        each_of = " and ".join(f"{_seconds(more[n].seconds)} on {n} cores" for n in sorted(more))
        fastest = min(each.seconds for each in more.values())
        pays = "" if fastest < _PAYS * prediction.seconds else ": one core does as well"
        yield f"predicted {each_of}, if these do not wait for the memory{pays}"


def table(prediction: Prediction) -> Iterator[str]:
    """A line for each layer that the NPU runs or the CPU has to, in their order."""
    yield "predicted ms   tasks       MB       MMAC  operator"
    for each in prediction.layers:
        if not each.tasks and each.layer.on_npu:
            continue  # nothing is done: the shape of a tensor was changed, for one
        time = f"{each.seconds * 1e3:.3f}" if each.layer.on_npu else ""
        shape = "x".join(map(str, each.layer.outputs[0])) if each.layer.outputs else ""
        yield (
            f"{time:>12}{each.tasks:8}{each.bytes / 1e6:9.2f}{each.macs / 1e6:11.2f}"
            f"  {each.layer.operator} {each.layer.name} {shape}".rstrip()
            + ("" if each.layer.on_npu else ", on the CPU")
        )


def figures(predictions: Mapping[int, Prediction]) -> dict[str, Any]:
    """What a report holds of a network: one core's program, and the seconds of the others."""
    prediction = predictions[1]
    return {
        "seconds": prediction.seconds,
        "seconds_on_cores": {str(cores): each.seconds for cores, each in predictions.items()},
        "tasks": prediction.tasks,
        "bytes": prediction.bytes,
        "thin_bytes": prediction.thin_bytes,
        "macs": prediction.macs,
        "layers_on_cpu": prediction.on_cpu,
        "shares": {kind: round(share, 4) for kind, share in prediction.shares().items() if share},
    }


def _sums(prediction: Prediction) -> str:
    return (
        f"{prediction.tasks:,} tasks, {prediction.bytes / 1e9:.2f} GB moved,"
        f" {prediction.macs / 1e9:.1f} GMAC"
    )


def _seconds(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1e3:.1f} ms"
