"""The service as HTTP: paths, bodies, answers and errors, with FastAPI."""

# No `from __future__ import annotations` here: FastAPI reads the annotations of functions, and
# could not find the names that are imported inside of `build_app`.

import asyncio
import contextlib
import functools
import time
from collections.abc import Awaitable, Callable, MutableMapping
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import faststyle
from faststyle.errors import one_line
from faststyle.extras import require
from faststyle.hosts import LOCAL_NAMES, why_refused
from faststyle.serve.options import RequestError
from faststyle.serve.page import POLICY, render_page
from faststyle.serve.service import MEDIA, Answer, ClientGoneError, Service
from faststyle.serve.wanted import PARAMETERS, PHOTO, read_wanted

if TYPE_CHECKING:
    from fastapi import FastAPI

PACKAGES = ("fastapi", "uvicorn", "prometheus_client", "python_multipart")
FORM = "multipart/form-data"
# `curl --data-binary` calls everything urlencoded.
RAW = ("", "application/octet-stream", "application/x-www-form-urlencoded")
FORM_BYTES = 64 * 1024  # what a form may add to the photo
CLOSED_REQUEST = 499  # the client went away; nobody reads the answer
NOTES = "Faststyle-Notes"  # the header that says what was left out of a photo
ERRORS = {
    HTTPStatus.BAD_REQUEST: "No photo in the body, or a form that cannot be read.",
    HTTPStatus.FORBIDDEN: "The request names a host, or comes from a page, that is not allowed.",
    HTTPStatus.NOT_FOUND: "No style of that name.",
    HTTPStatus.NOT_ACCEPTABLE: "Accept allows none of the formats.",
    HTTPStatus.REQUEST_TIMEOUT: "The body took too long to arrive.",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "Too many bytes or too many pixels.",
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE: "The body is no picture that is read here.",
    HTTPStatus.UNPROCESSABLE_ENTITY: "An option that makes no sense, or a damaged picture.",
    HTTPStatus.TOO_MANY_REQUESTS: "The queue is full; see Retry-After.",
    HTTPStatus.SERVICE_UNAVAILABLE: "Waited too long, or the style cannot be loaded.",
    HTTPStatus.GATEWAY_TIMEOUT: "The work on the picture took too long.",
}

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


def build_app(service: Service) -> App:
    """Return the ASGI application of a service. Raises: DeviceError without the extra."""
    require(*PACKAGES, extra="serve")
    from fastapi import FastAPI, Request
    from fastapi.responses import HTMLResponse, Response

    api = FastAPI(
        title="faststyle",
        version=faststyle.__version__,
        summary="Repaints a photo in the style of a painting.",
        description='Errors are JSON: `{"error": "..."}`, one line that names the fix.',
        docs_url=None,  # FastAPI's own pages load scripts from elsewhere; ours is at /
        redoc_url=None,
    )

    @api.post("/stylize", response_class=Response, **_describe_stylize())
    async def stylize(request: Request) -> Response:
        try:
            answer = await _stylize(service, request)
        except ClientGoneError:
            return Response(status_code=CLOSED_REQUEST)
        headers = {"Vary": "Accept", "Cache-Control": "no-store"}
        if answer.notes:
            notes = one_line("; ".join(answer.notes))
            headers[NOTES] = notes.encode("ascii", "backslashreplace").decode()
        return Response(answer.data, media_type=answer.media_type, headers=headers)

    @api.get("/styles", summary="List the styles")
    async def styles() -> list[dict[str, Any]]:
        """Each has the `name` to ask for, the file of its `painting`, its `collection` or null,
        its `network`, the `license` that its checkpoint names, and whether it is `loaded`."""
        loaded = service.shelf.names()
        return [
            {"name": style.name, **style.about, "loaded": style.name in loaded}
            for style in service.catalogue.styles()
        ]

    @api.get("/healthz", summary="Tell whether the service works")
    async def healthz() -> dict[str, Any]:
        """Answers 200 as long as requests are taken; 503 when the worker has ended."""
        if not service.worker.is_alive():
            raise RequestError(HTTPStatus.SERVICE_UNAVAILABLE, "the worker has ended")
        return {"status": "ok", "version": faststyle.__version__, "waiting": len(service.worker)}

    @api.get("/metrics", summary="Figures for Prometheus", response_class=Response)
    async def metrics() -> Response:
        text, media_type = service.metrics.text()
        return Response(text, headers={"Content-Type": media_type})

    @api.get("/", response_class=HTMLResponse, include_in_schema=False)
    async def page(request: Request) -> HTMLResponse:
        names = [style.name for style in service.catalogue.styles()]
        html = render_page(names, str(request.base_url))
        return HTMLResponse(html, headers={"Content-Security-Policy": POLICY})

    _answer_errors(api)
    return _guarded(api, service)


