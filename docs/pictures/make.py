"""Make the README's pictures again: `make pictures`.

The scribble is drawn here with Pillow; all else is what the demo model makes of it.
"""

from pathlib import Path

from PIL import Image, ImageDraw

import lcmcore

HERE = Path(__file__).parent
PROMPTS = (
    "a snowy landscape with mountains and a lake and pine trees at night",
    "a green meadow with mountains and a lake and a house at sunset",
    "a watercolor of an autumn landscape with mountains and a lake",
)
STRENGTHS = (0.3, 0.5, 0.7, 0.9)
STEPS = 8  # enough that each strength starts at a timestep of its own
SEED = 7


def scribble() -> Image.Image:
    """What one draws in a minute: sky, two peaks, a field, a lake, a sun and two trees."""
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


def strip(images: list[Image.Image]) -> Image.Image:
    """Pictures side by side, four pixels apart."""
    width, height = images[0].size
    sheet = Image.new("RGB", ((width + 4) * len(images) - 4, height), "white")
    for column, image in enumerate(images):
        sheet.paste(image, (column * (width + 4), 0))
    return sheet


def main() -> None:
    """Draw the scribble, and a strip of strengths for each prompt."""
    init = scribble()
    init.save(HERE / "scribble.png", optimize=True)
    with lcmcore.load(lcmcore.demo_dir()) as pipe:
        for number, prompt in enumerate(PROMPTS, start=1):
            made = [
                pipe(prompt, init, strength, num_inference_steps=STEPS, seed=SEED).images[0]
                for strength in STRENGTHS
            ]
            strip([init, *made]).save(HERE / f"strengths-{number}.jpg", quality=88)


if __name__ == "__main__":
    main()
