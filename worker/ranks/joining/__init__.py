"""How ranks find each other, and what must be the same on all of them."""
