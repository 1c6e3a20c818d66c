"""Keys of a TOML file changed in place."""

import pytest

from lcmcore import BundleError
from lcmcore.util.configfile import read_table, set_in_tables


@pytest.fixture
def path(tmp_path):
    return tmp_path / "lcm.toml"


def test_a_new_file(path):
    set_in_tables(path, {"unet": {"runtime": 'a"b', "threads": 2, "graph_cache": False, "x": None}})
    assert path.read_text() == '[unet]\nruntime = "a\\"b"\nthreads = 2\ngraph_cache = false\n'


def test_other_lines_stay(path):
    path.write_text(
        "# top\nruntime = 'auto'  # for all\n\n[unet]  # slow\n"
        "precision = 'float32' # here\nthreads = 1\n"
        "\n[unet.build]\nprecision = 'kept'\n[vae_decoder]\nruntime = 'x'\n"
    )
    set_in_tables(path, {"unet": {"precision": "bfloat16"}, "vae_decoder": {"runtime": None}})
    assert path.read_text() == (
        "# top\nruntime = 'auto'  # for all\n\n[unet]  # slow\n"
        'precision = "bfloat16"\nthreads = 1\n'
        "\n[unet.build]\nprecision = 'kept'\n[vae_decoder]\n"
    )


def test_windows_line_ends_and_a_mark_of_byte_order(path):
    path.write_bytes(b"\xef\xbb\xbf# top\r\n[unet]\r\nthreads = 1\r\n")
    set_in_tables(path, {"unet": {"threads": 2}})
    assert read_table(path) == {"unet": {"threads": 2}}


@pytest.mark.parametrize(
    "text",
    [
        "unet = {threads = 1}\n",
        "unet.threads = 1\n",
        '[unet]\n"threads" = 1\n',
        "[ unet ]\nthreads = 1\n",
        "[unet]\nthreads = [\n  1,\n]\n",
        '[unet]\nwords = """\nthreads = 1\n"""\n',
    ],
)
def test_what_is_written_in_another_way_stays(text, path):
    path.write_text(text)
    with pytest.raises(BundleError, match=r"lcm.toml: cannot be changed: set unet.threads = 2 by"):
        set_in_tables(path, {"unet": {"threads": 2}})
    assert path.read_text() == text


def test_an_invalid_file_stays(path):
    path.write_text("[unet\n")
    with pytest.raises(BundleError, match="not valid TOML"):
        set_in_tables(path, {"unet": {"threads": 2}})
    assert path.read_text() == "[unet\n"
