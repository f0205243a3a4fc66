"""A control plane that shares no code with the daemon: delta ADS by Envoy's published messages and Google's gRPC.

Workloads and policies are messages of our own .proto files, made into Python here. What it knows comes in line by line as
JSON, what it saw goes out so; a request that the protocol does not allow is told as a violation. gRPC's own limits are left
as they are: a request of more than 4 MiB breaks the stream.
"""

import argparse
import importlib
import json
import queue
import sys
import tempfile
import threading
from concurrent import futures
from pathlib import Path

import grpc
from envoy.service.discovery.v3 import ads_pb2_grpc, discovery_pb2
from google.protobuf import json_format
from grpc_tools import protoc

END = object()


def tell(**event):
    sys.stdout.write(json.dumps(event) + "\n")
    sys.stdout.flush()


def messages(protos):
    """The class of each type of resource, by its URL."""
    files = ["workload.proto", "authorization.proto"]
    well_known = Path(protoc.__file__).parent / "_proto"
    with tempfile.TemporaryDirectory() as made:
        if protoc.main(["protoc", f"-I{protos}", f"-I{well_known}", f"--python_out={made}", *files]) != 0:
            raise SystemExit(f"the .proto files in {protos} are not understood")
        sys.path.insert(0, made)
        address = importlib.import_module("workload_pb2").Address
        policy = importlib.import_module("authorization_pb2").Authorization
    return {"type.googleapis.com/" + kind.DESCRIPTOR.full_name: kind for kind in (address, policy)}


class Subscription:
    """Of one stream to one type, with all that there is of it."""

    def __init__(self, has):
        self.has = has
        self.outstanding = set()


class Stream:
    def __init__(self, number):
        self.number = number
        self.responses = queue.Queue()
        self.subscriptions = {}


class ControlPlane(ads_pb2_grpc.AggregatedDiscoveryServiceServicer):
    def __init__(self, kinds):
        self.kinds = kinds
        self.lock = threading.Lock()
        self.known = {url: {} for url in kinds}
        self.streams = []
        self.count = 0

    def next(self):
        self.count += 1
        return str(self.count)

    # What it is told.

    def put(self, type, name, value=None, merge=None):
        """A whole message in bytes, or fields in protobuf's JSON that are merged into what is known."""
        message = self.kinds[type]()
        if value is not None:
            message.ParseFromString(bytes.fromhex(value))
        elif name in self.known[type]:
            message.CopyFrom(self.known[type][name][1])
        if merge is not None:
            json_format.ParseDict(merge, message)
        self.known[type][name] = (self.next(), message)

    def obey(self, command):
        with self.lock:
            for resource in command.get("put", []):
                self.put(**resource)
            for gone in command.get("remove", []):
                del self.known[gone["type"]][gone["name"]]
            for stream in self.streams:
                if command.get("quiet"):
                    continue
                if command.get("end"):
                    stream.responses.put(END)
                else:
                    self.push_all(stream)

    # What it says.

    def push_all(self, stream):
        for url in stream.subscriptions:
            self.push(stream, url, even_if_empty=False)

    def push(self, stream, url, even_if_empty):
        subscription, known = stream.subscriptions[url], self.known[url]
        changed = [(name, *entry) for name, entry in known.items() if subscription.has.get(name) != entry[0]]
        gone = [name for name in subscription.has if name not in known]
        if not (changed or gone or even_if_empty):
            return
        nonce = self.next()
        response = discovery_pb2.DeltaDiscoveryResponse(
            type_url=url, nonce=nonce, system_version_info=nonce, removed_resources=gone
        )
        for name, version, message in changed:
            resource = response.resources.add(name=name, version=version)
            resource.resource.Pack(message)
        subscription.outstanding.add(nonce)
        subscription.has = {name: version for name, (version, _) in known.items()}
        stream.responses.put(response)

    # What it is asked.

    def DeltaAggregatedResources(self, requests, context):
        with self.lock:
            stream = Stream(int(self.next()))
            self.streams.append(stream)
        threading.Thread(target=self.listen, args=(stream, requests), daemon=True).start()
        tell(stream=stream.number, opened=True)
        while (response := stream.responses.get()) is not END:
            yield response

    def listen(self, stream, requests):
        try:
            for number, request in enumerate(requests):
                with self.lock:
                    self.receive(stream, request, is_first=number == 0)
        except Exception as error:  # gRPC raises it bare, for a client that left and for a request above its limit.
            tell(stream=stream.number, broken=repr(error))
        with self.lock:
            if stream in self.streams:
                self.streams.remove(stream)
        stream.responses.put(END)
        tell(stream=stream.number, ended=True)

    def receive(self, stream, request, is_first):
        url, nonce = request.type_url, request.response_nonce
        subscription = stream.subscriptions.get(url)
        tell(
            stream=stream.number, type=url, nonce=nonce, node=request.node.id, bytes=request.ByteSize(),
            versions=len(request.initial_resource_versions), error=request.error_detail.message,
            names=list(request.resource_names_subscribe),
        )
        if is_first and not request.node.id:
            tell(violation="the first request of a stream names no node")
        if url not in self.kinds:
            tell(violation=f"{url} was never on offer")
        elif subscription is None:
            if nonce:
                tell(violation=f"nonce {nonce} of a type that was not asked for yet")
            subscription = stream.subscriptions[url] = Subscription(dict(request.initial_resource_versions))
            self.push(stream, url, even_if_empty=True)
        elif request.initial_resource_versions:
            tell(violation="initial versions in a later request")
        elif nonce not in subscription.outstanding:
            tell(violation=f"nonce {nonce!r} is not of a response that waits")
        else:
            subscription.outstanding.remove(nonce)


def main():
    options = argparse.ArgumentParser()
    for name in ("address", "certificate", "key", "protos"):
        options.add_argument(f"--{name}", required=True)
    given = options.parse_args()
    control_plane = ControlPlane(messages(given.protos))
    # As strict as istiod: who asks for a sign of life more often than this is sent away.
    pings = ("grpc.http2.min_ping_interval_without_data_ms", 15_000)
    server = grpc.server(futures.ThreadPoolExecutor(16), options=[pings])
    ads_pb2_grpc.add_AggregatedDiscoveryServiceServicer_to_server(control_plane, server)
    identity = (Path(given.key).read_bytes(), Path(given.certificate).read_bytes())
    port = server.add_secure_port(given.address, grpc.ssl_server_credentials([identity]))
    server.start()
    tell(port=port)
    for line in sys.stdin:
        control_plane.obey(json.loads(line))
    server.stop(None)


if __name__ == "__main__":
    main()
