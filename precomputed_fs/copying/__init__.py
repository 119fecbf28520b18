"""How a pyramid gets from one place to another."""
