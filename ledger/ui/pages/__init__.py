"""One module for each page or group of pages: it calls services, and fills a template."""
