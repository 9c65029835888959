"""The status page of `weft serve` at `/`: jobs with their loss, models, and a question to two models at once.

One page, rendered here and kept up to date by one script from the API that everybody uses; nothing is asked from
outside. Files: `routes` (the page and its script), `view` (what is shown, in words), `page.html.j2`, `page.css`,
`script/`. Not here: changing jobs, uploading files, accounts; the API does that.
"""

from weft.web.routes import router

__all__ = ["router"]
