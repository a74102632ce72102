"""Foundations of the kernels: threads, SIMD vectors, memory, packed matrix products, bilinear interpolation."""
