"""The subcommands of `metarl`, a file for those of a kind. `metarl.cli` says which is where."""
