"""What the NPU takes for full-size networks, as they are and rewritten: `make npu`.

    python -m benchmarks.npu BUNDLE WORK [--only vae_decoder-256x256 ...]

Each network of the ONNX bundle is converted for rk3588 as it is (`lcm build rknn --no-rewrites
--cores 3`) and as `lcm build rknn` rewrites it, and run in the simulator beside ONNX Runtime.
Prints a Markdown table with before and after in each column, then the prediction of whole images.
Times are predictions for one core (docs/npu.md). It needs rknn-toolkit2, and on 2 cores two hours
and 16 GB of memory. WORK keeps a record of each network, which is not measured again: remove it
after a change of the rewrites.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from benchmarks.processes import run
from lcmcore.bundle import COMPONENTS
from lcmcore.runtime import TensorSpec
from lcmcore.util.arrays import Array
from runtimes.rknn import shapes
from runtimes.rknn.cost import predict, report
from runtimes.rknn.onnxfile import OnnxFile
from runtimes.rknn.toolkit import Toolkit

PLATFORM = "rk3588"
AS_IT_IS, REWRITTEN, KEYS = FORMS = ("as it is", "rewritten", "keys downsampled")
TILE = "512x216"  # three strips of 512x512, 68 pixels of overlap: one for each core
NETWORKS = {  # the small ones first
    "text_encoder-256x256": (AS_IT_IS, REWRITTEN),
    "vae_encoder-256x256": (AS_IT_IS, REWRITTEN),
    "vae_decoder-256x256": (AS_IT_IS, REWRITTEN),
    f"vae_encoder-{TILE}": (AS_IT_IS, REWRITTEN),
    f"vae_decoder-{TILE}": (AS_IT_IS, REWRITTEN),
    "vae_encoder-512x512": (AS_IT_IS, REWRITTEN),
    "vae_decoder-512x512": (AS_IT_IS, REWRITTEN),
    "unet-256x256": (AS_IT_IS, REWRITTEN),
    "unet-512x512": (AS_IT_IS, REWRITTEN, KEYS),
}
RUNS = {"unet": 2}  # in an img2img of 4 steps at strength 0.5


@dataclass(frozen=True)
class Figures:
    """What was found of a network in one form."""

    tasks: int
    gigabytes: float  # read and written by the NPU
    gmacs: float
    seconds: float  # predicted, one core
    megabytes: float  # of the file
    decibels: float  # signal to noise of the simulator's output, beside float32
    convert_seconds: float
    peak: float  # GB of the largest process


Found = Mapping[str, Mapping[str, Figures]]  # network-WxH -> form -> figures


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="what the NPU takes for each network")
    parser.add_argument("bundle", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--only", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--form", choices=FORMS, help="internal: measure one network in this form")
    args = parser.parse_args()
    if args.form:
        print(json.dumps(asdict(measured(args.bundle, args.only[0], args.form))))
        return
    args.work.mkdir(parents=True, exist_ok=True)
    found = {
        network: {form: _kept(args.bundle, args.work, network, form) for form in NETWORKS[network]}
        for network in args.only
    }
    print("\n".join([*table(found), "", *images(found)]))


def table(found: Found) -> Iterator[str]:
    """The lines of a Markdown table; each network's first form beside each of its others."""
    yield "| | tasks | GB moved | GMAC | predicted s | file MB | simulator dB | converted s, GB |"
    yield "|---|---|---|---|---|---|---|---|"
    for network, (first, *others) in ((name, list(forms)) for name, forms in found.items()):
        for other in others:
            pair = [found[network][form] for form in (first, other)]
            columns = [
                " → ".join(f"{getattr(each, name):{style}}" for each in pair)
                for name, style in _STYLES.items()
            ]
            effort = " → ".join(f"{each.convert_seconds:.0f}, {each.peak:.1f}" for each in pair)
            label = network.replace("_", " ").replace("-", " ", 1)
            label += "" if other == REWRITTEN else f", {other}"
            yield f"| {label} | {' | '.join(columns)} | {effort} |"


_STYLES = {
    "tasks": ",",
    "gigabytes": ".2f",
    "gmacs": ".0f",
    "seconds": ".3g",
    "megabytes": ".0f",
    "decibels": ".1f",
}


