"""The contracts that daemon and workers share, and the dispatch of jobs over Celery."""
