"""What the routes work with: `create_app` makes one `Context` for each app."""
from __future__ import annotations

from typing import NamedTuple

import config
from manage.gateway.clients import Clients
from manage.gateway.inventories import Inventories
from manage.metrics import Metrics
from manage.parse.body import BodyReader
from manage.serving.connections import HeldRequests
from manage.store_health import StoreHealth
from taskstore import TaskStore


class Context(NamedTuple):
    """Everything a view needs besides its request."""

    settings: config.Settings
    store: TaskStore
    bodies: BodyReader
    held_requests: HeldRequests
    health: StoreHealth
    clients: Clients
    inventories: Inventories
    metrics: Metrics
