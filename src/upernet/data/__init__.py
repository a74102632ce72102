"""Data: decoding, samples, sources, augmentation, and which photo is drawn when."""
