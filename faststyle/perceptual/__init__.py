"""The objective of training and of the slow path, and the features of VGG that it is made of."""
