"""What a job may hold: values are kept as they are, and what no call could take is refused."""

import pickle
from types import SimpleNamespace

import numpy as np
import pytest

import lcmcore
from lcmcore.jobs.job import Job, Request

FULL = Request(
    *("a lake", "64x32", 3, 2.5, 11, 0.6, "rain", "rescale", "sample", "cover"),
    *(9, False, 1.5, True, "1,2,3,4"),
)  # in the order of the fields


def deep(depth=600):
    value = []
    for _ in range(depth):
        value = [value]
    return value


def test_keywords_of_a_call():
    assert FULL.keywords() == {
        "strength": 0.6,
        "num_inference_steps": 3,
        "guidance_scale": 2.5,
        "seed": 11,
        "width": 64,
        "height": 32,
        "negative_prompt": "rain",
        "strength_mode": "rescale",
        "latent_sampling": "sample",
        "fit": "cover",
        "padding_mask_crop": 9,
        "overlay": False,
    }
    assert Request("a lake").keywords() == {}
    assert Request("a lake", seed=0, denoise_strength=0.0).keywords() == {"seed": 0, "strength": 0}
    with pytest.raises(lcmcore.ArgumentError, match="WIDTHxHEIGHT"):
        Request("a lake", "large").keywords()


def test_any_object_is_copied():
    names = vars(FULL)
    files = {"init_image": bytearray(b"x"), "mask": bytearray(b"m")}
    copy = Job.read(SimpleNamespace(req=SimpleNamespace(**names), **files))
    assert copy == Job(FULL, b"x", {}, b"m")
    assert type(copy.init_image) is bytes
    record = {"ticket": "12"}
    copy = Job.read(Job(FULL, memoryview(b"xyz")[1:], record))
    assert copy == Job(FULL, b"yz", {"ticket": "12"})
    assert copy.record is not record
    assert Job.read(SimpleNamespace(req=SimpleNamespace(prompt="x"))) == Job(Request("x"), None, {})


@pytest.mark.parametrize(
    "value", [deep(), deep(100_000), {"a": 1}, (64, 64), {1}, b"64x64", np.zeros(3), iter([1])]
)
@pytest.mark.parametrize("name", [name for name in vars(FULL) if name not in ("prompt", "size")])
def test_lists_and_objects(name, value):
    request = Request(**{**vars(FULL), name: value})
    message = f"^{name} must be a single value, not {type(value).__name__}$"
    with pytest.raises(lcmcore.ArgumentError, match=message):
        Job.read(Job(request))
    with pytest.raises(lcmcore.ArgumentError, match=message):
        request.check()


def test_size_and_prompt_say_what_they_are():
    with pytest.raises(
        lcmcore.ArgumentError, match=r"^size must be WIDTHxHEIGHT, like 512x384, not"
    ):
        Job.read(Job(Request("a lake", deep())))
    with pytest.raises(lcmcore.ArgumentError, match=r"^prompt must be text, not list$"):
        Job.read(Job(Request(deep())))


@pytest.mark.parametrize("name", ["prompt", "negative_prompt", "size", "fit", "strength_mode"])
def test_half_characters(name):
    request = Request(**{**vars(FULL), name: "ab\ud83d"})
    with pytest.raises(lcmcore.ArgumentError, match=f"^{name} holds a lone surrogate at 2$"):
        Job.read(Job(request))


@pytest.mark.parametrize(
    "value", [None, 7, -(10**400), 1e308, float("nan"), float("inf"), True, "\0", "\x85\u2028 😀"]
)
def test_single_values_are_left_to_the_pipeline(value):
    request = Request("\0 a lake", fit=value, seed=value)
    assert pickle.loads(pickle.dumps(Job.read(Job(request)))).req.fit is not Ellipsis
    assert repr(Job.read(Job(request)).req) == repr(request)  # NaN equals nothing


def test_what_is_no_job():
    with pytest.raises(
        lcmcore.ArgumentError, match=r"^a job has a `req` with at least a prompt; dict has none$"
    ):
        Job.read({"prompt": "a lake"})
    with pytest.raises(lcmcore.ArgumentError, match=r"^prompt must be text, not NoneType$"):
        Job.read(SimpleNamespace(req=SimpleNamespace()))
    with pytest.raises(
        lcmcore.ArgumentError, match=r"^init_image must be an image file's bytes, not str$"
    ):
        Job.read(Job(FULL, "photo.png"))


@pytest.mark.parametrize("record", [{"k" * 79: "", " ": "é\n"}, {}, None])
def test_good_records(record):
    assert Job.read(Job(FULL, None, record)).record == (record or {})


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ([("k", "x")], "^record must map words to text, not be list$"),
        ({"k" * 80: "x"}, "^record must map words to text, not 'kkk.*k' to str$"),
        ({"": "x"}, "^record must map words to text, not '' to str$"),
        ({"a\nb": "x"}, r"^record must map words to text, not 'a\\nb' to str$"),
        ({"é": "x"}, "^record must map words to text, not 'é' to str$"),
        ({7: "x"}, "^record must map words to text, not 7 to str$"),
        ({"k": 7}, "^record must map words to text, not 'k' to int$"),
        ({"good": "x", "k": None}, "^record must map words to text, not 'k' to NoneType$"),
    ],
)
def test_bad_records(record, words):
    with pytest.raises(lcmcore.ArgumentError, match=words):
        Job.read(Job(FULL, None, record))
