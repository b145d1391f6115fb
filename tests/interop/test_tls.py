"""Certificates by server name, certificates of clients, and stapled OCSP responses, judged by OpenSSL."""

import contextlib
import datetime
import json
import os
import socket
import ssl
import subprocess
import tempfile
import unittest

import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509 import ocsp

from harness import PATIENCE_S, Server

UPGRADE = (
    "GET /echo HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


class Files:
    """A folder with the files of certificates."""

    def __init__(self, folder):
        self.folder = folder

    def path(self, name):
        return os.path.join(self.folder, name)

    def write(self, name, contents):
        new = self.path(name + ".new")
        with open(new, "wb") as file:
            file.write(contents)
        os.rename(new, self.path(name))
        return self.path(name)

    def certificate(self, name, issued):
        """The flags for a certificate that trustme has issued."""
        chain = b"".join(blob.bytes() for blob in issued.cert_chain_pems)
        key = issued.private_key_pem.bytes()
        return ["--tls-cert", self.write(f"{name}.pem", chain), "--tls-key", self.write(f"{name}.key", key)]


@contextlib.contextmanager
def files():
    with tempfile.TemporaryDirectory() as folder:
        yield Files(folder)


def client(authority):
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


def upgraded(server, context, name):
    """Upgrades a connection. Returns the names of the server's certificate and the status line."""
    with socket.create_connection((server.host, server.port), timeout=PATIENCE_S) as plain:
        with context.wrap_socket(plain, server_hostname=name) as stream:
            names = {value for kind, value in stream.getpeercert().get("subjectAltName", ()) if kind == "DNS"}
            stream.sendall(UPGRADE.format(host=name).encode())
            return names, stream.recv(4096).split(b"\r\n")[0].decode()


class ServerNames(unittest.TestCase):
    def test_each_name_gets_its_certificate_and_an_unknown_one_the_first(self):
        authority = trustme.CA()
        with files() as folder:
            flags = []
            for name in ["first.example", "*.wild.example", "second.example"]:
                flags += folder.certificate(name.replace("*", "any"), authority.issue_cert(name))
            with Server(*flags, "--allow-host", "*") as server:
                context = client(authority)
                for asked, expected in [
                    ("first.example", "first.example"),
                    ("second.example", "second.example"),
                    ("SECOND.example", "second.example"),
                    ("a.wild.example", "*.wild.example"),
                ]:
                    names, status = upgraded(server, context, asked)
                    self.assertEqual((names, status[:12]), ({expected}, "HTTP/1.1 101"), asked)
                for asked in ["a.b.wild.example", "wild.example", "unknown.example"]:
                    with self.assertRaisesRegex(ssl.SSLCertVerificationError, "Hostname mismatch"):
                        upgraded(server, context, asked)
                context.check_hostname = False
                self.assertEqual(upgraded(server, context, "unknown.example")[0], {"first.example"})
                self.assertEqual(upgraded(server, context, None)[0], {"first.example"})

    def test_of_two_certificates_for_a_name_the_client_gets_one_whose_key_it_supports(self):
        authority = trustme.CA()
        with files() as folder:
            flags = folder.certificate("ec", authority.issue_cert("a.example", key_type=trustme.KeyType.ECDSA))
            flags += folder.certificate("rsa", authority.issue_cert("a.example", key_type=trustme.KeyType.RSA))
            with Server(*flags, "--allow-host", "*") as server:
                for suite in ["ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-RSA-AES128-GCM-SHA256"]:
                    context = client(authority)
                    context.maximum_version = ssl.TLSVersion.TLSv1_2
                    context.set_ciphers(suite)
                    self.assertIn("101", upgraded(server, context, "a.example")[1], suite)


class ClientCertificates(unittest.TestCase):
    def setUp(self):
        self.authority, self.clients, self.others = trustme.CA(), trustme.CA(), trustme.CA()

    def serve(self, folder, *flags):
        ca = folder.write("clients.pem", self.clients.cert_pem.bytes())
        own = folder.certificate("server", self.authority.issue_cert("localhost"))
        return Server(*own, "--tls-client-ca", ca, *flags)

    def as_client(self, authority):
        context = client(self.authority)
        if authority:
            authority.issue_cert("alice@clients.example").configure_cert(context)
        return context

    def refused(self, server, context):
        # With TLS 1.3 the client's handshake ends before the server has judged the certificate.
        with self.assertRaises((ssl.SSLError, ConnectionError)):
            upgraded(server, context, "localhost")

    def test_required_means_a_certificate_of_that_authority(self):
        with files() as folder, self.serve(folder) as server:
            self.assertIn("101", upgraded(server, self.as_client(self.clients), "localhost")[1])
            self.refused(server, self.as_client(None))
            self.refused(server, self.as_client(self.others))

    def test_optional_means_none_or_one_of_that_authority(self):
        with files() as folder, self.serve(folder, "--tls-client", "optional") as server:
            self.assertIn("101", upgraded(server, self.as_client(self.clients), "localhost")[1])
            self.assertIn("101", upgraded(server, self.as_client(None), "localhost")[1])
            self.refused(server, self.as_client(self.others))

    def test_the_subject_is_the_identity_in_resumed_sessions_too(self):
        with files() as folder, self.serve(folder) as server:
            context = client(self.authority)
            issued = self.clients.issue_cert(common_name="alice, the first", organization_name="Example+")
            issued.configure_cert(context)
            # As another implementation of RFC 4514 writes it.
            subject = x509.load_pem_x509_certificate(issued.cert_chain_pems[0].bytes()).subject.rfc4514_string()
            session = None
            for _ in range(3):
                with socket.create_connection((server.host, server.port), timeout=PATIENCE_S) as plain:
                    with context.wrap_socket(plain, server_hostname="localhost", session=session) as stream:
                        address = "{}:{}".format(*stream.getsockname())
                        stream.sendall(UPGRADE.format(host="localhost").encode())
                        self.assertIn(b"101", stream.recv(4096))
                        status, _, body = server.get("/connections")
                        self.assertEqual(status, 200, body)
                        connections = {one["address"]: one for one in json.loads(body)["connections"]}
                        self.assertEqual(connections[address]["identity"], subject)
                        session = stream.session

    def test_a_session_of_before_a_reload_does_not_spare_a_client_its_certificate(self):
        with files() as folder, self.serve(folder, "--tls-client", "optional") as server:
            context = self.as_client(None)
            with socket.create_connection((server.host, server.port), timeout=PATIENCE_S) as plain:
                with context.wrap_socket(plain, server_hostname="localhost") as stream:
                    stream.sendall(UPGRADE.format(host="localhost").encode())
                    stream.recv(4096)
                    session = stream.session
            folder.write("clients.pem", self.others.cert_pem.bytes())
            status, _, body = server.get("/reload", method="POST")
            self.assertEqual(status, 200, body)
            self.refused(server, self.as_client(self.clients))
            self.assertIn("101", upgraded(server, self.as_client(self.others), "localhost")[1])
            with socket.create_connection((server.host, server.port), timeout=PATIENCE_S) as plain:
                with context.wrap_socket(plain, server_hostname="localhost", session=session) as stream:
                    stream.sendall(UPGRADE.format(host="localhost").encode())
                    stream.recv(4096)
                    self.assertFalse(stream.session_reused)


class Ocsp(unittest.TestCase):
    def response(self, authority, issued):
        issuer = x509.load_pem_x509_certificate(authority.cert_pem.bytes())
        key = serialization.load_pem_private_key(authority.private_key_pem.bytes(), None)
        leaf = x509.load_pem_x509_certificate(issued.cert_chain_pems[0].bytes())
        now = datetime.datetime.now(datetime.timezone.utc)
        builder = ocsp.OCSPResponseBuilder().add_response(
            cert=leaf,
            issuer=issuer,
            algorithm=hashes.SHA1(),
            cert_status=ocsp.OCSPCertStatus.GOOD,
            this_update=now,
            next_update=now + datetime.timedelta(days=1),
            revocation_time=None,
            revocation_reason=None,
        )
        builder = builder.responder_id(ocsp.OCSPResponderEncoding.NAME, issuer)
        return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)

    def stapled(self, server):
        command = ["openssl", "s_client", "-connect", f"{server.host}:{server.port}", "-servername", "localhost", "-status"]
        asked = subprocess.run(command, input="", capture_output=True, text=True, timeout=PATIENCE_S, check=False)
        return asked.stdout

    def test_a_response_is_stapled_and_renewed(self):
        authority = trustme.CA()
        issued = authority.issue_cert("localhost")
        with files() as folder:
            flags = folder.certificate("server", issued)
            with Server(*flags) as server:
                self.assertIn("OCSP response: no response sent", self.stapled(server))
            response = folder.write("ocsp.der", self.response(authority, issued))
            with Server(*flags, "--tls-ocsp", response) as server:
                self.assertIn("Cert Status: good", self.stapled(server))
                folder.write("ocsp.der", b"no response")
                status, _, body = server.get("/reload", method="POST")
                self.assertEqual(status, 422, body)
                self.assertIn(b"no OCSP response", body)
                self.assertIn("Cert Status: good", self.stapled(server))
