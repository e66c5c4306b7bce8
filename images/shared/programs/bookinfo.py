"""Bookinfo: the services of a small book shop, in one program.  SERVICE says which one this is.

productpage  /productpage (HTML, or JSON when asked for it)    calls details and reviews
details      /details/N
reviews      /reviews/N       v1 without stars, v2 black, v3 red; v2 and v3 call ratings
ratings      /ratings/N
login        /login           a form; POST sets the session cookie
logout       /logout          clears it
"""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import asyncio

from service import run
from web import Response

BOOK = {
    "title": "The Comedy of Errors",
    "author": "William Shakespeare",
    "year": 1595,
    "type": "paperback",
    "pages": 200,
    "publisher": "PublisherA",
    "language": "English",
    "isbn": "1234567890",
}
SUMMARY = (
    "Two pairs of twins, parted by a shipwreck, meet in Ephesus, where each is taken for the other. "
    "The shortest of Shakespeare's plays, and a fine picture of two versions of one service."
)
REVIEWS = (
    ("Reviewer1", "An extremely entertaining play. The slapstick humour is refreshing!"),
    ("Reviewer2", "Absolutely fun and entertaining. It lacks the depth of the later plays, though."),
)
STAR_COLORS = {"v2": "black", "v3": "red"}


def not_found(service, request):
    """For every path that the service doesn't have."""
    return Response.json({**service.identity.fields(), "error": f"{request.path}: not found"}, 404)


async def productpage(service, request):
    """The page that people look at."""
    if request.path == "/":
        return Response(302, headers=[("location", "/productpage")])
    if request.path not in ("/productpage", "/api/v1/products/0"):
        return not_found(service, request)
    details, reviews = await asyncio.gather(
        service.call("details", "/details/0", request), service.call("reviews", "/reviews/0", request)
    )
    user = request.cookie("session")
    page = {**service.identity.fields(), "book": BOOK["title"], "summary": SUMMARY, "user": user}
    page |= {"details": details, "reviews": reviews}
    accept = request.headers.get("accept", "")
    if "application/json" in accept or request.path != "/productpage":
        return Response.json(page)
    from bookinfo_page import product_page

    return Response(200, product_page(page), "text/html; charset=utf-8")


async def details(service, request):
    """What is printed in the book."""
    if not request.path.startswith("/details/"):
        return not_found(service, request)
    return Response.json({**service.identity.fields(), "id": request.path.rsplit("/", 1)[1], **BOOK})


async def reviews(service, request):
    """What readers say, with stars when the version knows of ratings."""
    if not request.path.startswith("/reviews/"):
        return not_found(service, request)
    book = request.path.rsplit("/", 1)[1]
    found = [{"reviewer": who, "text": text} for who, text in REVIEWS]
    color = STAR_COLORS.get(service.identity.version)
    answer = {**service.identity.fields(), "id": book, "reviews": found}
    if color:
        ratings = await service.call("ratings", f"/ratings/{book}", request)
        answer["ratings"] = {
            k: ratings[k] for k in ("service", "version", "instance", "node", "error") if k in ratings
        }
        for review in found:
            stars = ratings.get("ratings", {}).get(review["reviewer"])
            review["rating"] = {"error": ratings["error"]} if stars is None else {"stars": stars, "color": color}
    return Response.json(answer)


async def ratings(service, request):
    """Stars, by reader."""
    if not request.path.startswith("/ratings/"):
        return not_found(service, request)
    stars = {"Reviewer1": 5, "Reviewer2": 4}
    return Response.json({**service.identity.fields(), "id": request.path.rsplit("/", 1)[1], "ratings": stars})


async def login(service, request):
    """A form, and the cookie that it asks for.  No password is looked at: this is a shop without goods."""
    if request.path != "/login":
        return not_found(service, request)
    if request.method == "POST":
        user = "".join(c for c in request.parameters().get("user", "") if c.isalnum() or c in "-_.")[:40]
        if user:
            cookie = f"session={user}; Path=/; HttpOnly; SameSite=Lax"
            return Response(303, headers=[("location", "/productpage"), ("set-cookie", cookie)])
    if "application/json" in request.headers.get("accept", ""):
        return Response.json({**service.identity.fields(), "user": request.cookie("session")})
    from bookinfo_page import login_page

    return Response(200, login_page(service.identity.fields()), "text/html; charset=utf-8")


async def logout(service, request):
    """Back to the page, without the cookie."""
    if request.path != "/logout":
        return not_found(service, request)
    cookie = "session=; Path=/; Max-Age=0; HttpOnly; SameSite=Lax"
    if "application/json" in request.headers.get("accept", ""):
        return Response.json(service.identity.fields(), headers=[("set-cookie", cookie)])
    return Response(303, headers=[("location", "/productpage"), ("set-cookie", cookie)])


SERVICES = {f.__name__: f for f in (productpage, details, reviews, ratings, login, logout)}

if __name__ == "__main__":
    name = os.environ.get("SERVICE", "")
    if name not in SERVICES:
        sys.exit(f"SERVICE is {name!r}; there are {', '.join(SERVICES)}")
    run(SERVICES[name])
