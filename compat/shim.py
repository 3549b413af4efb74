"""Lets the client of the original trough (the package Trough of PyPI, unchanged) find its servers in Consul.

The original looks three things up in RethinkDB: who leads, who reads a segment, and which schemas there are. Here these
look-ups, and nothing else of the client, go to Consul and to the segment manager. The modules of the package's servers
are imported with it, so what only they need is replaced by something that is never used.
"""

import collections
import importlib.abc
import importlib.machinery
import re
import sys
import unittest.mock

import requests

# what trough/__init__.py imports for its servers, and the client for the look-ups that are replaced
UNUSED = {"snakebite", "hdfs3", "uhashring", "uwsgi", "sqlitebck", "sqlparse", "ujson", "doublethink", "rethinkdb", "yaml",
          "flask"}


class Unused(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds a stand-in for each of them."""

    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in UNUSED:
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec):
        return unittest.mock.MagicMock(__name__=spec.name, __path__=[], __spec__=spec)

    def exec_module(self, module):
        pass


sys.meta_path.insert(0, Unused())

import trough.client  # noqa: E402


class ConsulTroughClient(trough.client.TroughClient):
    """The client with its look-ups in the Consul at `consul` (http://HOST:PORT)."""

    consul = None

    def _instances(self, service, tag=None):
        params = {"passing": "true"}
        if tag:
            params["tag"] = tag
        url = "%s/v1/health/service/%s" % (self.consul, service)
        response = requests.get(url, params=params, timeout=10)
        response.raise_for_status()
        return ["http://%s:%s" % (one["Service"]["Address"], one["Service"]["Port"]) for one in response.json()]

    # who leads
    def segment_manager_url(self):
        leads = self._instances("trough-sync", "lead")
        if not leads:
            raise trough.client.TroughException("nobody leads")
        return leads[0]

    # who reads a segment: one that has it, else any, for each answers for all
    def read_url_nocache(self, segment_id):
        readers = self._instances("trough-read", segment_id.lower()) or self._instances("trough-read")
        if not readers:
            raise trough.client.TroughSegmentNotFound("no reader for segment %s" % segment_id)
        return "%s/?segment=%s" % (readers[0], segment_id)

    def _tags(self):
        response = requests.get("%s/v1/catalog/services" % self.consul, timeout=10)
        response.raise_for_status()
        return sorted(response.json().get("trough-read", []))

    def read_urls_for_regex(self, regex):
        urls = {tag: self.read_url(tag) for tag in self._tags() if re.search(regex, tag)}
        self._read_url_cache.update(urls)
        return urls

    def readable_segments(self, regex=None):
        for tag in self._tags():
            if not regex or re.search(regex, tag):
                yield collections.OrderedDict([("segment", tag), ("url", self.read_url(tag))])

    # which schemas there are
    def schemas(self):
        response = requests.get(self.segment_manager_url() + "/schema", timeout=10)
        response.raise_for_status()
        for name in response.json():
            yield collections.OrderedDict([("name", name)])

    def schema(self, id):
        response = requests.get("%s/schema/%s/sql" % (self.segment_manager_url(), id), timeout=10)
        if response.status_code == 404:
            return None
        response.raise_for_status()
        return [collections.OrderedDict([(id, response.text)])]


def client(consul, **arguments):
    """A client on `consul`."""
    ConsulTroughClient.consul = consul
    return ConsulTroughClient("rethinkdb://unused/unused", **arguments)
