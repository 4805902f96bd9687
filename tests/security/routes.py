"""Every route of the REST face, by method and path."""

from fastapi.routing import APIRoute

from ftd.api.rest import chat, completions, files, jobs, models, node

ROUTES = sorted(
    (method, route.path)
    for room in (chat, completions, files, jobs, models, node)
    for route in room.router.routes
    if isinstance(route, APIRoute)
    for method in route.methods or ()
)
