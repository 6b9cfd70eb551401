"""Pure functions on tensors; this package imports torch, and scikit-image for connected parts.

Letters in shapes: B images, C channels, H W rows and columns, L FPN levels, S grid side,
N instances of one image, P positive cells, Q queries, D kernel channels, E embedding size,
K classes.
"""
