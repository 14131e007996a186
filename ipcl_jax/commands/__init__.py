"""What the commands share: options, recipes, exit codes, and opening models and images for them."""
