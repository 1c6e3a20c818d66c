"""Compare img2img by tiles of 256x256 with img2img as a whole, by the demo model.

    python benchmarks/demo_model/tiles.py CLASSIFIER.safetensors [--scenes 50] [--strength .4]

Scenes that no network was trained on, in other colours and each beside its mirror image, are init
images of 512x256; captions say what they are to become. Accuracy is the mean over the eight
attributes of the share of images in which the classifier finds what the caption says; layout is
the correlation of an image's coarse edges with those of its init image. A seam would be a larger
step between the columns and rows where tiles end than between those beside them.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "assets" / "recipe")]

from captions import caption  # noqa: E402
from classifier import load_classifier  # noqa: E402
from measure import layout_correlation  # noqa: E402
from painter import render  # noqa: E402
from scene import counterpart, sample  # noqa: E402

import lcmcore  # noqa: E402
from lcmcore.tiling import UNET_OVERLAP, VAE_OVERLAP, place_tiles  # noqa: E402
from tests.fixed_size import fix_size  # noqa: E402

SIDE, SIZE, SEED = 256, (512, 256), 7
NEAR = 4  # columns beside a border, each side


def borders() -> list[int]:
    """Columns of pixels at which a tile of the UNet or of the VAE begins or ends."""
    whole, tile = SIZE[0] // 8, SIDE // 8
    ends = {
        start + side
        for overlap in (UNET_OVERLAP, VAE_OVERLAP)
        for start in place_tiles(whole, tile, overlap)
        for side in (0, tile)
    }
    return sorted(8 * end for end in ends if 0 < end < whole)


def seam(images: np.ndarray) -> float:
    """The mean step across tile borders over that across the columns beside them."""
    steps = np.abs(np.diff(images, axis=2)).mean((0, 1, 3))  # between columns i and i + 1
    across = steps[[border - 1 for border in borders()]]
    beside = [
        steps[border - 1 + offset]
        for border in borders()
        for offset in range(-NEAR, NEAR + 1)
        if offset
    ]
    return float(across.mean() / np.mean(beside))


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("classifier", type=Path)
    parser.add_argument("--scenes", type=int, default=50)
    parser.add_argument("--strength", type=float, default=0.4)
    args = parser.parse_args()
    device = torch.device("cpu")
    classifier = load_classifier(args.classifier, device)
    scenes = [sample(seed) for seed in range(args.scenes)]
    inits = [render(counterpart(scene)) for scene in scenes]
    inits = [np.concatenate([init, init[:, ::-1]], 1) for init in inits]
    prompts = [caption(scene, scene.stream("captions")) for scene in scenes]
    wanted = torch.tensor([scene.classes() for scene in scenes])
    given = torch.from_numpy(np.stack(inits)).permute(0, 3, 1, 2).float() / 127.5 - 1
    with tempfile.TemporaryDirectory() as folder:
        fixed = fix_size(lcmcore.demo_dir(), Path(folder) / "fixed", (SIDE, SIDE))
        for name, root in (("whole", lcmcore.demo_dir()), ("tiles", fixed)):
            with lcmcore.load(root, runtime="onnx") as pipe:
                images = np.concatenate(
                    [
                        pipe(
                            prompt,
                            init,
                            args.strength,
                            seed=SEED + index,
                            width=SIZE[0],
                            height=SIZE[1],
                            output_type="np",
                        ).images
                        for index, (prompt, init) in enumerate(zip(prompts, inits, strict=True))
                    ]
                )
            made = torch.from_numpy(images).permute(0, 3, 1, 2) * 2 - 1
            found = torch.cat([classifier.classify(part) for part in made.split(10)])
            print(
                f"{name}: accuracy {float((found == wanted).float().mean()):.3f},"
                f" layout {layout_correlation(made, given):.3f}, step across borders"
                f" {seam(images):.3f} of those beside them",
                flush=True,
            )


if __name__ == "__main__":
    main()
