"""How a network is trained: photos, recipes, the loop, and the state that it can be resumed from."""
