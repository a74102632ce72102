"""Data: decoding, samples, sources, augmentation and sampling."""
