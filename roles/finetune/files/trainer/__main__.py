"""Entry point: ``python3 -m trainer <settings>.json``."""

import sys

from trainer.run import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
