"""Measures of how well a layer predicts brain responses: those of published studies, and plain ones."""
