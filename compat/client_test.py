"""What an application of the original trough does, by the original's own client and shell. Arguments: the Consul's URL."""

import asyncio
import contextlib
import datetime
import io
import os
import sys
import time

import shim
import trough.client
import trough.shell

WAIT_S = 60


def until(what, found):
    deadline = time.monotonic() + WAIT_S
    while True:
        try:
            result = found()
            if result:
                return result
        except trough.client.TroughException:
            pass
        assert time.monotonic() < deadline, "%s: not within %s s" % (what, WAIT_S)
        time.sleep(0.2)


def raises(kind, call):
    try:
        call()
    except kind as error:
        return error
    raise AssertionError("%s was expected" % kind.__name__)


def schemas(client):
    assert not client.schema_exists("crawl")
    client.register_schema("crawl", "create table pages (id integer primary key, url text, seen datetime, ok integer);")
    assert client.schema_exists("crawl")
    client.register_schema("crawl", "create table pages (id integer primary key, url text, seen datetime, ok integer, x text);")
    assert [schema["name"] for schema in client.schemas()] == ["crawl"]
    assert "x text" in client.schema("crawl")[0]["crawl"]
    error = raises(trough.client.TroughException, lambda: client.register_schema("bad", "create tabel t"))
    assert "400" in str(error), error


def writes_and_reads(client):
    now = datetime.datetime(2026, 1, 2, 3, 4, 5)
    insert = "insert into pages (url, seen, ok, x) values (%s, %s, %s, %s)"
    client.write("compat1", insert, ("it's a \"page\"; --", now, True, None), schema_id="crawl")
    # what was acknowledged is there at once, though nothing was promoted
    rows = client.read("compat1", "select * from pages where url = %s", ("it's a \"page\"; --",))
    assert rows == [{"id": 1, "url": "it's a \"page\"; --", "seen": "2026-01-02 03:04:05", "ok": 1, "x": None}], rows
    client.write("compat1", "update pages set x = %s where id = %s; insert into pages (url) values ('b')", ("é", 1))
    assert client.read("compat1", "select count(*) as n, max(x) as x from pages") == [{"n": 2, "x": "é"}]
    rows = asyncio.run(client.async_read("compat1", "select id from pages order by id"))
    assert rows == [{"id": 1}, {"id": 2}], rows
    error = raises(trough.client.TroughException, lambda: client.write("compat1", "insert into nowhere values (1)"))
    assert "no such table" in error.returned_message, error.returned_message
    error = raises(trough.client.TroughException, lambda: client.read("compat1", "select nowhere from pages"))
    assert "no such column" in error.returned_message
    # a second client gets the same place
    assert shim.client(client.consul).write_url("compat1", "crawl") == client.write_url("compat1")


def promotes(client):
    client.promote("compat1")
    client.write("compat1", "insert into pages (url) values ('c')")
    client.promote("compat1")
    assert client.read("compat1", "select count(*) as n from pages") == [{"n": 3}]
    error = raises(trough.client.TroughException, lambda: client.promote("never"))
    assert "409" in str(error), error
    # by itself, as applications let it
    by_itself = shim.client(client.consul, promotion_interval=0.5)
    by_itself.write("compat2", "insert into pages (url) values ('d')", schema_id="crawl")
    until("it is promoted", lambda: not by_itself._dirty_segments)


def shell(consul):
    # the pager is a program; its output is this one's
    os.environ["PAGER"] = "cat >> %s" % os.environ["SHELL_OUTPUT"]
    trough.client.TroughClient = shim.ConsulTroughClient
    asyncio.set_event_loop(asyncio.new_event_loop())
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        one = trough.shell.TroughShell(shim.client(consul), [], writable=True, schema_id="crawl")
        for line in ["connect compat1;", "insert into pages (url) values ('from the shell');",
                     "select url from pages where url = 'from the shell';", "show tables;", "show schemas;", "show connections;",
                     "promote"]:
            one.onecmd(line)
    with open(os.environ["SHELL_OUTPUT"]) as output:
        said = said.getvalue() + output.read()
    for part in ["from the shell", "pages", "crawl", "1 total results", "write_url"]:
        assert part in said, (part, said)


def deletes(client):
    # while it is written it stays
    error = raises(trough.client.TroughException, lambda: client.delete_segment("compat2"))
    assert "400" in str(error), error
    raises(trough.client.TroughSegmentNotFound, lambda: client.delete_segment("never"))
    gone = []

    def delete():
        with contextlib.suppress(trough.client.TroughException):
            client.delete_segment("compat2")
            gone.append(True)
        return gone

    until("it is given back and deleted", delete)
    raises(trough.client.TroughSegmentNotFound, lambda: client.delete_segment("compat2"))

    def absent():
        try:
            client.read("compat2", "select 1")
        except trough.client.TroughException as error:
            return "404" in str(error)
        return False

    until("nobody reads it any more", absent)


def main():
    consul = sys.argv[1]
    client = shim.client(consul)
    for step, arguments in [(schemas, client), (writes_and_reads, client), (promotes, client), (shell, consul),
                            (deletes, client)]:
        step(arguments)
        print("ok", step.__name__, flush=True)


main()
