"""Where commands get explanations from: an engine in this process, or a server."""
