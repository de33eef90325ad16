"""Videos: any function from a picture to a picture, applied to each frame."""
