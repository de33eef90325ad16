"""How good a network is beside the slow path, measured by one objective and by one judge."""
