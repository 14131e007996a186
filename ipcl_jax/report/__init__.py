"""Reports as HTML pages, and figures."""
