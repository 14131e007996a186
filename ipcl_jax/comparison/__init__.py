"""The comparison of models with brain data: every layer, region, subject and measure, and the tables that come of it."""
