"""Sets of brain data as they are downloaded: subjects, the images they saw, regions, and responses."""
