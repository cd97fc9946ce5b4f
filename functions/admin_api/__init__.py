"""The API people and the browser pages use."""
