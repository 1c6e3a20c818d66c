"""The `lcm` command: images, progress, reproducing a PNG, and how it fails."""

import os
import pty
import re
import select
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lcmcore import demo_dir
from lcmcore.cli.main import main
from lcmcore.png import encode_png, read_record
from tests.parity.bundles import TINY

LCM = Path(sys.executable).with_name("lcm")
SMALL = ["--size=64x64", "--steps=1", "--seed=7", "--threads=1"]


@pytest.fixture(autouse=True)
def at_home(tmp_path, monkeypatch):
    """Each test in a folder of its own, with none of the user's settings."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LCM_MODEL", str(TINY / "lcm"))
    monkeypatch.delenv("LCM_TRACEBACK", raising=False)


@pytest.fixture
def lcm(capfd):
    """Run the command in this process: (exit status, stdout, stderr)."""

    def run(*words):
        try:
            status = main([str(word) for word in words])
        except SystemExit as leaving:  # argparse's way out
            status = leaving.code
        reported = capfd.readouterr()
        return status, reported.out, reported.err

    return run


def files():
    return sorted(path for path in Path().rglob("*") if path.is_file())


def pixels(path):
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image)


def test_img2img(lcm, photo_file, monkeypatch):
    """On the demo model, the default of every command."""
    monkeypatch.delenv("LCM_MODEL")
    status, out, err = lcm("img2img", photo_file, "a lake", "-o", "out.png", "--seed=7")
    assert (status, out) == (0, "")
    assert pixels("out.png").shape == (64, 96, 3)
    assert re.fullmatch(
        r"(step \d/3, [\d.]+ s\n){3}"
        r"wrote out\.png \(96x64, 3 of 4 steps, seed 7\) with .*demo, in [\d.]+ s\n",
        err,
    )
    assert files() == [Path("out.png"), Path("photo.png")]


def test_img2img_reports_a_size_that_changes_and_warns_of_a_large_one(lcm, photo_file, caplog):
    command = ["img2img", photo_file, "a lake", "-o", "out.png", *SMALL[1:]]
    assert (
        "wrote out.png (96x64 -> 64x64, 1 of 1 step, seed 7) with "
        in lcm(*command, "--size=64x64")[2]
    )
    assert " -> " not in lcm(*command, "--size=96x64")[2]
    assert lcm(*command, "--size=128x128", "--strength=0.5")[0] == 0
    assert not caplog.messages
    assert lcm(*command, "--size=128x128")[0] == 0
    (message,) = caplog.messages
    assert message.startswith("size 128x128 is more than 2 times the area")


@pytest.mark.slow
@pytest.mark.parametrize("memory", ["low", "high"])
def test_memory_mode_does_not_change_the_image(memory, lcm, photo_file):
    for name, options in {"auto.png": [], "other.png": ["--memory", memory]}.items():
        assert lcm("img2img", photo_file, "a lake", "-o", name, *SMALL, *options)[0] == 0
    np.testing.assert_array_equal(pixels("auto.png"), pixels("other.png"))


def test_txt2img(lcm):
    assert lcm("txt2img", "a lake", "-o", "out.PNG", *SMALL)[0] == 0
    assert pixels("out.PNG").shape == (64, 64, 3)


@pytest.mark.slow
def test_a_long_prompt_warns_unless_quiet():
    """In a process of its own, where no test captures the log."""
    run = [LCM, "txt2img", "lake " * 3000, "-o", "out.png", *SMALL]
    reported = subprocess.run(run, capture_output=True, text=True, check=True).stderr
    assert reported.startswith("lcm: warning: the prompt is too long: truncated in 'lake'")
    reported = subprocess.run([*run, "-q"], capture_output=True, text=True, check=True)
    assert (reported.stdout, reported.stderr) == ("", "")


def test_a_long_file_name_in_any_script(lcm):
    name = "湖" * 83 + ".png"  # 253 bytes of the 255 that file systems allow
    assert lcm("txt2img", "a lake", "-o", name, *SMALL)[0] == 0
    assert files() == [Path(name)]


@pytest.mark.slow
def test_what_is_being_done_on_a_terminal(photo_file):
    """Each line takes the place of the one before; the last is cleared, and no full bar stands."""
    terminal, stderr = pty.openpty()
    run = [LCM, "img2img", photo_file, "a lake", "-o", "out.png", *SMALL[1:], "--strength=1"]
    with subprocess.Popen(run, stderr=stderr, stdin=subprocess.DEVNULL):
        os.close(stderr)
        reported = b""
        while select.select([terminal], [], [], 60)[0]:
            try:
                reported += os.read(terminal, 4096)
            except OSError:  # Linux's end of a pty
                break
    os.close(terminal)
    *lines, last = reported.decode().removesuffix("\r\n").split("\x1b[K")
    assert last.startswith("wrote out.png (96x64 -> 80x48, 1 of 1 step, ")
    lines = [line.removeprefix("\r") for line in lines]
    assert lines.pop() == ""
    assert lines.pop(-3).startswith(f"[{'#' * 24}] 1/1 steps, ")
    assert [re.sub(r" \([\d.]+ s\)$", "", line) for line in lines] == [
        "opening the model",
        "opening text_encoder",
        "encoding the prompt",
        "opening vae_encoder",
        "encoding the init image",
        "opening unet",
        "running the first step",
        "opening vae_decoder",
        "decoding",
    ]


@pytest.mark.slow
def test_without_stderr():
    run = f"exec {LCM} txt2img 'a lake' -o out.png {' '.join(SMALL)} 2>&-"
    assert subprocess.run(["sh", "-c", run], check=False).returncode == 0
    assert files() == [Path("out.png")]


PROMPTS = {
    "plain": "a snowy lake",
    "empty": "",
    "quotes": """it's a "lake" $HOME `ls` \\ !""",
    "lines": "a lake\nand\ta hill\r\n",
    "dash": "-o",
    "dashes": "--",
    "two dashes": "--steps=9 lake",
    "number": "-1",
    "Unicode": "озеро 湖 🏔️ \u202e ÀÀ",
    "surrogate": "a \udcff lake",  # how Python passes on bytes that are not UTF-8
}


