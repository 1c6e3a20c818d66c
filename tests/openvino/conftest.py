"""These tests need openvino, 60 MB: `make test-openvino` has an environment with it."""

from importlib.util import find_spec

collect_ignore_glob = [] if find_spec("openvino") else ["test_*.py"]
