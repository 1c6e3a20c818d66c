"""Make the golden files that the parity tests read, from torch, diffusers and transformers.

    python -m tests.goldens.make [NAME ...]

Without a name all of them. `requirements.txt` says what must be installed; `make goldens` does it.
"""

import argparse
import warnings

import torch
from diffusers.utils import logging

from . import (
    added_tokens,
    demo,
    guidance,
    inpainting,
    noise,
    pipelines,
    pooling,
    schedules,
    tokenizer,
    trajectories,
)

MAKERS = {
    module.__name__.rpartition(".")[2]: module.make
    for module in (
        *(noise, schedules, trajectories, guidance, tokenizer, added_tokens),
        *(pipelines, inpainting, demo, pooling),
    )
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", nargs="*", help=f"one of {', '.join(MAKERS)}")
    names = parser.parse_args().name or list(MAKERS)
    for name in names:
        if name not in MAKERS:
            parser.error(f"no golden is called {name!r}")
    torch.set_num_threads(1)
    logging.set_verbosity_error()
    warnings.simplefilter("ignore", FutureWarning)  # of diffusers, on scheduler configs
    for name in names:
        print(f"{name}: {MAKERS[name]()}")


if __name__ == "__main__":
    main()
