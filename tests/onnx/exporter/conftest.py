"""The tests here need torch and diffusers: the environment that `make goldens` makes."""

from importlib.util import find_spec

collect_ignore_glob = ["test_*.py"] if find_spec("diffusers") is None else []
