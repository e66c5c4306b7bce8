"""The echo service: answers with what it was asked, and by whom it was answered."""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from service import run
from web import Response


async def answer(service, request):
    """Any request at all."""
    said = {"method": request.method, "path": request.target, "headers": request.headers}
    return Response.json({**service.identity.fields(), **said, "body": request.body.decode("latin-1")})


if __name__ == "__main__":
    run(answer)
