"""Export a checkpoint as `optimum-cli export onnx` does.

python -m benchmarks.peers.export CHECKPOINT BUNDLE
"""

import sys

from optimum.exporters.onnx import main_export

if __name__ == "__main__":
    main_export(sys.argv[1], output=sys.argv[2], task="text-to-image", do_validation=False)
