"""A typed client of the admin API: `Client`, and `AsyncClient` for asyncio. `requests.py` has every method's docs."""

from reheatd.client.asynchronous import AsyncClient
from reheatd.client.blocking import Client

__all__ = ["AsyncClient", "Client"]
