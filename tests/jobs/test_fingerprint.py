"""By what an image is recognized as done: the model's files, and the request."""

import hashlib
import os

import pytest

import lcmcore
from lcmcore import model_digest as digests
from lcmcore.jobs.fingerprint import fingerprint, is_done
from lcmcore.jobs.job import Job, Request
from lcmcore.jobs.worker import PipelineWorker
from lcmcore.model_digest import model_identity


def identity(model):
    return model_identity(model, None, None)


def test_identity_is_the_digest_of_names_and_digests(tmp_path):
    """In this order: images that were made before stay done."""
    files = {
        "lcm.toml": b"",
        "text_encoder/a.onnx": b"one",
        "unet/b.onnx": b"two",
        "unet/cc": b"",
        **{f"unet/{name}/weights": name.encode() for name in "ABCDEFGHIabcdefghi"},
        "unet/i/z": b"four",
        "vae_decoder/.hidden": b"five",
        "scheduler/scheduler_config.json": b"{}",
        "tokenizer/vocab.json": b"six",
    }
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_bytes(content)
    (tmp_path / "README.md").write_text("not needed")
    (tmp_path / "scheduler" / "deep").mkdir()
    (tmp_path / "scheduler" / "deep" / "file").write_text("not needed")
    lines = [f"{name}\0{hashlib.sha256(content).hexdigest()}\n" for name, content in files.items()]
    assert identity(tmp_path) == hashlib.sha256("".join(lines).encode()).hexdigest()


def test_identity_of_a_model(configs):
    identity = model_identity(configs, None, None)
    assert model_identity(configs, None, None) == identity
    config = configs / "other.toml"
    config.write_text("")
    assert model_identity(configs, config, None) != identity
    assert model_identity(configs, None, configs / "tokenizer") == identity
    assert model_identity(configs, None, configs / "unet") != identity
    weights = configs / "unet" / "model.onnx"
    weights.write_bytes(b"weights")
    changed = model_identity(configs, None, None)
    weights.write_bytes(b"weighty")
    assert len({identity, changed, model_identity(configs, None, None)}) == 3


def test_config_takes_the_place_of_lcm_toml(configs, tmp_path):
    before = identity(configs)
    other = tmp_path / "elsewhere.toml"
    other.write_bytes((configs / "lcm.toml").read_bytes())
    assert model_identity(configs, other, None) == before
    other.write_text("num_inference_steps = 7\n")
    with_other = model_identity(configs, other, None)
    assert with_other != before
    (configs / "lcm.toml").write_text("num_inference_steps = 9\n")
    assert model_identity(configs, other, None) == with_other
    (configs / "lcm.toml").unlink()
    assert model_identity(configs, other, None) == with_other
    assert identity(configs) not in {before, with_other}


def test_the_demo_bundle_is_the_default():
    assert identity(None) == identity(lcmcore.demo_dir())


@pytest.mark.parametrize("component", ["text_encoder", "unet", "vae_encoder", "vae_decoder"])
def test_weights_in_a_subfolder(configs, component):
    weights = configs / component / "data" / "deep" / "weights.bin"
    weights.parent.mkdir(parents=True)
    seen = {identity(configs)}
    for content in (b"", b"weights", b"weighty"):
        weights.write_bytes(content)
        seen.add(identity(configs))
    weights.rename(weights.with_name("other.bin"))
    assert len({*seen, identity(configs)}) == 5


def test_links_are_followed(configs, tmp_path):
    """As in the cache of Hugging Face, whose snapshots are links to blobs."""
    blobs = tmp_path / "blobs"
    blobs.mkdir()
    (blobs / "1f").write_bytes(b"weights")
    (configs / "unet" / "model.onnx").symlink_to("../../blobs/1f")
    (configs / "unet" / "data").symlink_to(blobs)
    linked = identity(configs)
    (blobs / "1f").write_bytes(b"weighty")
    assert identity(configs) != linked
    (blobs / "1f").write_bytes(b"weights")
    for name in ("model.onnx", "data"):
        (configs / "unet" / name).unlink()
    (configs / "unet" / "model.onnx").write_bytes(b"weights")
    (configs / "unet" / "data").mkdir()
    (configs / "unet" / "data" / "1f").write_bytes(b"weights")
    assert identity(configs) == linked


@pytest.mark.parametrize("target", [".", "..", "loop", "nowhere", "/dev/zero", "/proc/kmsg"])
def test_links_that_lead_astray(configs, target):
    """A loop ends, a device is not read, and a file of /proc is as empty as it says."""
    (configs / "unet" / "loop").symlink_to(target)
    assert identity(configs) == identity(configs)


def test_many_loops_do_not_take_long(configs):
    """Followed to where the system stops, at 40 links, they would be 10^24 folders."""
    for name in "abcd":
        (configs / "unet" / name).symlink_to(".")
    assert identity(configs) == identity(configs)


def test_pipes_are_not_waited_for(configs):
    before = identity(configs)
    os.mkfifo(configs / "unet" / "pipe")
    os.mkfifo(configs / "scheduler" / "pipe")
    assert identity(configs) == before


