"""Jobs in, PNG bytes out; nothing is imported here: `lcm img2img` need not load multiprocessing."""
