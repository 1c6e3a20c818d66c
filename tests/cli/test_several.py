"""Several images of one command: --count, strengths, contact sheets, previews; other formats."""

import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFont

from lcmcore.cli.grid import SIDE, captions, contact_sheet
from lcmcore.cli.main import main
from lcmcore.networks import Networks
from lcmcore.png import encode_png, read_record
from tests.parity.bundles import TINY

SMALL = ["--size=64x64", "--steps=2", "--seed=7", "--threads=1"]


@pytest.fixture(autouse=True)
def at_home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LCM_MODEL", str(TINY / "lcm"))


@pytest.fixture
def lcm(capfd):
    """Run the command in this process, which must succeed: the lines on stderr."""

    def run(*words):
        assert main([str(word) for word in words]) == 0
        return capfd.readouterr().err.splitlines()

    return run


@pytest.fixture
def fails(capfd):
    """The message of a command that must fail, and change no file."""

    def run(*words):
        before = contents()
        assert main([str(word) for word in words]) == 1
        assert contents() == before
        *_, line = capfd.readouterr().err.splitlines()
        return line.removeprefix("lcm: error: ")

    return run


@pytest.fixture
def runs(monkeypatch):
    """The components that ran, in their order."""
    ran = []
    whole = Networks.run

    def run(self, component, **inputs):
        ran.append(component)
        return whole(self, component, **inputs)

    monkeypatch.setattr(Networks, "run", run)
    return ran


def contents():
    return {str(path): path.read_bytes() for path in Path().rglob("*") if path.is_file()}


def pixels(path):
    with Image.open(path) as image:
        return np.asarray(image)


def test_count(lcm, photo_file, runs):
    """Each is what its seed makes alone; encoders run once."""
    lines = lcm("img2img", photo_file, "a lake", "-o", "out.png", *SMALL, "--count=3")
    made = ["out-7.png", "out-8.png", "out-9.png"]
    assert [line.split()[1] for line in lines if line.startswith("wrote")] == made
    assert sorted(contents()) == [*made, "photo.png"]
    assert [runs.count(each) for each in ("text_encoder", "vae_encoder", "unet")] == [1, 1, 6]
    for seed in (7, 8, 9):
        lcm("img2img", photo_file, "a lake", "-o", "one.png", *SMALL, f"--seed={seed}")
        assert Path("one.png").read_bytes() == Path(f"out-{seed}.png").read_bytes()


def test_count_without_a_seed_counts_up_from_one_that_is_drawn(lcm):
    lcm("txt2img", "a lake", "-o", "out.png", *SMALL[:2], "--count=2")
    one, two = sorted(int(read_record(path)["seed"]) for path in Path().glob("out-*.png"))
    assert two == one + 1
    assert sorted(contents()) == [f"out-{one}.png", f"out-{two}.png"]


def test_strengths(lcm, photo_file):
    lines = lcm("img2img", photo_file, "a lake", "-o", "out.png", *SMALL, "--strength=0.5,100%")
    assert sorted(contents()) == ["out-0.5.png", "out-1.png", "photo.png"]
    assert [line.split(", ")[1] for line in lines if line.startswith("wrote")] == [
        "1 of 2 steps",
        "2 of 2 steps",
    ]
    lcm("img2img", photo_file, "a lake", "-o", "one.png", *SMALL, "--strength=0.5")
    assert Path("one.png").read_bytes() == Path("out-0.5.png").read_bytes()


def test_seeds_and_strengths_in_a_sheet_with_a_row_for_each_seed(lcm, photo_file):
    words = ["--steps=4", "--count=2", "--strength=0.25,0.5,1", "--grid"]
    lines = lcm("img2img", photo_file, "a lake", "-o", "out.png", *SMALL, *words)
    names = [f"out-{seed}-{strength}.png" for seed in (7, 8) for strength in ("0.25", "0.5", "1")]
    assert sorted(contents()) == [*names, "out-grid.png", "photo.png"]
    assert lines[-1] == "wrote out-grid.png, a contact sheet"
    sheet = pixels("out-grid.png").astype(int)
    images = [pixels(name).astype(int) for name in names]
    height, width = (sheet.shape[0] - 8) // 2, (sheet.shape[1] - 8) // 3
    for index in range(6):
        row, column = divmod(index, 3)
        cell = sheet[row * height : row * height + 72, column * width : column * width + 72]
        differences = [np.abs(cell[8:72, 8:72] - each).mean() for each in images]
        assert np.argmin(differences) == index
        assert differences[index] == 0


