"""Networks: building them, filling them with weights, and training them."""
