"""Deprecated: `metarl.video.scene` has the camera, markers and readings of a family's videos."""

from metarl.video.scene import Camera, Marker, Reading

__all__ = ["Camera", "Marker", "Reading"]
