"""Entry point: ``python3 -m training_job <settings>.json``."""

import sys

from training_job.run import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
