"""The worker's ear and mouth: a unix socket, read and written beside the batch.

    I/O thread        reads lines, writes what was said; never waits for the batch
    reading threads   render prompts and compile grammars
    the batch's       runs the errands that the others leave, turns, and says what came of it

Errands are the only way in, so that replies and batch belong to one thread. Whoever reads too
slowly is cut off, rather than kept in memory without end.
"""

import asyncio
import logging
import re
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from queue import SimpleQueue

from ftd.core.chat import (
    LINE_BYTES,
    Answer,
    Cancel,
    Ended,
    Generate,
    Load,
    Refused,
    decode_asked,
    encode,
)
from ftd.core.errors import FtdError
from ftd.core.wire import WireError
from ftd.worker.infer.batch import Row
from ftd.worker.infer.desk import Desk
from ftd.worker.infer.reply import SERVER_ERROR, Question, Reply

OVERLOADED = "overloaded"  # the code of a refusal that may be tried again later
UNSENT_BYTES = 64 * 2**20  # that a connection may leave unread before it is closed
READERS = 2  # threads that read requests: a long prompt does not hold up a short one
CLOSE_S = 1.0  # for the last lines to leave

# How every Generate begins: of a line that cannot be read whole, this much can.
_GENERATE = re.compile(rb'\A{"kind":"generate","id":"(?P<id>[^"\\]+)"')

Errand = Callable[[], None]
_log = logging.getLogger(__name__)


class _Ticket:
    """A request from when it came until it is answered; the batch's thread writes it."""

    def __init__(self, request: Generate) -> None:
        self.id = request.id
        self.choices = request.sampling.n
        self.reply: Reply | None = None  # once it is read
        self.cancelled = False


class _Connection:
    """One daemon at the other end, and what it asked."""

    def __init__(self, writer: asyncio.StreamWriter, unsent_bytes: int) -> None:
        self.tickets: dict[str, _Ticket] = {}  # the I/O thread's
        self._writer = writer
        self._limit = unsent_bytes
        self._said: deque[bytes] = deque()

    def say(self, answer: Answer) -> None:
        """Have it sent with the next write. From any thread."""
        self._said.append(encode(answer))

    def write(self) -> None:
        """Send what was said, as far as the other end reads it; the rest is kept, up to a limit."""
        lines = []
        while self._said:
            lines.append(self._said.popleft())
        if not lines or self._writer.is_closing():
            return
        self._writer.write(b"".join(lines))
        if (unsent := self._writer.transport.get_write_buffer_size()) > self._limit:
            _log.error("closing a connection that leaves %d bytes unread", unsent)
            self._writer.transport.abort()

    async def hang_up(self) -> None:
        """Close it when all is sent, or a moment later."""
        try:
            async with asyncio.timeout(CLOSE_S):
                await self._writer.drain()
                self._writer.close()
                await self._writer.wait_closed()
        except (ConnectionError, TimeoutError):
            self._writer.transport.abort()


