"""What a server may do to its client: so many bytes, so many seconds, no other host."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import httpx2 as httpx  # the client library's own

MAX_BODY = 16 * 1024**2  # bytes: a reply of a million tokens is smaller


class RefusedReply(httpx.TransportError):
    """A reply that is not read; the text says why."""


class LimitedTransport(httpx.AsyncBaseTransport):
    """Sends requests of which each ends within ``timeout`` seconds, however slowly bytes come.

    Raises RefusedReply for a body over MAX_BODY, for a compressed one, which could be of any size,
    and for a redirect to another host, which would get the prompts.
    """

    def __init__(self, timeout: float) -> None:
        self._timeout, self._inner = timeout, httpx.AsyncHTTPTransport()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        request.headers["Accept-Encoding"] = "identity"
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._timeout
        try:
            async with asyncio.timeout_at(deadline):
                response = await self._inner.handle_async_request(request)
        except TimeoutError:
            raise httpx.ReadTimeout("no reply", request=request) from None
        await _check(request, response)
        assert isinstance(response.stream, httpx.AsyncByteStream)
        response.stream = _LimitedStream(response.stream, deadline, request)
        return response

    async def aclose(self) -> None:
        await self._inner.aclose()


async def _check(request: httpx.Request, response: httpx.Response) -> None:
    problem, target = "", request.url
    if response.has_redirect_location:
        target = request.url.join(response.headers["Location"])
    if response.headers.get("Content-Encoding", "identity").strip().lower() != "identity":
        problem = "sends compressed replies, which were not asked for"
    elif target.host != request.url.host:
        problem = f"redirects to another host, {target.host[:200]}"
    if problem:
        await response.aclose()
        raise RefusedReply(problem)


class _LimitedStream(httpx.AsyncByteStream):
    def __init__(
        self, stream: httpx.AsyncByteStream, deadline: float, request: httpx.Request
    ) -> None:
        self._stream, self._deadline, self._request = stream, deadline, request

    async def __aiter__(self) -> AsyncIterator[bytes]:
        size, parts = 0, aiter(self._stream)
        while True:
            try:
                async with asyncio.timeout_at(self._deadline):
                    part = await anext(parts)
            except StopAsyncIteration:
                return
            except TimeoutError:
                raise httpx.ReadTimeout("the reply did not end", request=self._request) from None
            size += len(part)
            if size > MAX_BODY:
                raise RefusedReply(f"its reply is over {MAX_BODY // 1024**2} MB")
            yield part

    async def aclose(self) -> None:
        await self._stream.aclose()
