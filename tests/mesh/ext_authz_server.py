"""An external authorizer over gRPC: allows requests with ``x-let-in: yes``, and TCP connections to port 90."""

import sys
from concurrent.futures import ThreadPoolExecutor

import grpc
from envoy.service.auth.v3 import external_auth_pb2 as auth
from envoy.service.auth.v3 import external_auth_pb2_grpc as service


class Judge(service.AuthorizationServicer):
    def Check(self, request, context):
        attributes = request.attributes
        headers = attributes.request.http.headers
        allowed = (
            headers.get("x-let-in") == "yes"
            if headers
            else attributes.destination.address.socket_address.port_value == 90
        )
        answer = auth.CheckResponse()
        answer.status.code = 0 if allowed else 7
        if allowed:
            answer.ok_response.headers.add().header.key = "x-judged"
            answer.ok_response.headers[0].header.value = "by-grpc"
        else:
            answer.denied_response.status.code = 418
        return answer


server = grpc.server(ThreadPoolExecutor(2))
service.add_AuthorizationServicer_to_server(Judge(), server)
server.add_insecure_port(f"0.0.0.0:{sys.argv[1]}")
server.start()
server.wait_for_termination()