@pytest.mark.slow
@pytest.mark.parametrize("prompt", PROMPTS.values(), ids=PROMPTS.keys())
def test_the_printed_command_reproduces_the_image(prompt, lcm):
    assert lcm("txt2img", "-o", "out.png", *SMALL, "--", prompt)[0] == 0
    before = Path("out.png").read_bytes()
    status, reported, _ = lcm("info", "out.png")
    assert status == 0
    Path("out.png").unlink()
    assert lcm(*split_by_shell(reported))[0] == 0
    assert Path("out.png").read_bytes() == before


@pytest.mark.slow
def test_the_printed_command_works_by_the_tiles_that_memory_auto_chose(lcm, monkeypatch):
    """Also where there is more memory by then."""
    words = ["-o", "out.png", "--steps=1", "--seed=7", "--size=192x64", "a lake"]
    with monkeypatch.context() as patch:
        patch.setattr("lcmcore.sizes.available_bytes", lambda: 2**19)
        patch.setattr("lcmcore.sizes._UNCHECKED_BYTES", 2**10)
        assert lcm("txt2img", *words)[0] == 0
    before = Path("out.png").read_bytes()
    reported = lcm("info", "out.png")[1]
    assert "  tile: 64\n" in reported
    assert lcm("txt2img", *words)[0] == 0
    assert Path("out.png").read_bytes() != before
    assert lcm(*split_by_shell(reported))[0] == 0
    assert Path("out.png").read_bytes() == before


def command_in(output):
    return output.partition("command to reproduce it:\n")[2]


def split_by_shell(output):
    """The words that a real shell makes of the printed command; the program is a stand-in."""
    script = f"""lcm() {{ printf '%s\\0' "$@"; }}\n{command_in(output)}"""
    words = subprocess.run(["bash", "-ec", script], capture_output=True, check=True).stdout
    return os.fsdecode(words).split("\0")[:-1]


