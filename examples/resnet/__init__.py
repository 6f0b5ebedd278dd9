"""Image models in Flax nnx: over-parameterized networks, with and without weight decay."""
