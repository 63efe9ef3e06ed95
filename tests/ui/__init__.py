"""The pages: through the HTTP client, and in Chromium what needs a browser."""
