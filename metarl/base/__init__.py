"""What every other room uses, and nothing of robots or learning.

errors: the one-line errors of users.  keys: random draws by seed and index.  threads: cores.
files: whole, atomic files.  untrusted: reading files of others.  plugins, trust: code of others.
text, output: words for people, and a standard output that may close.  versions: what ran.
"""
