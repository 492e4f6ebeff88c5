"""The vision tower: its config, its export-friendly form, and where its weights come from."""
