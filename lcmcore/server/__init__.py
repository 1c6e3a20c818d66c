"""`lcm serve`; nothing is imported here: Starlette and uvicorn are of the extra `server`."""
