"""The slow path: Gatys et al. (2015), one image optimised by the objective that trains networks."""