def images(found: Found) -> Iterator[str]:
    """Predicted seconds of img2img, 4 steps at strength 0.5, from what has been measured."""
    for size, vae in (("256x256", "256x256"), ("512x512", "512x512"), ("512x512", TILE)):
        sizes = {"text_encoder": "256x256", "unet": size, "vae_encoder": vae, "vae_decoder": vae}
        label = f"img2img {size}" + (", the VAE in tiles on three cores" if vae == TILE else "")
        for form in FORMS if size == "512x512" else FORMS[:2]:
            seconds = [
                RUNS.get(name, 1) * _seconds(found.get(f"{name}-{sizes[name]}", {}), form)
                for name in COMPONENTS
            ]
            if all(seconds):
                yield f"- {label}, {form}: {sum(seconds):.1f} s"


def _seconds(forms: Mapping[str, Figures], form: str) -> float:
    """Predicted; of a network that has no such form, as it is rewritten. 0 if not measured."""
    figures = forms.get(form) or (forms.get(REWRITTEN) if form == KEYS else None)
    return figures.seconds if figures else 0.0


def _kept(bundle: Path, work: Path, network: str, form: str) -> Figures:
    """The figures in WORK, or else those of a new process."""
    record = work / f"{network}, {form}.json"
    if not record.exists():
        print(f"{network}, {form}", file=sys.stderr)
        command = [sys.executable, "-m", "benchmarks.npu", str(bundle), str(work)]
        ended = run([*command, "--only", network, "--form", form])
        if ended.status:
            raise SystemExit(f"{network}, {form}: status {ended.status}")
        figures = json.loads(ended.output.splitlines()[-1])
        figures["peak"] = max(figures["peak"], ended.gigabytes)
        record.write_text(json.dumps(figures), encoding="utf-8")
    return Figures(**json.loads(record.read_text(encoding="utf-8")))


def measured(bundle: Path, network: str, form: str) -> Figures:
    """Convert a network, predict its time, and run it in the simulator."""
    from runtimes.rknn.calibration import Calibration
    from runtimes.rknn.prepare import DOWNSAMPLE_KEYS, REWRITES, prepare

    rewrites = {AS_IT_IS: (), REWRITTEN: REWRITES, KEYS: (*REWRITES, DOWNSAMPLE_KEYS)}[form]
    component, size = network.rsplit("-", 1)
    wanted = shapes.parse_size(size)
    file = OnnxFile.read(component, bundle / component / "model.onnx")
    at = file.shapes(shapes.input_shapes(component, bundle, wanted))
    specs = [TensorSpec(spec.name, at[spec.name], spec.dtype) for spec in file.inputs]
    samples, _ = Calibration(bundle, wanted).samples(component, specs)
    with tempfile.TemporaryDirectory(prefix="lcm-npu-") as folder, Toolkit(component) as toolkit:
        prepared = prepare(file, at, samples, Path(folder), rewrites)
        print("; ".join(prepared.lines), file=sys.stderr)
        start = time.perf_counter()
        toolkit.build(prepared.path, at, PLATFORM, single_core=form != AS_IT_IS)
        seconds = time.perf_counter() - start
        path = Path(folder) / "model.rknn"
        toolkit.export(path)
        cost = predict(path)
        if cost is None:
            raise SystemExit(f"{network}, {form}: no prediction for its program")
        print(*report.lines({1: cost}, [PLATFORM]), sep="\n", file=sys.stderr, flush=True)
        got = toolkit.run([samples[0][spec.name].astype(spec.dtype) for spec in specs])
        megabytes = path.stat().st_size / 1e6
    first = file.outputs[0].name
    return Figures(
        tasks=cost.tasks,
        gigabytes=cost.bytes / 1e9,
        gmacs=cost.macs / 1e9,
        seconds=cost.seconds,
        megabytes=megabytes,
        decibels=signal_to_noise(got[0], prepared.expected[first]),
        convert_seconds=seconds,
        peak=0.0,
    )


def signal_to_noise(got: Array, expected: Array) -> float:
    """Of an output beside the expected one, in decibels; of moments, that of the mean."""
    exact = expected.astype(np.float64)
    noise = np.asarray(got, np.float64).reshape(exact.shape) - exact
    if exact.shape[1] == 8:  # the encoder's: its log-variance is a constant
        exact, noise = exact[:, :4], noise[:, :4]
    return float(10 * np.log10(np.sum(exact**2) / max(float(np.sum(noise**2)), 1e-30)))


if __name__ == "__main__":
    main()