def test_a_sheet_is_replaced_and_holds_no_command(lcm, fails):
    for _ in range(2):
        lcm("txt2img", "a lake", "-o", "out.png", *SMALL, "--count=2", "--grid")
    words = "out-grid.png: holds no record of how it was made: a contact sheet of 2 images"
    assert fails("info", "out-grid.png") == words


@pytest.mark.parametrize("name", ["out-grid.png", "out-8.png"])
def test_files_of_others_are_not_replaced(name, fails):
    """Nor is any image made before that is known."""
    Image.new("RGB", (8, 8)).save(name)
    words = ["txt2img", "a lake", "-o", "out.png", *SMALL, "--count=2", "--grid"]
    assert fails(*words).startswith(f"{name} already exists and was not written by lcmcore")


def test_the_folder_of_the_output_is_made(lcm, fails, photo_file):
    lcm("txt2img", "a lake", "-o", "new/folder/out.png", *SMALL)
    assert pixels("new/folder/out.png").shape == (64, 64, 3)
    assert "no such file" in fails("img2img", "no.png", "a lake", "-o", "other/out.png", *SMALL)
    assert not Path("other").exists()


def test_preview(lcm, fails, photo_file, runs):
    """After each step but the last, what the decoder makes of its denoised latents."""
    words = ["img2img", photo_file, "a lake", "--steps=4", "--strength=1", *SMALL[::2]]
    lcm(*words, "-o", "plain.png")
    runs.clear()
    lcm(*words, "-o", "out.png", "--preview")
    assert runs.count("vae_decoder") == 4
    previews = [f"out-step{step}.png" for step in (1, 2, 3)]
    assert sorted(contents()) == [*previews, "out.png", "photo.png", "plain.png"]
    assert Path("out.png").read_bytes() == Path("plain.png").read_bytes()
    final = pixels("out.png").astype(int)
    far, *_, near = [np.abs(pixels(name).astype(int) - final).mean() for name in previews]
    assert far > near > 0
    words = "holds no record of how it was made: a preview: step 1 of 4 of out.png"
    assert fails("info", "out-step1.png") == f"out-step1.png: {words}"


@pytest.mark.parametrize(("name", "kind"), [("out.jpg", "JPEG"), ("out.webp", "WEBP")])
def test_other_formats_hold_their_record(name, kind, lcm, capfd, photo_file):
    lcm("img2img", photo_file, "a lake", "-o", name, *SMALL)
    with Image.open(name) as image:
        assert (image.format, image.size) == (kind, (64, 64))
    before = Path(name).read_bytes()
    assert main(["info", name]) == 0
    command = capfd.readouterr().out.splitlines()[-1]
    Path(name).unlink()
    lcm(*shlex.split(command)[1:])
    assert Path(name).read_bytes() == before
    lcm("img2img", photo_file, "a lake", "-o", name, *SMALL, "--seed=8")
    assert read_record(Path(name))["seed"] == "8"


def test_a_photograph_is_not_replaced_nor_the_init_image(fails, lcm, photo_file):
    Image.open(photo_file).save("photo.jpg")
    words = fails("txt2img", "a lake", "-o", "photo.jpg", *SMALL)
    assert words.startswith("photo.jpg already exists and was not written by lcmcore")
    lcm("txt2img", "a lake", "-o", "ours.jpg", *SMALL)
    words = fails("img2img", "ours.jpg", "a lake", "-o", "ours.jpg", *SMALL)
    assert words.startswith("ours.jpg is the init image")


def test_a_prompt_too_long_for_exif(fails):
    words = fails("txt2img", "lake " * 9000, "-o", "new/out.jpg", "-q", *SMALL)
    assert words == "the prompt is too long for the EXIF of an image: write a PNG"


def test_a_batch_of_single_files(lcm, photo_file):
    Path("folder").mkdir()
    Image.new("RGB", (64, 64), "red").save("folder/red.png")
    words = ["batch", photo_file, "folder", "a lake", "-o", "made", *SMALL, "--grid"]
    assert "wrote made/grid.png, a contact sheet of 2 images" in lcm(*words)
    assert sorted(path.name for path in Path("made").iterdir()) == [
        "grid.png",
        "photo.png",
        "red.png",
    ]
    again = lcm(*words)
    assert again[-1] == "0 images generated, 2 skipped (already done)"
    assert again[-2] == "wrote made/grid.png, a contact sheet of 2 images"


