"""Images for a model that sees: opened safely, cut into patches, placed between the tokens; numpy and Pillow only."""