def test_more_than_a_model_can_have(configs, monkeypatch):
    folder = configs / "unet"
    count = sum(path.is_file() for path in folder.iterdir())
    size = sum(path.stat().st_size for path in folder.iterdir())
    monkeypatch.setattr(digests, "_MAX_FILES", count)
    monkeypatch.setattr(digests, "_MAX_BYTES", size)
    identity(configs)
    (folder / "one").touch()
    with pytest.raises(lcmcore.BundleError) as raised:
        identity(configs)
    message = f"{folder}: more than {count} files or 0 GiB (a link that leads elsewhere?)"
    assert str(raised.value) == message
    monkeypatch.setattr(digests, "_MAX_FILES", count + 1)
    identity(configs)
    (folder / "one").write_bytes(b"1")
    with pytest.raises(lcmcore.BundleError, match="more than"):
        identity(configs)


@pytest.mark.parametrize("kind", [os.mkfifo, os.mkdir])
def test_config_that_is_no_file(configs, tmp_path, kind):
    kind(tmp_path / "config")
    with pytest.raises(lcmcore.BundleError, match=rf"^{configs}: cannot be read: (not a|Is a)"):
        model_identity(configs, tmp_path / "config", None)


def test_missing_config(configs):
    with pytest.raises(lcmcore.BundleError, match="cannot be read: No such file"):
        model_identity(configs, "none.toml", None)


def test_missing_model(tmp_path):
    with pytest.raises(lcmcore.BundleError, match=r"^no model directory at /nowhere$"):
        identity("/nowhere")


def test_folder_that_fails_to_be_read(configs, monkeypatch):
    """As one without permission, also for root."""

    def fail(path):
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(os, "scandir", fail)
    with pytest.raises(lcmcore.BundleError, match="cannot be read: Permission denied"):
        identity(configs)


def test_fingerprint_is_the_digest_of_json():
    """Written out by hand: images that were made before stay done."""
    digest = hashlib.sha256(b"photo").hexdigest()
    text = (
        '{"denoise_strength":0.5,"fit":null,"guidance_scale":2.5,"init":"DIGEST",'
        '"latent_sampling":null,"model":{"files":"x"},"negative_prompt":null,'
        '"num_inference_steps":4,"prompt":"a l\\u00e4ke","seed":7,"size":"64x64",'
        '"strength_mode":null}'
    ).replace("DIGEST", digest)
    request = Request("a läke", "64x64", 4, 2.5, 7, 0.5)
    expected = hashlib.sha256(text.encode()).hexdigest()
    assert fingerprint(request, b"photo", {"files": "x"}) == expected
    without = text.replace(f'"{digest}"', "null")
    expected = hashlib.sha256(without.encode()).hexdigest()
    assert fingerprint(request, None, {"files": "x"}) == expected


def test_masks_and_how_they_are_prepared_are_in_the_fingerprint():
    changes = {
        **{"padding_mask_crop": 0, "overlay": False, "mask_blur": 0.0},
        **{"invert_mask": False, "expand": "1,0,0,0"},
    }
    requests = [Request("a lake"), *(Request("a lake", **{k: v}) for k, v in changes.items())]
    marks = [fingerprint(each, b"photo", {}, mask) for each in requests for mask in (None, b"m")]
    marks.append(fingerprint(Request("a lake"), b"photo", {}, b"n"))
    assert len({*marks}) == len(marks) == 13


@pytest.fixture(scope="module")
def png():
    with PipelineWorker(0, threads=1) as worker:
        return worker.run_job(Job(Request("a lake", "64x64", 1, seed=1), None, {"request": "x"}))[0]


def test_is_done(tmp_path, png):
    path = tmp_path / "image.png"
    assert is_done(path, "x") is False
    path.write_bytes(b"")
    assert is_done(path, "x") is False
    path.write_bytes(png)
    assert is_done(path, "x") is True
    assert is_done(path, "y") is False
    for cut in (1, 20, len(png) // 2):
        path.write_bytes(png[:-cut])
        assert is_done(path, "x") is False


@pytest.mark.parametrize("content", [b"x", b"\x89PNG\r\n\x1a\n", b"\x89PNG\r\n\x1a\nIHDR"])
def test_file_of_another_program(tmp_path, content):
    path = tmp_path / "image.png"
    path.write_bytes(content)
    message = f"^{path} already exists and was not written by lcmcore: move it away$"
    with pytest.raises(lcmcore.OutputError, match=message):
        is_done(path, "x")


@pytest.mark.parametrize("kind", [os.mkfifo, os.mkdir])
def test_what_is_no_file_is_not_replaced(tmp_path, kind):
    path = tmp_path / "image.png"
    kind(path)
    with pytest.raises(lcmcore.OutputError, match="move it away"):
        is_done(path, "x")


def test_is_done_of_a_missing_file(tmp_path):
    assert not is_done(tmp_path / "none.png", "x")
