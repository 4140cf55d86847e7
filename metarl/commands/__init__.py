"""The subcommands of `metarl`, one a file: words in, an exit code out.

arguments, flags: parsing and its errors.  experiment: a script of tuned settings as a command.
tuning: `metarl tune`, which needs an extra.
"""
