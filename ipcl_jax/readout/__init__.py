"""Read-outs: measures of what a frozen model's embedding represents."""
