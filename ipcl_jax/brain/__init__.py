"""Brain data as they are downloaded, and their comparison with models: from pixels to a table of scores."""
