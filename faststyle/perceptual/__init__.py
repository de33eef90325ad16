"""What content and style mean: VGG features, where their weights come from, and the objective made of them."""
