"""The subcommands of `metarl`, one a file: words in, an exit code out.

arguments, flags: parsing and its errors.  training: `metarl train` and its like.  viewing: those
that show an agent act.  hub: agents that others have, or are to have.  tuning: `metarl tune`, which
needs an extra.
"""
