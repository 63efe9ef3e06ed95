"""The shapes of answers, by noun, for the OpenAPI document."""
