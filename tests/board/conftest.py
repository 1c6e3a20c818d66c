"""The tests here run inside of the emulated board only: `make test-board`."""

from tests.board.machine import HERE

collect_ignore_glob = [] if HERE else ["test_*.py"]
