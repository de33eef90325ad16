"""How good a network is beside the slow method, measured under one objective and by one judge."""
