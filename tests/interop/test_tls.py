"""Certificates by server name, certificates of clients, stapled OCSP responses and key exchanges, judged by OpenSSL and Chromium."""

import contextlib
import datetime
import json
import os
import re
import socket
import ssl
import subprocess
import tempfile
import unittest

import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509 import ocsp

from harness import PATIENCE_S, Server
from webdriver import Browser, available

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


def openssl_version():
    shown = subprocess.run(["openssl", "version"], capture_output=True, text=True, check=True).stdout
    return tuple(map(int, re.search(r"OpenSSL (\d+)\.(\d+)", shown).groups()))


@unittest.skipUnless(available(), "chromium and chromedriver are not installed")
class KeyExchangeOfChromium(unittest.TestCase):
    HEAVY = True

    def test_chromium_and_the_server_agree_on_the_hybrid_with_ml_kem(self):
        for driver in ["auto", "epoll"]:
            with files() as folder, Browser(watched=True) as browser:
                flags = folder.certificate("server", trustme.CA().issue_cert("localhost"))
                with Server(*flags, "--driver", driver) as server:
                    browser.open(f"https://localhost:{server.port}/")
                    browser.until("document.querySelector('#state').dataset.state === 'open'")
                    browser.type("#message", "through")
                    browser.click("#send")
                    browser.until("document.querySelector('#count').textContent === '1'")
                    responses = [one["response"] for one in browser.network("Network.responseReceived")]
                    details = [one["securityDetails"] for one in responses if one["url"].startswith("https://localhost:")]
                    self.assertTrue(details, responses)
                    for one in details:
                        self.assertEqual((one["protocol"], one["keyExchangeGroup"]), ("TLS 1.3", "X25519MLKEM768"), one)


class KeyExchangeOfOpenSsl(unittest.TestCase):
    def test_openssl_and_the_server_agree_on_the_best_group_of_both(self):
        # OpenSSL has ML-KEM since 3.5.
        best = "X25519MLKEM768" if openssl_version() >= (3, 5) else "X25519"
        self.assertRegex(self.negotiated(), rf"[ ]{best}(,|$)")

    def test_a_client_of_openssl_without_the_hybrid_is_served(self):
        for group, shown in [("X25519", "X25519"), ("P-256", "prime256v1"), ("P-384", "secp384r1")]:
            self.assertIn(shown, self.negotiated("-groups", group), group)

    def negotiated(self, *flags):
        """The line of s_client about the key exchange."""
        with files() as folder:
            with Server(*folder.certificate("server", trustme.CA().issue_cert("localhost"))) as server:
                command = ["openssl", "s_client", "-connect", f"{server.host}:{server.port}", *flags]
                done = subprocess.run(command, input="", capture_output=True, text=True, timeout=PATIENCE_S, check=False)
                found = re.search(r"^(Server Temp Key|Negotiated TLS1\.3 group): .*$", done.stdout, re.MULTILINE)
                self.assertIsNotNone(found, done.stdout + done.stderr)
                return found[0]


class CertificateMetrics(unittest.TestCase):
    NAME = "echoring_tls_certificate_expiry_timestamp_seconds"

    def reported(self, server):
        """The expiry of each certificate, by its file, number and key."""
        text = server.get("/metrics")[2].decode()
        sample = re.compile(rf'^{self.NAME}{{file="([^"]*)",number="(\d+)",key="([^"]*)"}} (\d+)', re.MULTILINE)
        return {(os.path.basename(file), int(number), key): int(at) for file, number, key, at in sample.findall(text)}

    def expected(self, folder, names):
        """The same as another library reads it from the files."""
        expected = {}
        for name in names:
            with open(folder.path(name), "rb") as file:
                for number, one in enumerate(x509.load_pem_x509_certificates(file.read()), 1):
                    key = one.public_key()
                    kind = f"rsa-{key.key_size}" if isinstance(key, rsa.RSAPublicKey) else f"ecdsa-p{key.key_size}"
                    expected[name, number, kind] = int(one.not_valid_after_utc.timestamp())
        return expected

    def test_each_certificate_has_its_expiry_and_key_and_a_reload_renews_them(self):
        authority, clients, others = trustme.CA(), trustme.CA(), trustme.CA()
        names = ["ec.pem", "rsa.pem", "clients.pem"]
        with files() as folder:
            ca = folder.write("clients.pem", clients.cert_pem.bytes())
            flags = folder.certificate("ec", authority.issue_cert("a.example", key_type=trustme.KeyType.ECDSA))
            later = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(days=40)
            renewed = authority.issue_cert("b.example", key_type=trustme.KeyType.RSA, not_after=later)
            flags += folder.certificate("rsa", authority.issue_cert("b.example", key_type=trustme.KeyType.ECDSA))
            with Server(*flags, "--tls-client-ca", ca, "--watch", "off") as server:
                before = self.reported(server)
                self.assertEqual(before, self.expected(folder, names))
                folder.certificate("rsa", renewed)
                folder.write("clients.pem", clients.cert_pem.bytes() + others.cert_pem.bytes())
                self.assertEqual(self.reported(server), before)
                status, _, body = server.get("/reload", method="POST")
                self.assertEqual(status, 200, body)
                after = self.reported(server)
                self.assertEqual(after, self.expected(folder, names))
                self.assertIn(("rsa.pem", 1, "rsa-2048"), after)
                self.assertIn(("clients.pem", 2), {key[:2] for key in after})
