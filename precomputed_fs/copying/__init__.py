"""How a pyramid is copied from one place to another."""