def test_a_batch_whose_images_would_get_one_name(fails, photo_file):
    Path("folder").mkdir()
    Path("folder/photo.png").write_bytes(photo_file.read_bytes())
    assert fails("batch", photo_file, "folder", "a lake", "-o", "made", *SMALL) == (
        f"{photo_file} and folder/photo.png would both be written to photo.png.png: rename one"
    )


def test_a_batch_with_an_image_where_the_sheet_would_be(fails, photo_file):
    photo_file.rename("grid.png")
    words = ["batch", "grid.png", "a lake", "-o", "made", *SMALL, "--grid"]
    assert fails(*words).startswith("made/grid.png is the contact sheet of --grid")


def test_a_batch_whose_sheet_is_another_program_s(fails, photo_file):
    Path("made").mkdir()
    Image.new("RGB", (8, 8)).save("made/grid.png")
    words = fails("batch", photo_file, "a lake", "-o", "made", *SMALL, "--grid")
    assert words.startswith("made/grid.png already exists and was not written by lcmcore")


def test_captions_name_what_differs():
    records = [
        {"prompt": "a lake", "seed": "7", "strength": "0.5", "init": "a/photo.png"},
        {"prompt": "a hill", "seed": "7", "strength": "0.75", "init": "b/lake.png"},
        {"prompt": "a lake", "seed": "7"},
    ]
    assert captions(records) == [
        "photo.png, a lake, strength 0.5",
        "lake.png, a hill, strength 0.75",
        "a lake",
    ]
    assert captions(records[:1]) == [""]


@pytest.mark.parametrize(
    ("count", "columns", "rows"), [(1, 1, 1), (2, 2, 1), (3, 3, 1), (4, 2, 2), (5, 3, 2), (9, 3, 3)]
)
def test_the_shape_of_a_sheet(count, columns, rows):
    sheet = contact_sheet([Image.new("RGB", (50, 40))] * count, [""] * count)
    assert sheet.size == (columns * 58 + 8, rows * 48 + 8)


def test_large_images_are_shrunk_and_long_captions_cut():
    sheet = contact_sheet([Image.new("RGB", (800, 400), "white")], ["a snowy lake " * 100])
    assert sheet.width == SIDE + 16
    dark = np.argwhere(np.asarray(sheet.convert("L")) < 128)
    assert dark[:, 1].min() >= 8
    assert dark[:, 1].max() < SIDE + 8
    assert dark[:, 0].max() < sheet.height


def test_text_stands_under_its_image():
    sheet = contact_sheet([Image.new("RGB", (100, 50), "white")] * 2, ["", "seed 7"])
    dark = np.argwhere(np.asarray(sheet.convert("L")) < 128)
    assert dark[:, 0].min() > 8 + 50
    assert dark[:, 1].min() >= 8 + 108


def test_letters_beyond_ascii_take_a_font_of_the_system_or_lose_their_accents(monkeypatch):
    """Pillow's own font has neither: each would be the same box."""
    whole, asked, found = ImageFont.truetype, [], set()

    def truetype(font, size, **options):
        """Pillow's own font is no name, but a file in memory."""
        if not isinstance(font, str):
            return whole(font, size, **options)
        asked.append(font)
        if font in found:
            return ImageFont.load_default(2 * size)
        raise OSError

    def sheet(text):
        return contact_sheet([Image.new("RGB", (200, 20), "red")], [text])

    monkeypatch.setattr(ImageFont, "truetype", truetype)
    assert sheet("Été, lac") == sheet("Ete, lac")
    assert sheet("озеро") == sheet("?????")
    found.add(asked[-1])
    assert sheet("Été") != sheet("Ete")  # by the larger font
    asked.clear()
    sheet("lac")
    assert asked == []


def test_a_record_without_a_prompt_is_described_only_if_it_is_ours(tmp_path, fails):
    image = Image.new("RGB", (8, 8))
    other = encode_png(image, {"Software": "GIMP", "Description": "a holiday"})
    (tmp_path / "a.png").write_bytes(other)
    assert fails("info", "a.png").endswith("; lcmcore did not write it")