@pytest.mark.slow
def test_the_printed_command_has_every_option(lcm, model, photo_file, monkeypatch):
    """Also $LCM_MODEL, which may be another by then, and an init image with an awkward name."""
    init = photo_file.rename("-it's a photo.png")
    (model / "tokenizer").rename("words of mine")
    Path("mine.toml").write_text("[defaults]\nguidance_scale = 2.0")
    monkeypatch.setenv("LCM_MODEL", str(model))
    options = [
        "--tokenizer=words of mine",
        "--config=mine.toml",
        "--runtime=onnx",
        "--component-runtime=unet=onnx",
        "--component-runtime=vae_decoder=auto",
        "--strength=0.6",
        "--strength-mode=rescale",
        "--latent-sampling=sample",
        "--fit=contain",
        "--steps=2",
        "--size=64x96",
        "--tile=64",
        "--quiet",
    ]
    assert lcm("img2img", *options, "-o", "out.png", "--", init, "a lake") == (0, "", "")
    before = pixels("out.png")
    reported = lcm("info", "out.png")[1]
    assert "  guidance: 2.0\n" in reported
    assert "  tile: 64\n" in reported
    assert re.search(r"  seed: \d+\n", reported)
    assert re.search(r"  init-sha256: [0-9a-f]{64}\n", reported)
    Path("out.png").unlink()
    monkeypatch.setenv("LCM_MODEL", "another")
    path = f"{LCM.parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path}
    subprocess.run(["bash", "-ec", command_in(reported)], check=True, env=environment)
    np.testing.assert_array_equal(pixels("out.png"), before)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        ["--mask=mask.png"],
        ["--mask=mask.png", "--mask-crop=4", "--mask-blur=1.5", "--invert-mask"],
        ["--expand=16,0,16,0", "--size=96x64"],
        ["--mask=mask.png", "--expand=0,8,0,0", "--no-overlay"],
    ],
    ids=str,
)
def test_the_printed_command_reproduces_an_image_with_a_mask(options, lcm, photo_file):
    mask = Image.new("L", (60, 40))
    mask.paste(255, (20, 10, 50, 30))
    mask.save("mask.png")
    plain = [*SMALL[1:], "--size=64x64", photo_file, "a lake"]
    assert lcm("img2img", "-o", "plain.png", *plain)[0] == 0
    assert lcm("img2img", "-o", "out.png", *options, *SMALL[1:], photo_file, "a lake")[0] == 0
    before = Path("out.png").read_bytes()
    assert before != Path("plain.png").read_bytes()
    reported = lcm("info", "out.png")[1]
    if "--mask=mask.png" in options:
        assert f"mask matches its SHA-256: {Path('mask.png').absolute()}\n" in reported
    Path("out.png").unlink()
    assert lcm(*split_by_shell(reported))[0] == 0
    assert Path("out.png").read_bytes() == before
    Image.new("L", (8, 8), 255).save("mask.png")
    if "--mask=mask.png" in options:
        assert "mask DIFFERS from the one used" in lcm("info", "out.png")[1]


def test_errors_of_masks_are_one_line(lcm, photo_file):
    for words, message in (
        (["--mask=none.png"], "none.png: no such file"),
        (["--mask-blur=2"], "mask_blur needs a mask"),
        (["--invert-mask"], "invert_mask needs a mask"),
        (["--mask-crop=2"], "padding_mask_crop needs a mask_image"),
        (["--expand=1,2"], "expand must be LEFT,TOP,RIGHT,BOTTOM, like 64,0,64,0, not '1,2'"),
    ):
        command = ["img2img", "-o", "out.png", *words, *SMALL, photo_file, "a lake"]
        assert lcm(*command) == (1, "", f"lcm: error: {message}\n")
    assert files() == [photo_file.relative_to(Path.cwd())]


def test_info_on_the_demo(lcm):
    status, reported, err = lcm("info", demo_dir())
    assert (status, err) == (0, "")
    assert "scheduler: scaled_linear betas, predicts epsilon, 50 original steps" in reported
    for component in ("text_encoder", "unet", "vae_encoder", "vae_decoder"):
        assert re.search(rf"  {component}: [\d.]+ MiB\n    model.onnx\n      input ", reported)


def test_info_reports_what_is_broken_and_goes_on(lcm, model):
    (model / "scheduler" / "scheduler_config.json").write_text("{")
    (model / "unet" / "model.onnx").unlink()
    (model / "lcm.toml").write_text("[vae_decoder]\nsha256 = '00'")
    status, reported, _ = lcm("info", model)
    assert status == 0
    assert "scheduler_config.json: not valid JSON" in reported
    assert "  unet: no model.onnx" in reported
    assert "    CHECKSUM MISMATCH: no file here has the SHA-256 of lcm.toml, 00\n" in reported


