"""The web page and the interface's documentation, which load nothing from other hosts."""

from pathlib import Path

import swagger_ui_bundle
from fastapi import FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.staticfiles import StaticFiles

PAGE = Path(__file__).parents[1] / "page"
_DOCS_POLICY = "default-src 'self'; img-src 'self' data:; style-src 'self' 'unsafe-inline'"


def add_pages(api: FastAPI) -> None:
    """Add / and /docs, and the files that these load."""

    @api.get("/", include_in_schema=False)
    async def page() -> Response:
        return FileResponse(PAGE / "index.html", headers={"cache-control": "no-cache"})

    @api.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        answer = get_swagger_ui_html(
            openapi_url="/docs/files/openapi.json",
            title="seqvis",
            swagger_js_url="/docs/files/swagger-ui-bundle.js",
            swagger_css_url="/docs/files/swagger-ui.css",
            swagger_favicon_url="/docs/files/favicon-32x32.png",
        )
        answer.headers["content-security-policy"] = (
            f"{_DOCS_POLICY}; script-src 'self' 'unsafe-inline'"
        )
        return answer

    @api.get("/docs/files/openapi.json", include_in_schema=False)
    async def shown() -> Response:
        """Answer with the OpenAPI document as a version 3.0, since this Swagger UI refuses 3.1."""
        return JSONResponse({**api.openapi(), "openapi": "3.0.3"})

    api.mount("/docs/files", StaticFiles(directory=swagger_ui_bundle.swagger_ui_path))
    api.mount("/page", StaticFiles(directory=PAGE))
