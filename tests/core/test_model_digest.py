"""The short digest of a model, by samples; tests/jobs/test_fingerprint.py has the whole one."""

import random

import pytest

import lcmcore
from lcmcore.model_digest import model_digest

SIZE = 10_000_000


def digest(model, config=None, tokenizer=None):
    return model_digest(model, config, tokenizer)


@pytest.fixture
def weights(configs):
    path = configs / "unet" / "weights.bin"
    path.write_bytes(bytes(SIZE))
    return path


def test_it_is_sixteen_digits_and_that_of_the_demo_model_by_default():
    found = digest(None)
    assert found == digest(lcmcore.demo_dir())
    assert len(found) == 16
    assert int(found, 16) > 0


def test_it_does_not_depend_on_where_the_model_is(configs, tmp_path):
    before = digest(configs)
    assert digest(configs.rename(tmp_path / "elsewhere")) == before


@pytest.mark.parametrize(
    "name",
    ["lcm.toml", "unet/config.json", "tokenizer/vocab.json", "scheduler/scheduler_config.json"],
)
def test_every_byte_of_a_small_file_counts(name, configs):
    before = digest(configs)
    content = bytearray((configs / name).read_bytes())
    content[-1] ^= 1
    (configs / name).write_bytes(content)
    assert digest(configs) != before


@pytest.mark.parametrize("place", [0, SIZE - 1])
def test_both_ends_of_a_large_file_count(place, weights):
    before = digest(weights.parents[1])
    with weights.open("r+b") as file:
        file.seek(place)
        file.write(b"x")
    assert digest(weights.parents[1]) != before


def test_a_tenth_of_the_weights_changed_is_another_model(weights):
    """As by a LoRA of some layers; wherever that tenth is."""
    before = digest(weights.parents[1])
    for index in range(20):
        place = random.Random(index).randrange(SIZE - SIZE // 10)
        weights.write_bytes(bytes(place) + b"x" * (SIZE // 10) + bytes(SIZE - SIZE // 10 - place))
        assert digest(weights.parents[1]) != before


def test_size_counts(weights):
    before = digest(weights.parents[1])
    weights.write_bytes(bytes(SIZE + 1))
    assert digest(weights.parents[1]) != before


def test_config_and_tokenizer_in_place_of_the_models(configs, tmp_path):
    before = digest(configs)
    own = tmp_path / "own.toml"
    own.write_text("size_multiple = 64")
    assert len({before, digest(configs, own), digest(configs, None, configs / "unet")}) == 3
