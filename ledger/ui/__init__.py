"""The pages under /ui, for people: rendered on the server from the same services that the API calls.

    app         every request: its page, who is signed in, the CSRF token of a change, errors as pages
    ports       what the application gives the pages
    view        what a page works with: the services, the actor, the request, and how it answers
    sessions    the cookie of a sign-in
    csrf        whether a change comes from a page of ours
    signin      signing in and out
    by_issuer   signing in by an OpenID Connect issuer: to it, and back
    render      templates, and how numbers, times and names are written in them
    charts      figures as SVG, with their text alternative
    static      the style sheet and the script, which are ours
    routes      every page: its path, who may see it, and the function that answers
    pages/      one file for each page or group of pages
    templates/  what they look like; `base.html` has the frame, `macros.html` the parts that pages share

To add a page:

1. A function in a module of `pages/`: `async def show(view: View) -> Response`. Call services by `view.services`;
   wrap a service method that blocks in `await view.run(...)`. Answer with `await view.page("name.html", key=value)`, or
   after a change with `view.redirect("/ui/…", done="word")`, whose words are `view.DONE`.
2. A row in `routes.PAGES`: method, path, the action of `ledger.access.roles` that it takes, the function. The menu is
   `routes.MENU`.
3. A template that extends `base.html` and fills the blocks `title` and `main`. Names by users are escaped, and go
   through the macro `name` if they may be long or of another script. Filters: `number`, `percent`, `when`, `epsilon`.
   No `style`, no inline script: classes, SVG attributes, and `data-` attributes that `static/ledger.js` reads. A form
   that changes something begins with the macro `begin(path, csrf)`.
4. A test in `tests/ui`: what it shows through the HTTP client; in Chromium what needs a browser. `tests/ui/test_pages`
   opens every row of `PAGES` in both themes with axe, and compares the rows with its own list.

Errors that services raise become pages by themselves; another tenant's or a hidden object is 404 because the service
raises NotFound. Nothing here decides or computes: what a page needs, a service returns.
"""
