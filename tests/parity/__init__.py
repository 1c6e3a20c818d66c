"""Our numbers against those of torch, diffusers and transformers.

The goldens in `tests/goldens/data` were written by the scripts beside it; `make goldens` writes
them again (with the versions that `tests/goldens/requirements.txt` names). Nothing here
needs torch.
"""