def test_info_into_a_closed_pipe():
    run = f"{LCM} info {demo_dir()} | true"
    reported = subprocess.run(["sh", "-c", run], capture_output=True, check=True).stderr
    assert reported == b""


def test_info_where_the_encoding_lacks_a_letter(lcm):
    assert lcm("txt2img", "озеро", "-o", "out.png", *SMALL)[0] == 0
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    run = subprocess.run(
        [LCM, "info", "out.png"], capture_output=True, text=True, check=False, env=environment
    )
    assert run.returncode == 1
    assert re.fullmatch(r"lcm: error: .*PYTHONUTF8=1\n", run.stderr)


@pytest.mark.slow
def test_a_full_disk_for_the_messages():
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    run = f"exec {LCM} txt2img 'a lake' -o out.png {' '.join(SMALL)} 2>/dev/full"
    assert subprocess.run(["sh", "-c", run], check=False).returncode == 0
    assert files() == [Path("out.png")]
    run = f"exec {LCM} info out.png >/dev/full"
    reported = subprocess.run(["sh", "-c", run], capture_output=True, text=True, check=False)
    fails((reported.returncode, "", reported.stderr), "standard output cannot be written: ")


def test_an_init_image_from_a_pipe(lcm, photo_file):
    """It is read once; so its digest, for which it would be read again, is left out."""
    run = f"cat photo.png | {LCM} img2img /dev/stdin 'a lake' -q -o out.png {' '.join(SMALL)}"
    subprocess.run(["sh", "-ec", run], check=True)
    assert "init-sha256" not in lcm("info", "out.png")[1]


USAGE = [
    ["draw"],
    ["img2img", "in.png"],
    ["txt2img", "a"],
    ["txt2img", "a", "b", "-o", "out.png"],
    ["txt2img", "a", "-o", "out.png", "--strength=0.5"],
    ["txt2img", "a", "-o", "out.png", "--seed=x"],
    ["txt2img", "a", "-o", "out.png", "--steps=1.5"],
    ["txt2img", "a", "-o", "out.png", "--memory=some"],
    ["txt2img", "a", "-o", "out.png", "--size=64"],
    ["txt2img", "a", "-o", "out.png", "--size=-64x64"],
    ["txt2img", "a", "-o", "out.png", f"--size={'9' * 5000}x64"],
    ["txt2img", "a", "-o", "out.png", "--component-runtime=vae=onnx"],
    ["txt2img", "a", "-o", "out.png", "--component-runtime=unet"],
    ["img2img", "in.png", "a", "-o", "out.png", "--fit=crop"],
    ["img2img", "in.png", "a", "-o", "out.png", "--strength-mode=cut"],
    ["info"],
]


@pytest.mark.parametrize("words", USAGE, ids=lambda words: " ".join(words)[:60])
def test_wrong_usage(words, lcm):
    status, out, err = lcm(*words)
    assert (status, out) == (2, "")
    assert err.startswith("usage: lcm")
    assert files() == []


def fails(result, words):
    """Status 1, and one line about it on stderr."""
    status, out, err = result
    assert (status, out) == (1, "")
    assert re.fullmatch(r"lcm: error: [^\n]+\n", err), err
    assert words in err
    assert "bug in lcmcore" not in err