class Server:
    """Listens on `path`. What is to be done in the batch's thread is put into `errands`: new rows
    go to `add`. At most `queue` choices run or wait; more are refused."""

    def __init__(
        self,
        desk: Desk,
        add: Callable[[Sequence[Row]], None],
        errands: "SimpleQueue[Errand]",
        *,
        path: Path,
        queue: int,
        unsent_bytes: int = UNSENT_BYTES,
    ) -> None:
        self._desk = desk
        self._add = add
        self._errands = errands
        self._path = path
        self._queue = queue
        self._unsent_bytes = unsent_bytes
        self._choices = 0
        self._connections: set[_Connection] = set()
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="reading")
        self._listening: Future[asyncio.AbstractEventLoop] = Future()
        self._closing = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="server", daemon=True)

    # The batch's thread.

    def start(self) -> None:
        """Return when it listens. Raises OSError when it cannot."""
        self._thread.start()
        self._loop = self._listening.result()

    def flush(self) -> None:
        """Send what was said since the last time."""
        self._loop.call_soon_threadsafe(self._write_all)

    def tell(self, load: Load) -> None:
        """Say to everybody how busy the worker is."""
        self._loop.call_soon_threadsafe(self._say_to_all, load)

    def close(self) -> None:
        """Send what was said and hang up."""
        self._loop.call_soon_threadsafe(self._closing.set)
        self._thread.join()
        self._readers.shutdown(wait=False, cancel_futures=True)

    def _begin(self, connection: _Connection, ticket: _Ticket, read: Question | Refused) -> None:
        """A request was read: answer it, unless it was cancelled meanwhile."""
        done = partial(self._release_soon, connection, ticket)
        if ticket.cancelled:
            connection.say(Ended(id=ticket.id, completion_tokens=0))
            done()
        elif isinstance(read, Refused):
            connection.say(read)
            done()
        else:
            ticket.reply = Reply(read, self._desk.language, connection.say, done)
            rows = ticket.reply.rows
            if rows[0].max_tokens > 0:
                self._add(rows)
            else:
                for row in rows:
                    row.skip()

    def _cancel(self, ticket: _Ticket) -> None:
        ticket.cancelled = True
        if ticket.reply is not None:
            ticket.reply.cancel()

    def _release_soon(self, connection: _Connection, ticket: _Ticket) -> None:
        self._loop.call_soon_threadsafe(self._release, connection, ticket)

    # The threads that read requests.

    def _read(self, connection: _Connection, ticket: _Ticket, request: Generate) -> None:
        read: Question | Refused
        try:
            read = self._desk.read(request)
        except FtdError as error:
            read = Refused(id=request.id, message=error.message, param=error.param, code=error.code)
        except Exception:  # noqa: BLE001 - only this request has a fault
            _log.exception("a request could not be read")
            message = "The request met a fault of the server; the inference worker's log says more."
            read = Refused(id=request.id, message=message, code=SERVER_ERROR)
        self._errands.put(partial(self._begin, connection, ticket, read))

    # The I/O thread.

    def _run(self) -> None:
        try:
            asyncio.run(self._main())
        except Exception as error:  # noqa: BLE001 - without it the worker is deaf and must end
            if self._listening.done():
                self._errands.put(partial(_raise, error))
            else:
                self._listening.set_exception(error)

    async def _main(self) -> None:
        server = await asyncio.start_unix_server(self._serve, self._path, limit=LINE_BYTES)
        self._listening.set_result(asyncio.get_running_loop())
        await self._closing.wait()
        server.close()
        self._write_all()
        for connection in list(self._connections):
            await connection.hang_up()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = _Connection(writer, self._unsent_bytes)
        self._connections.add(connection)
        try:
            while line := await reader.readline():
                self._hear(connection, line)
        except (WireError, ValueError) as error:  # ValueError: a line longer than LINE_BYTES
            _log.error("closing a connection that says what makes no sense: %s", error)
        except ConnectionError:
            pass  # it is gone, which is all that matters here
        finally:
            self._connections.discard(connection)
            for ticket in connection.tickets.values():
                self._errands.put(partial(self._cancel, ticket))
            writer.close()

    def _hear(self, connection: _Connection, line: bytes) -> None:
        try:
            asked = decode_asked(line)
        except WireError as error:
            self._refuse_unread(connection, line, error)
            return
        ticket = connection.tickets.get(asked.id)
        if isinstance(asked, Cancel):
            if ticket is not None:
                self._errands.put(partial(self._cancel, ticket))
            return
        if ticket is not None:
            raise WireError(f"{asked.id} is asked twice")
        ticket = _Ticket(asked)
        if self._choices + ticket.choices > self._queue:
            message = f"The model is overloaded: {self._choices} choices run or wait; try again."
            connection.say(Refused(id=asked.id, message=message, code=OVERLOADED))
            connection.write()
            return
        self._choices += ticket.choices
        connection.tickets[asked.id] = ticket
        self._readers.submit(self._read, connection, ticket, asked)

    def _refuse_unread(self, connection: _Connection, line: bytes, error: WireError) -> None:
        """Objects of some depth can be written and not be read. Raises what is no Generate."""
        begins = _GENERATE.match(line)
        if begins is None:
            raise error
        _log.error("refused a request: %s", error)
        message = "The request cannot be read: something in it is nested too deeply, or no JSON."
        connection.say(Refused(id=begins["id"].decode(), message=message, code="invalid_request"))
        connection.write()

    def _release(self, connection: _Connection, ticket: _Ticket) -> None:
        self._choices -= ticket.choices
        del connection.tickets[ticket.id]

    def _say_to_all(self, load: Load) -> None:
        for connection in self._connections:
            connection.say(load)
            connection.write()

    def _write_all(self) -> None:
        for connection in self._connections:
            connection.write()


def _raise(error: Exception) -> None:
    raise error
