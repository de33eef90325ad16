"""How a trained network is used: on one picture, and on many."""
