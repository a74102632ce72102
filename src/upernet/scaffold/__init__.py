"""A first recipe for a folder of photos and masks: what is in the folder, and good settings to train on it."""
