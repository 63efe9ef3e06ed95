"""The use cases, one module for each noun, for HTTP, the command line and the background alike. Knows no HTTP."""
