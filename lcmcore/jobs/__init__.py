"""Jobs in, PNG bytes out; nothing is imported here, or `lcm img2img` would load multiprocessing."""
