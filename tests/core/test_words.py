"""The words that a bundle lists in its lcm.toml: those of a prompt that it lacks are reported."""

import logging
import re
import subprocess
import sys
from pathlib import Path

import pytest

import lcmcore
from lcmcore.bundle import Bundle

RECIPE = Path(__file__).parents[2] / "assets" / "recipe"
DRAGON = "A dragon over New York's lake, octane render -- 8k!"
CAPTIONS = """
import captions, numpy, scene, vocabulary
rng = numpy.random.default_rng(0)
texts = [captions.caption(scene.sample(seed), rng) for seed in range(5000)]
print(*sorted(filter(str.isalpha, vocabulary.count_words(texts))))
"""


@pytest.fixture
def warnings(caplog):
    """The warnings of a call, and none of the calls before it."""

    def of(call):
        caplog.clear()
        call()
        return [each.getMessage() for each in caplog.records if each.levelno == logging.WARNING]

    return of


@pytest.fixture
def listing(configs):
    """Sets the list of the bundle's lcm.toml."""

    def write(words):
        (configs / "lcm.toml").write_text(f"words = {words}\n")
        return configs

    return write


@pytest.mark.host  # where the recipe is
def test_the_demo_bundle_lists_the_words_of_its_captions():
    """By the program that wrote them for its training, of which 5,000 are enough."""
    run = [sys.executable, "-c", CAPTIONS]
    printed = subprocess.run(run, cwd=RECIPE, capture_output=True, text=True, check=True).stdout
    assert sorted(Bundle.open(lcmcore.demo_dir()).words) == printed.split()
    card = (RECIPE.parent / "demo" / "README.md").read_text()
    (listed,) = re.findall(r"\*\*Words\*\*: (.*?), and the comma", card, re.S)
    assert listed.split() == printed.split()


def test_unknown_words_are_named_in_one_line(fake, warnings):
    pipe = fake()
    assert warnings(lambda: pipe(DRAGON, seed=1, width=64, height=64)) == [
        "the model does not know these words, and draws anything for them: dragon, over, new, york,"
        " octane, render, 8k (lcm info lists the 66 that it knows)"
    ]


def test_once_for_a_prompt(fake, warnings):
    """As long as the pipeline keeps what the text encoder returned for it."""
    pipe = fake()
    size = {"width": 64, "height": 64}
    assert len(warnings(lambda: pipe(["a dragon", "a castle"], seed=1, **size))) == 1
    assert warnings(lambda: pipe(["a dragon", "a castle"], seed=2, **size)) == []


def test_known_words_are_not_reported(fake, warnings):
    prompt = "A snowy LANDSCAPE, with mountains: a lake's house. At night!"
    assert warnings(lambda: fake()(prompt, seed=1, width=64, height=64)) == []


@pytest.mark.parametrize("text", ["", "words = []"])
def test_a_bundle_without_a_list_reports_none(text, fake, configs, warnings):
    (configs / "lcm.toml").write_text(text)
    assert warnings(lambda: fake(configs)(DRAGON, seed=1, width=64, height=64)) == []


def test_words_of_a_list_are_compared_as_the_tokenizer_writes_them(listing):
    assert Bundle.open(listing('["New York", "E\\u0301tude"]')).words == {"new", "york", "étude"}


def test_many_and_long_words(fake, listing, warnings):
    pipe = fake(listing('["lake"]'))
    prompt = " ".join(f"x{number}{'y' * 100}" for number in range(20))
    truncated, line = warnings(lambda: pipe(prompt, seed=1, width=64, height=64))
    assert f"x0{'y' * 38}, x1{'y' * 38}, " in line
    assert f"x11{'y' * 37} and 8 more (" in line
    assert "too long" in truncated


@pytest.mark.parametrize("words", ['"lake"', "[1]", '{lake = "x"}', "4"])
def test_a_list_that_is_none(words, listing):
    with pytest.raises(lcmcore.BundleError, match="words must be a list of texts, not "):
        Bundle.open(listing(words))
