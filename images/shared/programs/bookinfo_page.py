"""The pages of Bookinfo."""

from html import escape

ACCENTS = {"v1": "#2f5d8a", "v2": "#8a4b2f", "v3": "#3d7a4a"}

STYLE = """
:root { --accent: ACCENT; --ink: #22262b; --soft: #667080; --paper: #fbfaf7; --line: #e4e0d8; }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 17px/1.6 Georgia, "Times New Roman", serif; }
header { background: var(--accent); color: #fff; }
header div { max-width: 62rem; margin: auto; padding: .9rem 1.5rem; display: flex; gap: 1rem; }
header div { align-items: baseline; }
header b { font-size: 1.25rem; letter-spacing: .02em; flex: 1; }
header a { color: #fff; }
main { max-width: 62rem; margin: auto; padding: 2rem 1.5rem 3rem; }
h1 { font-size: 2.3rem; line-height: 1.2; margin: 0 0 .2rem; font-weight: 600; }
h2 { font-size: 1.15rem; margin: 0 0 .8rem; color: var(--accent); }
.by { color: var(--soft); margin: 0 0 1.2rem; }
.lead { font-size: 1.1rem; max-width: 44rem; }
.cards { display: grid; gap: 1.5rem; margin-top: 2rem; }
.cards { grid-template-columns: repeat(auto-fit, minmax(19rem, 1fr)); }
.card { background: #fff; border: 1px solid var(--line); border-radius: .6rem; padding: 1.3rem 1.5rem 1rem; }
dl { display: grid; grid-template-columns: auto 1fr; gap: .2rem 1.2rem; margin: 0; }
dt { color: var(--soft); } dd { margin: 0; }
blockquote { margin: 0 0 1.1rem; padding: 0 0 0 1rem; border-left: 3px solid var(--line); }
blockquote p { margin: 0; } cite { color: var(--soft); font-style: normal; font-size: .92rem; }
.stars { font-size: 1.25rem; letter-spacing: .1em; } .stars i { color: #d8d3c8; font-style: normal; }
.from, footer { font: .8rem/1.5 ui-monospace, "DejaVu Sans Mono", monospace; color: var(--soft); }
.from { border-top: 1px solid var(--line); margin-top: 1rem; padding-top: .6rem; }
.trouble { background: #fdf1ef; border: 1px solid #e9c3bc; border-radius: .4rem; padding: .7rem 1rem; }
.trouble { color: #8a2b1c; }
form { max-width: 22rem; margin: 3rem auto; } label { display: block; margin-bottom: .4rem; }
input, button { font: inherit; width: 100%; padding: .5rem .7rem; border-radius: .4rem; }
input { border: 1px solid var(--line); }
button { margin-top: .9rem; background: var(--accent); color: #fff; border: 0; cursor: pointer; }
"""


def _page(title, identity, user, body):
    who = f'{escape(user)} &middot; <a href="/logout">log out</a>' if user else '<a href="/login">log in</a>'
    style = STYLE.replace("ACCENT", ACCENTS.get(identity["version"], "#5b4b8a"), 1)
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title><link rel="icon" href="data:,"><style>{style}</style></head><body>
<header><div><b>Bookinfo</b><span id="user">{who}</span></div></header>
<main>{body}</main></body></html>
"""


def _from(part):
    if not part.get("service"):
        return ""
    said = " ".join(escape(str(part[k])) for k in ("service", "version"))
    return f'<p class="from" data-service="{escape(part["service"])}" data-version="{escape(part["version"])}">' + (
        f"answered by {said} &middot; {escape(str(part['instance']))} on {escape(str(part['node']))}</p>"
    )


def _trouble(what, part):
    why = f"<small>{escape(part['error'])}</small>"
    return f'<p class="trouble">Sorry, {what} are not available just now.<br>{why}</p>'


def _details(details):
    if "error" in details:
        return _trouble("the book's details", details)
    rows = ("type", "pages", "publisher", "language", "year", "isbn")
    names = {"isbn": "ISBN"}
    shown = "".join(
        f"<dt>{names.get(row, row.title())}</dt><dd>{escape(str(details[row]))}</dd>"
        for row in rows
        if row in details
    )
    return f"<dl>{shown}</dl>{_from(details)}"


def _stars(review):
    rating = review.get("rating")
    if rating is None:
        return ""
    if "error" in rating:
        return f'<p class="from">no stars: {escape(rating["error"])}</p>'
    stars, color = int(rating["stars"]), escape(rating["color"])
    shown = f"{'&#9733;' * stars}<i>{'&#9733;' * (5 - stars)}</i>"
    return f'<span class="stars" style="color:{color}" title="{stars} of 5">{shown}</span>'


def _reviews(reviews):
    if "error" in reviews:
        return _trouble("reviews", reviews)
    shown = "".join(
        f"<blockquote><p>{escape(r['text'])}</p><cite>{escape(r['reviewer'])}</cite> {_stars(r)}</blockquote>"
        for r in reviews.get("reviews", ())
    )
    ratings = reviews.get("ratings", {})
    return shown + _from(reviews) + ("" if "error" in ratings else _from(ratings))


def product_page(page):
    """The page of the only book there is, from what ``productpage`` answers as JSON."""
    details = page["details"]
    by = f"by {escape(details['author'])}, {details['year']}" if "author" in details else "&nbsp;"
    body = f"""
<h1>{escape(page["book"])}</h1><p class="by">{by}</p><p class="lead">{escape(page["summary"])}</p>
<div class="cards"><section class="card" id="details"><h2>Book details</h2>{_details(details)}</section>
<section class="card" id="reviews"><h2>Book reviews</h2>{_reviews(page["reviews"])}</section></div>
{_from(page)}"""
    return _page(page["book"], page, page["user"], body)


def login_page(identity):
    """The form that asks for a name."""
    body = f"""<form method="post" action="/login"><h1>Log in</h1>
<label for="user">Your name</label>
<input id="user" name="user" required maxlength="40" autofocus pattern="[A-Za-z0-9._-]+">
<button>Log in</button>{_from(identity)}</form>"""
    return _page("Log in", identity, "", body)
