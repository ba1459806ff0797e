"""`python -m edge_lfm`: the command `edge-lfm`, where its script is not on the path."""

import sys

from edge_lfm.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