OPTIONS = [
    (["--strength=nan"], "strength must be from 0 to 1, not nan"),
    (["--strength=-0.1"], "strength"),
    (["--strength=2"], "strength"),
    (["--steps=0"], "num_inference_steps must be from 1 to 50, not 0"),
    (["--steps=51"], "num_inference_steps"),
    (["--steps=-1"], "num_inference_steps"),
    (["--guidance=nan"], "guidance_scale"),
    (["--guidance=inf"], "guidance_scale"),
    (["--guidance=-1"], "guidance_scale"),
    (["--seed=18446744073709551616"], "seed must be from"),
    (["--size=0x64"], "width must be from 1"),
    (["--size=64x100"], "multiples of 16 for this model, e.g. 64x96"),
    (["--size=99999999x64"], "width"),
    (["--size=65536x65536"], "GiB of memory"),
    (["--steps=9", "--strength=0.1", "--strength-mode=rescale"], "leaves 5 of 50"),
    (["--negative-prompt=blurry"], "negative_prompt has no effect here"),
    (["--runtime=tpu"], "unknown runtime 'tpu': installed are auto, onnx"),
    (["--component-runtime=unet=tpu"], "unknown runtime 'tpu'"),
    (["--threads=0"], "threads"),
    (["--provider=Npu"], "providers: 'Npu' is not in this onnxruntime"),
    (["--model=nowhere"], "no model directory at nowhere"),
    (["--model=photo.png"], "no model directory at photo.png"),
    ([f"--model={'m' * 5000}"], "no model directory"),
    (["--model=."], "text_encoder: no model.onnx"),
    (["--config=nowhere.toml"], "no such file: nowhere.toml"),
    (["--config=photo.png"], "photo.png: "),
    (["--tokenizer=nowhere"], "no tokenizer at nowhere"),
    (["--tokenizer=."], "no such file: vocab.json"),
    (["-o", "photo.png/out.png"], "photo.png is no folder: out.png cannot be written below it"),
    (["-o", "photo.png/a/b/out.png"], "photo.png is no folder"),
    (["-o", "."], ". is a folder: give the name of a file"),
    (["-o", "folder.png"], "folder.png is a folder"),
    (["-o", "out.gif"], "out.gif: name it out.png, or with one of .jpg, .jpeg, .webp"),
    (["-o", "out"], "name it out.png"),
    (["--count=0"], "--count must be from 1 to 100, not 0"),
    (["--count=101"], "--count must be from 1 to 100, not 101"),
    (["--count=2", f"--seed={2**64 - 1}"], "seed must be from"),
    (["--strength=0.5,2"], "strength must be from 0 to 1, not 2"),
    (["--strength=750%"], "strength must be from 0 to 1, not 7.5"),
    (["--grid"], "the number of images of --grid must be from 2 to 100, not 1"),
    (["--grid", "--count=60", "--strength=0.2,0.4"], "must be from 2 to 100, not 120"),
    (["-o", f"{'n' * 300}.png"], "cannot be written"),
    (["-o", "/proc/out.png"], "/proc"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("options", "words"), OPTIONS, ids=lambda value: str(value)[:60])
def test_invalid_options(options, words, lcm, photo_file):
    Path("folder.png").mkdir()
    before = files()
    run = ["img2img", photo_file, "a lake", "-o", "out.png", "-q", "--steps=1", *options]
    fails(lcm(*run), words)
    assert files() == before


INITS = [
    (None, "no such file"),
    (b"", "not an image of a known format, or empty"),
    (b"Dear diary,", "not an image of a known format"),
    ("cut", "cannot be read"),
    ("folder", "is a folder"),
]


@pytest.mark.parametrize(("content", "words"), INITS)
def test_init_images_that_cannot_be_read(content, words, lcm, photo_file):
    init = Path("init.png")
    if content == "cut":
        init.write_bytes(photo_file.read_bytes()[:100])
    elif content == "folder":
        init.mkdir()
    elif content is not None:
        init.write_bytes(content)
    before = files()
    fails(lcm("img2img", init, "a lake", "-o", "out.png"), f"init.png: {words}")
    assert files() == before


def test_init_image_and_prompt_in_the_wrong_order(lcm, photo_file):
    fails(
        lcm("img2img", "a lake", photo_file, "-o", "out.png"),
        "no such file: a lake; INIT comes before PROMPT, which is ",
    )


def swap(one, other):
    between = one.with_name("between")
    one.rename(between)
    other.rename(one)
    between.rename(other)


def replace(path, content):
    path.unlink()
    path.write_bytes(content)


MODELS = {
    "lacks the UNet": (
        lambda model: (model / "unet" / "model.onnx").unlink(),
        "unet: no model.onnx",
    ),
    "lacks the encoder": (
        lambda model: (model / "vae_encoder" / "model.onnx").unlink(),
        "vae_encoder: no model.onnx",
    ),
    "broken ONNX": (
        lambda model: replace(model / "unet" / "model.onnx", b"version https://git-lfs"),
        "unet: cannot open",
    ),
    "lacks weights": (
        lambda model: (model / "unet" / "diffusion_pytorch_model.safetensors").unlink(),
        "unet: cannot open",
    ),
    "cut weights": (
        lambda model: replace(model / "unet" / "diffusion_pytorch_model.safetensors", b"0" * 99),
        "unet: cannot open",
    ),
    "broken JSON": (
        lambda model: (model / "unet" / "config.json").write_text("{"),
        "config.json: not valid JSON",
    ),
    "broken TOML": (
        lambda model: (model / "lcm.toml").write_text("= 4"),
        "lcm.toml: not valid TOML",
    ),
    "unknown key": (
        lambda model: (model / "lcm.toml").write_text("strenght = 4"),
        "lcm.toml: unknown key strenght",
    ),
    "lacks the tokenizer": (
        lambda model: (model / "tokenizer").rename(model / "other"),
        "name a folder that holds vocab.json and merges.txt with --tokenizer DIR",
    ),
    "broken tokenizer": (
        lambda model: (model / "tokenizer" / "merges.txt").write_bytes(b"\xff"),
        "merges.txt: cannot be read",
    ),
    "lacks the scheduler": (
        lambda model: (model / "scheduler" / "scheduler_config.json").unlink(),
        "no such file",
    ),
    "unknown scheduler": (
        lambda model: (model / "scheduler" / "scheduler_config.json").write_text(
            '{"_class_name": "FlowMatchEulerDiscreteScheduler"}'
        ),
        "scheduler 'FlowMatchEulerDiscreteScheduler' is not supported",
    ),
    "VAE swapped": (
        lambda model: swap(model / "vae_encoder", model / "vae_decoder"),
        "vae_encoder: the file holds another network",
    ),
    "UNet and text encoder swapped": (
        lambda model: swap(model / "unet", model / "text_encoder"),
        "the file holds another network: it takes ",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_models_that_are_broken(name, lcm, model, photo_file):
    damage, words = MODELS[name]
    damage(model)
    before = files()
    fails(lcm("img2img", photo_file, "a lake", "-o", "out.png", "-q", f"--model={model}"), words)
    assert files() == before


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("nowhere", "nowhere: no such file or folder"),
        ("photo.png", "lcmcore did not write it"),
        ("text", "not an image"),
        (".", ". is not a model directory"),
        ("n" * 5000, "not an image"),
    ],
)
def test_info_on_something_else(path, words, lcm, photo_file):
    Path("text").write_text("Dear diary,")
    fails(lcm("info", path), words)


def test_a_failing_process_prints_one_line():
    """All of the above in a process of its own, where libraries might print, or Python trace."""
    run = [LCM, "img2img", "nowhere.png", "a lake", "-o", "out.png"]
    ended = subprocess.run(run, capture_output=True, text=True, check=False)
    fails((ended.returncode, ended.stdout, ended.stderr), "nowhere.png: no such file")


@pytest.mark.slow
def test_a_broken_network_in_a_process_of_its_own(model):
    replace(model / "vae_decoder" / "model.onnx", b"no model")
    run = [LCM, "txt2img", "a lake", "-q", "-o", "out.png", f"--model={model}"]
    ended = subprocess.run(run, capture_output=True, text=True, check=False)
    fails((ended.returncode, ended.stdout, ended.stderr), "vae_decoder: cannot open")
    assert not Path("out.png").exists()


def test_a_bug_in_lcmcore_is_reported_in_one_line(lcm, monkeypatch):
    def broken(args):
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr("lcmcore.cli.parser.generate", broken)
    status, _, err = lcm("txt2img", "a", "-o", "out.png")
    assert status == 1
    assert re.fullmatch(r"lcm: error: ZeroDivisionError: division by zero \(a bug in .*\)\n", err)
    monkeypatch.setenv("LCM_TRACEBACK", "1")
    assert "Traceback (most recent call last)" in lcm("txt2img", "a", "-o", "out.png")[2]


def test_out_of_memory(lcm, monkeypatch):
    def hungry(args):
        raise MemoryError

    monkeypatch.setattr("lcmcore.cli.parser.generate", hungry)
    fails(lcm("txt2img", "a", "-o", "out.png"), "out of memory")


def test_a_full_disk_leaves_the_old_image():
    """`ulimit -f` lets no file grow beyond a few hundred bytes."""
    record = {"Software": "lcmcore 0.1.0", "prompt": "old"}
    Path("out.png").write_bytes(encode_png(Image.new("1", (1, 1)), record))
    run = f"ulimit -f 1; exec {LCM} txt2img 'a lake' -q -o out.png {' '.join(SMALL)}"
    ended = subprocess.run(["sh", "-c", run], capture_output=True, text=True, check=False)
    fails((ended.returncode, ended.stdout, ended.stderr), "out.png cannot be written: ")
    assert files() == [Path("out.png")]
    assert read_record(Path("out.png")) == record


@pytest.mark.slow
def test_an_interrupt_leaves_nothing():
    work = ["--steps=50", "--size=352x352"]  # enough not to be done before the signal comes
    heed = ["env", "--default-signal=INT"]  # a shell may have us, and so it, ignore the signal
    run = [*heed, LCM, "txt2img", "a lake", "-o", "out.png", *work, f"--model={demo_dir()}"]
    with subprocess.Popen(run, stderr=subprocess.PIPE, text=True) as process:
        first = process.stderr.readline()
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read()
    assert first.startswith("step 1/50")
    assert process.returncode == 130
    assert rest.endswith("lcm: interrupted\n")
    assert "Traceback" not in rest
    assert files() == []


@pytest.fixture
def bundle(tmp_path):
    return Path(shutil.copytree(TINY / "lcm", tmp_path / "bundle"))


@pytest.mark.parametrize("model", ["demo", "bundle"])
def test_the_printed_command_works_from_another_folder(
    model, bundle, lcm, photo_file, tmp_path, monkeypatch
):
    """Whatever $LCM_MODEL says there; and it makes the same image."""
    made = lcm("img2img", photo_file.name, "a lake", "-o", "out.png", "--model", model, *SMALL)
    assert made[0] == 0
    before = pixels("out.png")
    there = tmp_path / "there"
    there.mkdir()
    monkeypatch.chdir(there)
    monkeypatch.setenv("LCM_MODEL", "nowhere")
    printed = lcm("info", "../out.png")[1].splitlines()[-1]
    status, _, err = lcm(*shlex.split(printed)[1:], "--quiet")
    assert (status, err) == (0, "")
    np.testing.assert_array_equal(pixels(there / "out.png"), before)


def test_the_printed_command_says_that_the_model_is_another(bundle, lcm, caplog):
    assert lcm("txt2img", "a lake", "-o", "out.png", "--model=bundle", *SMALL)[0] == 0
    printed = lcm("info", "out.png")[1].splitlines()[-1]
    assert lcm(*shlex.split(printed)[1:])[0] == 0
    assert caplog.text == ""
    (bundle / "lcm.toml").write_text("size_multiple = 64")
    assert lcm(*shlex.split(printed)[1:])[0] == 0
    assert f"the model at {bundle} is not the one that made the image: its digest is" in caplog.text


def test_a_folder_named_demo_is_no_silent_surprise(bundle, lcm, caplog):
    bundle.rename("demo")
    assert lcm("txt2img", "a lake", "-o", "out.png", "--model=./demo", *SMALL)[0] == 0
    assert caplog.text == ""
    assert lcm("txt2img", "a lake", "-o", "out.png", "--model=demo", *SMALL)[0] == 0
    assert caplog.text.count("--model demo is the demo model") == 1


def test_the_demo_model_is_described_by_its_name(lcm):
    assert lcm("info", "demo")[1].startswith(f"{demo_dir()}: a model directory")


@pytest.mark.parametrize(
    "words", [("txt2img", "a lake", "-o", "out.png", "--model=NAME"), ("info", "NAME")]
)
def test_a_model_of_a_hub_is_answered_with_commands(lcm, words):
    name = "SimianLuo/LCM_Dreamshaper_v7"
    status, _, err = lcm(*[word.replace("NAME", name) for word in words])
    assert status == 1
    assert err.startswith(f"lcm: error: no model directory at {name}: ")
    assert f"git clone https://huggingface.co/{name}`" in err
    assert "`lcm build onnx LCM_Dreamshaper_v7 LCM_Dreamshaper_v7-onnx`" in err
    assert err.count("\n") == 1