def _answer_errors(api: "FastAPI") -> None:
    """Let each error be JSON, {"error": ...}."""
    from fastapi import Request
    from fastapi.responses import JSONResponse
    from starlette.exceptions import HTTPException

    @api.exception_handler(RequestError)
    async def refused(_: Request, error: RequestError) -> JSONResponse:
        retry = {} if error.retry_after is None else {"Retry-After": str(error.retry_after)}
        return JSONResponse({"error": str(error)}, error.status, retry)

    @api.exception_handler(HTTPException)
    async def unknown(_: Request, error: HTTPException) -> JSONResponse:
        text = f"{one_line(str(error.detail))}; GET / lists what is served"
        return JSONResponse({"error": text}, error.status_code, error.headers)

    @api.exception_handler(Exception)
    async def failed(_: Request, error: Exception) -> JSONResponse:
        # The traceback goes to the server's log, not to strangers.
        message = "an error of the service; its log has the reason"
        return JSONResponse({"error": message}, HTTPStatus.INTERNAL_SERVER_ERROR)


async def _stylize(service: Service, request: Any) -> Answer:
    """Return the answer to a request to stylize. Raises: RequestError; ClientGoneError."""
    from starlette.requests import ClientDisconnect

    deadline = asyncio.get_running_loop().time() + service.options.timeout
    with service.place():
        try:
            async with asyncio.timeout_at(deadline):
                data, fields = await _read_body(request, service.options.max_bytes)
        except TimeoutError:
            raise RequestError(
                HTTPStatus.REQUEST_TIMEOUT,
                f"the body took more than {service.options.timeout:g} s to arrive",
            ) from None
        except ClientDisconnect:
            raise ClientGoneError from None
        wanted = read_wanted([*request.query_params.multi_items(), *fields])
        accept = request.headers.get("accept", "")
        until_gone = functools.partial(_until_gone, request)
        # The list is emptied, so that nobody keeps the file while its photo waits.
        return await service.stylize(data.pop(), wanted, accept, until_gone, deadline)


