"""A Django site that publishes orders and knows prices, and an agent that asks it for them; all of it is instrumented.

`python traced_site_app.py` serves the site on a free port, which it says.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any
from wsgiref.simple_server import make_server

import django
import httpx
from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, JsonResponse
from django.urls import path
from opentelemetry.instrumentation.django import DjangoInstrumentor
from opentelemetry.instrumentation.httpx import HTTPXClientInstrumentor

from pipeline import Context, Pipeline
from tests.spans import trace_into_file

trace_into_file(Path(os.environ["TRACES"]))
settings.configure(ROOT_URLCONF=__name__, ALLOWED_HOSTS=["127.0.0.1"], SECRET_KEY="none")
django.setup()
DjangoInstrumentor().instrument()
HTTPXClientInstrumentor().instrument()
bus = Pipeline("site")


@bus.agent(on="order.placed")
async def invoice(data: dict[str, Any], ctx: Context) -> None:
    async with httpx.AsyncClient(trust_env=False) as client:
        price = (await client.get(data["prices"])).json()["price"]
    ctx.publish("order.priced", {"price": price})


@bus.agent(on="order.priced")
def check(data: dict[str, Any]) -> None:
    pass


def orders(request: HttpRequest) -> JsonResponse:
    """Publish an order."""
    return JsonResponse({"id": bus.publish("order.placed", {"prices": request.build_absolute_uri("/prices")}).id})


def prices(request: HttpRequest) -> JsonResponse:
    """Say what it costs."""
    return JsonResponse({"price": 7})


urlpatterns = [path("orders", orders), path("prices", prices)]

if __name__ == "__main__":
    with make_server("127.0.0.1", 0, get_wsgi_application()) as server:
        sys.stdout.write(f"{server.server_port}\n")
        sys.stdout.flush()
        server.serve_forever()
