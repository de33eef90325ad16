"""Stylize videos: apply a function from a picture to a picture to every frame."""
