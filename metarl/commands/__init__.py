"""The subcommands of `metarl`, one a file: words in, an exit code out.

arguments, flags: parsing and its errors.  training: `metarl train`.  tuning: `metarl tune`, which
needs an extra.
"""
