"""The first page of a box: what a shopkeeper wants to know, in the shopkeeper's language."""
