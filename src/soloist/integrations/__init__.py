"""Other tools from within: what they call, and what is given to them."""
