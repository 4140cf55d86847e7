"""The commands that show an agent act.

render: a video, or an adaptation played in MuJoCo's viewer.  play: the viewer, with sliders.
"""
