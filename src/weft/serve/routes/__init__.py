"""The API's routes, one file per resource; each makes its router from the Server: `router(server) -> APIRouter`."""
