"""From an evaluation that is watched to a video file.

recording: keeps the states.  scene: cameras and markers.  film: what each frame shows.
renderer, opengl: one world's picture.  overlay: words and curves.  encode: mp4 or GIF.
gymnasium: third-party environments.  callback: videos while a run trains.
"""
