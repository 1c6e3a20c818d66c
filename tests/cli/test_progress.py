"""What a terminal and a log show while an image is made."""

import io

import pytest

from lcmcore.cli import progress as module
from lcmcore.cli.progress import Progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    """Seconds, to be set."""
    now = [0.0]
    monkeypatch.setattr(module.time, "perf_counter", lambda: now[0])
    return now


@pytest.fixture
def terminal(clock):
    stream = Terminal()
    with Progress(stream=stream) as progress:
        progress.stream = stream
        yield progress


def shown(progress):
    """The line that the terminal shows."""
    return progress.stream.getvalue().split("\r")[-1].removesuffix("\x1b[K")


def test_time_left_of_the_steps_is_counted_from_the_first(terminal, clock):
    """The seconds before it, for opening and encoding, are not the steps'."""
    terminal.begin(1, 1)
    clock[0] = 100.0
    terminal.turn("running", "unet")
    assert shown(terminal) == "running the first step (100.0 s)"
    clock[0] = 103.0
    terminal.step(1, 4)
    assert shown(terminal) == "[######------------------] 1/4 steps, 103.0 s, 9 s left"
    terminal.turn("running", "unet")
    clock[0] = 105.0
    terminal.step(2, 4)
    assert shown(terminal) == "[############------------] 2/4 steps, 105.0 s, 5 s left"
    clock[0] = 109.0
    terminal.step(4, 4)
    assert shown(terminal) == "[########################] 4/4 steps, 109.0 s"


def test_while_the_unet_runs_the_bar_stands(terminal):
    """Also where a preview was decoded since the last step."""
    terminal.begin(1, 1)
    terminal.turn("opening", "unet")
    terminal.turn("running", "unet")
    terminal.step(1, 4)
    bar = shown(terminal)
    terminal.turn("running", "vae_decoder")
    terminal.turn("opening", "unet")
    assert shown(terminal) == "opening unet (0.0 s)"
    terminal.turn("running", "unet")
    assert shown(terminal) == bar
    terminal.turn("running", "vae_decoder")
    assert shown(terminal) == "decoding (0.0 s)"


def test_time_left_of_several_images(terminal, clock):
    terminal.begin(1, 3)
    terminal.turn("opening", "unet")
    assert shown(terminal) == "image 1 of 3: opening unet (0.0 s)"
    clock[0] = 10.0
    terminal.begin(2, 3)
    terminal.turn("running", "text_encoder")
    assert shown(terminal) == "image 2 of 3, 20 s left: encoding the prompt (10.0 s)"
    clock[0] = 16.0
    terminal.begin(3, 3)
    terminal.turn("running", "unet")
    assert shown(terminal) == "image 3 of 3, 8 s left: running the first step (16.0 s)"
    terminal.step(1, 2)
    assert shown(terminal) == "image 3 of 3, 8 s left: [############------------] 1/2 steps, 16.0 s"


def test_a_line_takes_the_place_of_what_is_shown(terminal):
    terminal.turn("opening", "unet")
    terminal.say("wrote a.png")
    assert terminal.stream.getvalue().endswith("\r\x1b[Kwrote a.png\n")


def test_the_end_leaves_a_clear_line(clock):
    stream = Terminal()
    with pytest.raises(ZeroDivisionError), Progress(stream=stream) as progress:
        progress.show("opening the model")
        raise ZeroDivisionError
    assert stream.getvalue().endswith("\r\x1b[K")


def test_a_log_gets_steps_alone(clock):
    stream = io.StringIO()
    with Progress(stream=stream) as progress:
        progress.show("opening the model")
        progress.begin(1, 2)
        progress.turn("running", "unet")
        progress.step(1, 2)
    assert stream.getvalue() == "step 1/2, 0.0 s\n"


def test_quiet_shows_nothing(clock):
    stream = Terminal()
    with Progress(quiet=True, stream=stream) as progress:
        progress.show("opening the model")
        progress.turn("running", "unet")
        progress.step(1, 2)
        progress.say("wrote a.png")
    assert stream.getvalue() == ""
