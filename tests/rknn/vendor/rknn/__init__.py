"""A stand-in for rknn-toolkit2's package, on a path of the tests that need one."""
