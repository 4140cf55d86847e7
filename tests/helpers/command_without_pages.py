"""The `metarl` command for torchrun, without the page and the figures of a run.

They are most of the time of a small run, and what draws them takes each rank a second to import.
"""

import sys

import metarl.run
from metarl.cli import main

metarl.run._default_callbacks = lambda train: []

if __name__ == "__main__":
    sys.exit(main())
