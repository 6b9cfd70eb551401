"""How good masks are: against a ground truth, or without one by agreement between views."""
