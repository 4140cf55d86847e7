"""Adaptation videos, from the worlds to the file.

recording: `evaluate`, watched.   film: what each frame shows.   renderer: one world's picture.
overlay: words and curves.        encode: frames to mp4 or GIF.  opengl: a context of its own.
"""
