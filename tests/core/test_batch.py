"""The items of a call: counts that match or not, and the seed of each image."""

import numpy as np
import pytest
from PIL import Image

from lcmcore import ArgumentError
from lcmcore.batch import Batch, repeat_to

RED, BLUE = (Image.new("RGB", size, color) for size, color in (((8, 9), "red"), ((7, 6), "blue")))


def batch(prompt="a", negative=None, image=None, embeds=None, seed=5, repeats=1):
    return Batch.of_call(prompt, negative, image, embeds, seed, repeats)


def test_one_of_each():
    made = batch(negative="blurred", image=RED)
    assert made[:4] == (1, 1, ["a"], ["blurred"])
    assert made.seeds == [5]
    assert made.image_size == (8, 9)
    assert batch().image_size is None


@pytest.mark.parametrize(
    "lists",
    [
        {"prompt": ["a", "b"]},
        {"negative": ["a", "b"]},
        {"image": [RED, BLUE]},
        {"prompt": ["a", "b"], "negative": ["c", "d"], "image": [RED, BLUE]},
        {"prompt": None, "embeds": np.zeros((2, 77, 16))},
    ],
)
def test_the_longest_list_says_how_many_items(lists):
    made = batch(**lists, repeats=3)
    assert (made.items, made.repeats) == (2, 3)
    assert made.seeds == [5, 6, 7, 8, 9, 10]


@pytest.mark.parametrize(
    ("lists", "words"),
    [
        ({"prompt": ["a"] * 3, "image": [RED, BLUE]}, "2 images do not match a batch of 3"),
        ({"prompt": ["a"] * 2, "negative": ["b"] * 3}, "2 prompts do not match a batch of 3"),
        ({"negative": ["b"] * 2, "image": [RED] * 3}, "2 negative prompts do not match a batch"),
    ],
)
def test_lists_that_do_not_match(lists, words):
    with pytest.raises(ArgumentError, match=words):
        batch(**lists)


def test_either_a_prompt_or_its_embedding():
    for prompt, embeds in ((None, None), ("a", np.zeros((1, 77, 16)))):
        with pytest.raises(ArgumentError, match="either a prompt or prompt_embeds"):
            batch(prompt, embeds=embeds)


@pytest.mark.parametrize(("prompts", "repeats"), [(1, 1024), (2, 512)])
def test_1024_images_are_the_most(prompts, repeats):
    assert len(batch(["a"] * prompts, repeats=repeats).seeds) == 1024
    with pytest.raises(ArgumentError, match="must be from 1 to 1024"):
        batch(["a"] * prompts, repeats=repeats + 1)
    with pytest.raises(ArgumentError, match="num_images_per_prompt must be from 1 to 1024, not 0"):
        batch(repeats=0)


def test_a_seed_for_each_image():
    assert batch(seed=[7, 3], repeats=2).seeds == [7, 3]
    with pytest.raises(ArgumentError, match="1 seeds do not match 2 images"):
        batch(seed=(7,), repeats=2)


def test_without_a_seed_it_is_drawn_from_four_bytes(monkeypatch):
    monkeypatch.setattr("os.urandom", lambda count: bytes(range(1, count + 1)))
    assert batch(seed=None, repeats=2).seeds == [0x01020304, 0x01020305]


def test_each_image_has_a_generator_of_its_seed():
    first, second = batch(seed=[7, 8], repeats=2).generators()
    alone = batch(seed=8).generators()[0]
    drawn = second.randn((1, 16))
    assert (drawn == alone.randn((1, 16))).all()
    assert (drawn != first.randn((1, 16))).any()


def test_rows_are_repeated_one_after_the_other():
    rows = np.array([[1], [2]])
    assert repeat_to(rows, 2) is rows
    assert repeat_to(rows, 6)[:, 0].tolist() == [1, 1, 1, 2, 2, 2]
    for count, some in ((3, rows), (2, rows[:0])):
        with pytest.raises(ArgumentError, match=f"{len(some)} rows do not match {count} images"):
            repeat_to(some, count)
