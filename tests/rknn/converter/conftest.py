"""The tests here need rknn-toolkit2: `make test-rknn`."""

from importlib.util import find_spec

collect_ignore_glob = ["test_*.py"] if find_spec("rknn") is None else []
