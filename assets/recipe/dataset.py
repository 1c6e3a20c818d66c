"""Paint the training pictures and write the tokenizer.

    python dataset.py RUN [--scenes N]

RUN then holds pictures.npy (scenes, then scribbles; uint8, NHWC), counterparts.npy (of the first
scenes), tokens.npy (captions of each scene), classes.npy (attributes of each scene) and tokenizer/.
"""

import argparse
import multiprocessing
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import captions
import numpy as np
import vocabulary
from canvas import SIZE
from painter import render
from scene import counterpart, sample
from scribbles import scribble

from lcmcore.tokenizer import CLIPTokenizer

CAPTIONS = 4  # for each scene
FIRST_SEED = 1_000_000  # of the training scenes; smaller seeds are held out
PAIRS = 0.3  # counterparts for each scene
SCRIBBLES = 0.25  # for each scene


def paint_scene(index: int) -> np.ndarray:
    """Picture of a training scene."""
    return render(sample(FIRST_SEED + index))


def paint_counterpart(index: int) -> np.ndarray:
    """Picture of a training scene in other colours."""
    return render(counterpart(sample(FIRST_SEED + index)))


def paint_scribble(index: int) -> np.ndarray:
    """Picture of a training scribble."""
    return scribble(FIRST_SEED + index)


def fill(path: Path, first: int, paint: Callable[[int], np.ndarray], share: range) -> None:
    """Paint a share of the pictures into an array on disk."""
    pictures = np.lib.format.open_memmap(path, "r+")
    for index in share:
        pictures[first + index] = paint(index)


def word_scene(seed: int) -> list[str]:
    """Several captions of one scene."""
    scene = sample(seed)
    rng = scene.stream("captions")
    return [captions.caption(scene, rng) for _ in range(CAPTIONS)]


def make_dataset(run: Path, scenes: int) -> None:
    """Paint, word and tokenize, with all processors."""
    run.mkdir(parents=True, exist_ok=True)
    pairs, scribbles = int(scenes * PAIRS), int(scenes * SCRIBBLES)
    for name, count in ("pictures", scenes + scribbles), ("counterparts", pairs):
        np.lib.format.open_memmap(run / f"{name}.npy", "w+", np.uint8, (count, SIZE, SIZE, 3))
    jobs = [
        (run / "pictures.npy", 0, paint_scene, scenes),
        (run / "pictures.npy", scenes, paint_scribble, scribbles),
        (run / "counterparts.npy", 0, paint_counterpart, pairs),
    ]
    workers = os.cpu_count() or 1
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        painting = [
            pool.apply_async(fill, (path, first, paint, range(worker, count, 4 * workers)))
            for path, first, paint, count in jobs
            for worker in range(4 * workers)
        ]
        seeds = range(FIRST_SEED, FIRST_SEED + scenes)
        texts = pool.map(word_scene, seeds, chunksize=256)
        counts = vocabulary.count_words(text for scene in texts for text in scene)
        vocabulary.write_tokenizer(counts, run / "tokenizer")
        tokens = pool.map(
            partial(tokenize, run / "tokenizer"), np.array_split(np.array(texts), 8 * workers)
        )
        np.save(run / "tokens.npy", np.concatenate(tokens))
        np.save(run / "classes.npy", np.array([sample(seed).classes() for seed in seeds], np.int8))
        for job in painting:
            job.get()


def tokenize(folder: Path, texts: np.ndarray) -> np.ndarray:
    """Tokenize captions: (scenes, captions) -> int16 (scenes, captions, 77)."""
    tokenizer = CLIPTokenizer.from_dir(folder)
    ids = tokenizer([str(text) for text in texts.reshape(-1)])
    return ids.reshape(*texts.shape, -1).astype(np.int16)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--scenes", type=int, default=96_000)
    args = parser.parse_args()
    make_dataset(args.run, args.scenes)


if __name__ == "__main__":
    main()
