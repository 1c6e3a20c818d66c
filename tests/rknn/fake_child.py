"""A converter in the place of toolkit_child that ends as the name of its file says."""

import os
import sys
from multiprocessing.connection import Connection

with Connection(int(sys.argv[1])) as pipe:
    while True:
        try:
            verb, arguments = pipe.recv()
        except EOFError:
            break
        name = str(arguments[0])
        print("\033[31mE build: something is odd\033[0m\nI build: cleaning up", flush=True)
        if "crash" in name:
            os.kill(os.getpid(), 11)
        elif "killed" in name:
            os.kill(os.getpid(), 9)
        elif "quits" in name:
            sys.exit(3)
        elif "refuses" in name:
            pipe.send(("refused", "load_onnx returned -1"))
        elif "raises" in name:
            text = 'Traceback (most recent call last):\n  File "rknn/api.py", line 1, in f\n'
            pipe.send(("raised", text + "ValueError: no such operator\n"))
        else:
            pipe.send(("done", None))
