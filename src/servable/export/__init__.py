"""Making SavedModels, and publishing them."""
