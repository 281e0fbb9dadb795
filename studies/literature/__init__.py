"""The papers' published numbers, and what they allow one to conclude."""
