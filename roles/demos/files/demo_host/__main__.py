"""Entry point: ``python -m demo_host /etc/glmbox/demos.json``."""

import sys

from demo_host.host import main

if __name__ == "__main__":
    main(sys.argv[1:])