async def _until_gone(request: Any) -> None:
    """Return when the client has closed its connection; the body has been read before."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _read_body(request: Any, limit: int) -> tuple[list[bytes], list[tuple[str, str]]]:
    """Return the photo, in a list of one, and the fields of the form.

    Raises: RequestError for too many bytes, a form that cannot be read, and another media type.
    """
    from starlette.requests import Request

    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    most = limit + FORM_BYTES if kind == FORM else limit
    told = request.headers.get("content-length", "")
    if told.isdecimal() and (len(told) > 18 or int(told) > most):
        raise _too_large(limit)
    bounded = Request(request.scope, _bounded(request.receive, most, limit))
    if kind == FORM:
        data, fields = await _read_form(bounded, limit)
        return [data], fields
    if kind in RAW or kind.startswith("image/"):
        return [await bounded.body()], []
    raise RequestError(
        HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
        f"a body of {one_line(kind)[:80]}: send {FORM} with the field {PHOTO!r}, or image/*",
    )


def _bounded(receive: Receive, most: int, limit: int) -> Receive:
    """Return a `receive` that raises RequestError once a body has more than `most` bytes."""
    seen = 0

    async def receive_bounded() -> Message:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        if seen > most:
            raise _too_large(limit)
        return message

    return receive_bounded


async def _read_form(request: Any, limit: int) -> tuple[bytes, list[tuple[str, str]]]:
    """Return the photo of a form, and its other fields. Raises: RequestError."""
    from starlette.datastructures import UploadFile
    from starlette.formparsers import MultiPartException, MultiPartParser

    class InMemory(MultiPartParser):
        spool_max_size = limit + FORM_BYTES  # never on the disk: its file system may be read-only

    parser = InMemory(
        request.headers, request.stream(), max_files=1, max_fields=len(PARAMETERS) + 1
    )
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise _bad_form(error.message) from None
    fields = []
    photo = None
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(form.close)
        # Starlette forgets to close the file of a form that ends in the middle of it.
        for file in getattr(parser, "_files_to_close_on_error", ()):
            stack.callback(file.close)
        for name, value in form.multi_items():
            if isinstance(value, UploadFile) and name == PHOTO:
                photo = await value.read()
            elif isinstance(value, UploadFile):
                raise _bad_form(f"the file is in the field {name!r:.80}; use {PHOTO!r}")
            else:
                fields.append((name, value))
    if photo is None:
        raise _bad_form(f"there is no file in the field {PHOTO!r}")
    if len(photo) > limit:
        raise _too_large(limit)
    return photo, fields


def _too_large(limit: int) -> RequestError:
    return RequestError(
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        f"the photo has more than {limit:,} bytes; reduce it first",
    )


def _bad_form(reason: str) -> RequestError:
    return RequestError(HTTPStatus.BAD_REQUEST, f"the form cannot be read: {reason.rstrip('.')}")


def _guarded(app: App, service: Service) -> App:
    """Return the application behind the check of hosts, with each request counted."""
    from starlette.responses import JSONResponse

    allowed = {
        *LOCAL_NAMES,
        service.options.address,
        *(name.lower().rstrip(".") for name in service.options.hosts),
    }

    async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        began = time.perf_counter()
        status = CLOSED_REQUEST

        async def send_and_see(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = int(message["status"])
            await send(message)

        wrong = why_refused(scope, allowed, "faststyle serve")
        respond = JSONResponse({"error": wrong}, HTTPStatus.FORBIDDEN) if wrong else app
        try:
            await respond(scope, receive, send_and_see)
        finally:
            seconds = time.perf_counter() - began
            service.metrics.request_done(scope["path"], status, seconds)

    return guarded


def _describe_stylize() -> dict[str, Any]:
    """Return what OpenAPI says of POST /stylize."""
    pictures = {kind: {"schema": {"type": "string", "format": "binary"}} for kind in MEDIA.values()}
    described = {
        name: {**parameter.schema, "description": parameter.about}
        for name, parameter in PARAMETERS.items()
    }
    photo = {"type": "string", "format": "binary", "description": "The file of the photo."}
    form = {"type": "object", "properties": {PHOTO: photo, **described}, "required": [PHOTO]}
    error = {"type": "object", "properties": {"error": {"type": "string"}}}
    as_json = {"application/json": {"schema": error}}
    notes = {
        NOTES: {"schema": {"type": "string"}, "description": "What was left out of the photo."}
    }
    responses: dict[int, dict[str, Any]] = {
        int(status): {"description": about, "content": as_json} for status, about in ERRORS.items()
    }
    responses[200] = {"description": "The stylized picture.", "content": pictures, "headers": notes}
    return {
        "summary": "Stylize a photo",
        "description": (
            "The photo is the field `photo` of a form, or the whole body. Each option is a part of "
            "the query, or a field of the form; `style` is needed. Alpha and ICC profile are kept, "
            "EXIF and XMP are left out. Photos of one size, style and look that wait at the same "
            "time are painted as one batch."
        ),
        "responses": responses,
        "openapi_extra": {
            "parameters": [
                {
                    "name": name,
                    "in": "query",
                    "required": False,
                    "description": parameter.about,
                    "schema": parameter.schema,
                }
                for name, parameter in PARAMETERS.items()
            ],
            "requestBody": {"required": True, "content": {FORM: {"schema": form}, **pictures}},
        },
    }
