"""Make the images of README.md and docs: `make pictures`.

The scribble is drawn here with Pillow; the demo model makes the others from it, or from noise.
"""

from pathlib import Path

from PIL import Image, ImageDraw

import lcmcore
from lcmcore.masks import blurred

HERE = Path(__file__).parent
PROMPTS = (
    "a snowy landscape with mountains and a lake and pine trees at night",
    "a green meadow with mountains and a lake and a house at sunset",
    "a watercolor of an autumn landscape with mountains and a lake",
)
STRENGTHS = (0.3, 0.5, 0.7, 0.9)
STRENGTHS_STEPS = 8  # enough that each strength starts at a timestep of its own
FROM_NOISE = (
    "a desert landscape with a cactus at sunset",
    "a forest with a river and mountains at dawn",
    "a pencil sketch of a winter landscape with a house",
    "a watercolor of a meadow with trees at noon",
    "pixel art, a snowy landscape with mountains at night",
)
STEPS = (1, 2, 4, 8)
SEED = 7
MEADOW = "a green meadow with mountains and trees at noon"
LAKE = "a green meadow with mountains and a lake at noon"
SUNSET = "a meadow with mountains and trees at sunset"
PANORAMA = "a green meadow with mountains and trees at sunset"
SNOW = "a snowy landscape with mountains and a lake and pine trees at night"
TILE, ENLARGED = 256, 512


def scribble() -> Image.Image:
    """What a user draws in a minute: sky, two peaks, a field, a lake, a sun and two trees."""
    image = Image.new("RGB", (256, 256), (126, 178, 232))
    draw = ImageDraw.Draw(image)
    draw.polygon([(-10, 150), (62, 58), (112, 122), (168, 44), (270, 150)], fill=(122, 118, 130))
    draw.rectangle([0, 142, 256, 256], fill=(104, 158, 72))
    draw.ellipse([76, 170, 214, 226], fill=(58, 112, 196))
    draw.ellipse([204, 22, 236, 54], fill=(252, 230, 120))
    for x, foot in ((34, 226), (232, 190)):
        draw.line([(x, foot), (x, foot - 24)], fill=(92, 66, 44), width=7)
        draw.polygon([(x - 18, foot - 18), (x + 18, foot - 18), (x, foot - 66)], fill=(40, 96, 56))
    return image


def mask(shape: str, box: tuple[int, int, int, int]) -> Image.Image:
    """White where the image is repainted."""
    drawn = Image.new("L", (256, 256))
    getattr(ImageDraw.Draw(drawn), shape)(box, fill=255)
    return drawn


def sheet(rows: list[list[Image.Image]]) -> Image.Image:
    """Images of one size in rows, four pixels apart."""
    width, height = rows[0][0].size
    size = ((width + 4) * len(rows[0]) - 4, (height + 4) * len(rows) - 4)
    whole = Image.new("RGB", size, "white")
    for y, row in enumerate(rows):
        for x, image in enumerate(row):
            whole.paste(image, (x * (width + 4), y * (height + 4)))
    return whole


def by_tiles(init: Image.Image) -> Image.Image:
    """A panorama, and below it a scribble, painted small and enlarged by img2img."""
    with lcmcore.load(lcmcore.demo_dir(), tile=TILE) as pipe:
        panorama = pipe(PANORAMA, seed=SEED, width=3 * TILE, height=TILE).images[0]
        small = pipe(SNOW, init, seed=SEED).images[0]
        size = {"width": ENLARGED, "height": ENLARGED}
        large = pipe(SNOW, small, 0.1, STRENGTHS_STEPS, seed=SEED, **size).images[0]
    whole = Image.new("RGB", (3 * TILE + 4, TILE + 4 + ENLARGED), "white")
    whole.paste(panorama, (0, 0))
    whole.paste(init, (0, TILE + 4))
    whole.paste(small, (0, 2 * TILE + 4))
    whole.paste(large, (TILE + 4, TILE + 4))
    return whole


def main() -> None:
    """Save the scribble, its img2img at each strength, txt2img in few steps, masks, and tiles."""
    init = scribble()
    init.save(HERE / "scribble.png", optimize=True)
    with lcmcore.load(lcmcore.demo_dir()) as pipe:

        def draw(prompt: str, steps: int, strength: float | None = None) -> Image.Image:
            image = init if strength else None
            return pipe(prompt, image, strength, num_inference_steps=steps, seed=SEED).images[0]

        strengths = [
            [init, *(draw(prompt, STRENGTHS_STEPS, strength) for strength in STRENGTHS)]
            for prompt in PROMPTS
        ]
        steps = [[draw(prompt, count) for prompt in FROM_NOISE] for count in STEPS]
        meadow = pipe(MEADOW, seed=SEED).images[0]
        masks = {
            LAKE: mask("ellipse", (60, 160, 216, 236)),
            SUNSET: mask("rectangle", (0, 0, 255, 100)),
        }
        repainted = [
            [
                meadow,
                drawn.convert("RGB"),
                pipe(prompt, meadow, seed=SEED, mask_image=blurred(drawn, 6)).images[0],
            ]
            for prompt, drawn in masks.items()
        ]
    sheet(strengths).save(HERE / "strengths.jpg", quality=88)
    sheet(steps).save(HERE / "steps.jpg", quality=88)
    masks[LAKE].save(HERE / "mask.png", optimize=True)
    sheet(repainted).save(HERE / "masks.jpg", quality=88)
    by_tiles(init).save(HERE / "tiles.jpg", quality=88)


if __name__ == "__main__":
    main()
