"""Who may come in: API keys, the credentials of jobs, limits, and the certificate of the server."""
