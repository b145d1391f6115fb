"""Credentials made by other implementations: JWT by PyJWT, keys by cryptography and OpenSSL, hashes by argon2-cffi."""

import base64
import contextlib
import http.server
import json
import os
import re
import ssl
import subprocess
import tempfile
import threading
import time
import unittest

import argon2
import jwt
import trustme
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from harness import BINARY, PATIENCE_S, Server
from websockets.exceptions import ConnectionClosed, InvalidMessage, InvalidStatus
from websockets.sync.client import connect

SECRET = "a secret of at least thirty-two bytes"
KEYS = {
    "RS256": rsa.generate_private_key(65537, 2048),
    "ES256": ec.generate_private_key(ec.SECP256R1()),
    "EdDSA": ed25519.Ed25519PrivateKey.generate(),
}
CURVES = {
    "ES256": KEYS["ES256"],
    "ES384": ec.generate_private_key(ec.SECP384R1()),
    "ES512": ec.generate_private_key(ec.SECP521R1()),
}
LONG_SECRET = "a secret of at least sixty-four bytes, which is as long as SHA-512 is"
# The key of each algorithm.
EVERY = {
    **{f"{kind}{bits}": KEYS["RS256"] for kind in ("RS", "PS") for bits in (256, 384, 512)},
    **CURVES,
    "EdDSA": KEYS["EdDSA"],
    **{f"HS{bits}": LONG_SECRET for bits in (256, 384, 512)},
}


def public_pem(key):
    return key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def jwk(algorithm, key, kid):
    kinds = {"RS": jwt.algorithms.RSAAlgorithm, "PS": jwt.algorithms.RSAAlgorithm, "ES": jwt.algorithms.ECAlgorithm}
    kind = kinds.get(algorithm[:2], jwt.algorithms.OKPAlgorithm)
    return {**json.loads(kind.to_jwk(key.public_key())), "kid": kid, "use": "sig", "alg": algorithm}


def claims(subject="alice", expires_in=600, **more):
    return {"sub": subject, "exp": int(time.time()) + expires_in, **more}


def status(server, path="/echo", token=None, headers=None):
    """The status of a handshake with a bearer token."""
    fields = dict(headers or {})
    if token is not None:
        fields["Authorization"] = f"Bearer {token}"
    try:
        with connect(server.url(path), additional_headers=fields, open_timeout=PATIENCE_S):
            return 101
    except InvalidStatus as refused:
        return refused.response.status_code


class WithFiles(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = folder.name

    def file(self, name, content):
        path = os.path.join(self.folder, name)
        with open(path, "wb") as file:
            file.write(content if isinstance(content, bytes) else content.encode())
        return path

    def server(self, *flags):
        server = Server(*flags)
        self.addCleanup(server.__exit__)
        return server


class Tokens(WithFiles):
    def test_tokens_of_pyjwt_are_verified_with_keys_of_cryptography(self):
        flags = [f"--auth-jwt-key={self.file(name, public_pem(key))}" for name, key in KEYS.items()]
        server = self.server(*flags, f"--auth-jwt-key={self.file('secret', SECRET)}")
        for algorithm, key in [*KEYS.items(), ("HS256", SECRET)]:
            with self.subTest(algorithm):
                self.assertEqual(status(server, token=jwt.encode(claims(), key, algorithm)), 101)
                late = claims(expires_in=-1)
                self.assertEqual(status(server, token=jwt.encode(late, key, algorithm)), 401)
        for algorithm, key in [
            ("RS256", rsa.generate_private_key(65537, 2048)),
            ("ES256", ec.generate_private_key(ec.SECP256R1())),
            ("EdDSA", ed25519.Ed25519PrivateKey.generate()),
            ("HS256", SECRET + "x"),
            ("ES384", CURVES["ES384"]),
            ("HS512", SECRET + "x" * 64),
            ("none", None),
        ]:
            with self.subTest(algorithm, forged=True):
                self.assertEqual(status(server, token=jwt.encode(claims(), key, algorithm)), 401)

    def test_every_algorithm_of_pyjwt_is_verified(self):
        keys = {name: public_pem(key) for name, key in {**CURVES, "RSA": KEYS["RS256"], "EdDSA": KEYS["EdDSA"]}.items()}
        flags = [f"--auth-jwt-key={self.file(name, key)}" for name, key in {**keys, "secret": LONG_SECRET}.items()]
        by_files = self.server(*flags)
        members = [jwk(name, key, name) for name, key in EVERY.items() if key != LONG_SECRET]
        secret = base64.urlsafe_b64encode(LONG_SECRET.encode()).rstrip(b"=").decode()
        members += [{"kty": "oct", "k": secret, "kid": f"HS{bits}", "alg": f"HS{bits}"} for bits in (256, 384, 512)]
        by_set = self.server(f"--auth-jwks={self.file('jwks.json', json.dumps({'keys': members}))}")
        for algorithm, key in EVERY.items():
            with self.subTest(algorithm):
                self.assertEqual(status(by_files, token=jwt.encode(claims(), key, algorithm)), 101)
                named = jwt.encode(claims(), key, algorithm, headers={"kid": algorithm})
                self.assertEqual(status(by_set, token=named), 101)
                message, _, signature = named.rpartition(".")
                self.assertEqual(status(by_set, token=f"{message}.{signature[:-8]}"), 401)
        # A key of a set is for its algorithm alone.
        confused = jwt.encode(claims(), KEYS["RS256"], "PS256", headers={"kid": "RS256"})
        self.assertIn(status(by_set, token=confused), (401, 503))

    def test_keys_of_openssl_are_read(self):
        for kind, algorithm in (
            (["RSA", "-pkeyopt", "rsa_keygen_bits:3072"], "PS384"),
            (["EC", "-pkeyopt", "ec_paramgen_curve:P-256"], "ES256"),
            (["EC", "-pkeyopt", "ec_paramgen_curve:P-384"], "ES384"),
            (["EC", "-pkeyopt", "ec_paramgen_curve:P-521"], "ES512"),
            (["ed25519"], "EdDSA"),
        ):
            with self.subTest(algorithm):
                private = subprocess.run(
                    ["openssl", "genpkey", "-algorithm", *kind], check=True, capture_output=True
                ).stdout
                public = subprocess.run(
                    ["openssl", "pkey", "-pubout"], input=private, check=True, capture_output=True
                ).stdout
                server = self.server(f"--auth-jwt-key={self.file('key', public)}")
                self.assertEqual(status(server, token=jwt.encode(claims(), private, algorithm)), 101)
                wrong = subprocess.run(
                    [BINARY, "serve", "--check", f"--auth-jwt-key={self.file('private', private)}"],
                    capture_output=True,
                    text=True,
                )
                self.assertEqual(wrong.returncode, 3)
                self.assertIn("expected a public key", wrong.stderr)

    def test_a_public_key_is_no_secret_of_hs256(self):
        public = public_pem(KEYS["RS256"])
        server = self.server(f"--auth-jwt-key={self.file('key', public)}")
        message = ".".join(
            base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode()
            for part in ({"alg": "HS256", "typ": "JWT"}, claims())
        )
        key = jwt.algorithms.HMACAlgorithm(jwt.algorithms.HMACAlgorithm.SHA256)
        for secret in (public, public.strip()):
            signature = base64.urlsafe_b64encode(key.sign(message.encode(), secret)).rstrip(b"=").decode()
            self.assertEqual(status(server, token=f"{message}.{signature}"), 401)

    def test_a_browsers_way_of_sending_a_token_works_with_other_clients(self):
        config = self.file("config", '[topic_defaults]\nsubscribe = "claim"\n')
        server = self.server(f"--auth-jwt-key={self.file('secret', SECRET)}", "--config", config)
        token = jwt.encode(claims(subscribe=["news.*"]), SECRET, "HS256")
        with connect(server.url("/broadcast"), subprotocols=["echoring.v1.json", "bearer", token]) as client:
            self.assertEqual(client.subprotocol, "echoring.v1.json")
            client.send(json.dumps({"type": "subscribe", "id": 1, "topic": "news.today"}))
            self.assertEqual(json.loads(client.recv(PATIENCE_S))["type"], "subscribed")
        with connect(server.url("/broadcast/news.today"), subprotocols=["bearer", token]) as client:
            self.assertEqual(client.subprotocol, "bearer")
        self.assertEqual(status(server, "/broadcast/other", token), 403)

    def test_a_session_goes_on_with_a_fresh_token_and_ends_with_its_last(self):
        server = self.server(f"--auth-jwt-key={self.file('secret', SECRET)}")
        token = lambda seconds: jwt.encode(claims(expires_in=seconds), SECRET, "HS256")
        with connect(server.url("/broadcast"), subprotocols=["echoring.v1.json", "bearer", token(6)]) as client:
            self.assertEqual(json.loads(client.recv(PATIENCE_S))["type"], "token_expires")
            client.send(json.dumps({"type": "authenticate", "id": 1, "token": token(10)}))
            self.assertEqual(json.loads(client.recv(PATIENCE_S))["subject"], "alice")
            self.assertEqual(json.loads(client.recv(PATIENCE_S))["type"], "token_expires")
            with self.assertRaises(ConnectionClosed) as ended:
                client.recv(PATIENCE_S)
            self.assertEqual(ended.exception.rcvd.code, 4001)


class Provider:
    """Serves a JWKS, over HTTPS if it has a certificate."""

    def __init__(self, certificate=None):
        provider = self
        self.answer, self.requests = {"keys": []}, 0

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                provider.requests += 1
                body = json.dumps(provider.answer).encode()
                self.send_response(200 if provider.answer else 500)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        scheme = "http"
        if certificate:
            scheme = "https"
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            certificate.configure_cert(context)
            self.http.socket = context.wrap_socket(self.http.socket, server_side=True)
        threading.Thread(target=self.http.serve_forever, daemon=True).start()
        self.url = f"{scheme}://localhost:{self.http.server_address[1]}/jwks.json"

    def close(self):
        self.http.shutdown()
        self.http.server_close()


class KeySets(WithFiles):
    def test_a_key_set_over_https_is_fetched_rotated_and_kept(self):
        authority = trustme.CA()
        roots = self.file("roots.pem", authority.cert_pem.bytes())
        provider = Provider(authority.issue_cert("localhost"))
        self.addCleanup(provider.close)
        provider.answer = {"keys": [jwk("RS256", KEYS["RS256"], "first")]}
        with contextlib.ExitStack() as environment:
            before = os.environ.get("SSL_CERT_FILE")
            os.environ["SSL_CERT_FILE"] = roots
            environment.callback(
                lambda: os.environ.pop("SSL_CERT_FILE") if before is None else os.environ.update(SSL_CERT_FILE=before)
            )
            server = self.server(f"--auth-jwks={provider.url}", "--auth-audience=us", "--auth-issuer=https://idp")
        token = lambda algorithm, kid, **more: jwt.encode(
            claims(**{"aud": "us", "iss": "https://idp", **more}), KEYS[algorithm], algorithm, headers={"kid": kid}
        )
        while status(server, token=token("RS256", "first")) == 503:
            pass
        self.assertEqual(status(server, token=token("RS256", "first")), 101)
        for wrong in ({"aud": "them"}, {"aud": ["them"]}, {"iss": "https://evil"}):
            self.assertEqual(status(server, token=token("RS256", "first", **wrong)), 401)
        provider.answer["keys"].append(jwk("EdDSA", KEYS["EdDSA"], "second"))
        self.assertEqual(status(server, token=token("EdDSA", "second")), 101)
        provider.answer = None
        asked = provider.requests
        for _ in range(20):
            self.assertEqual(status(server, token=token("ES256", "third")), 503, "nobody knows whether there is such a key")
        self.assertEqual(provider.requests, asked, "an unknown key id asks once a minute")
        self.assertEqual(status(server, token=token("RS256", "first")), 101)

    def test_a_token_that_cannot_be_checked_is_unavailable_and_a_server_without_its_key_set_is_not_ready(self):
        provider = Provider()
        self.addCleanup(provider.close)
        provider.answer = None
        server = self.server(f"--auth-jwks={provider.url}")
        token = jwt.encode(claims(), KEYS["EdDSA"], "EdDSA", headers={"kid": "first"})
        for address in (server.admin, (server.host, server.port)):
            code, _, body = server.get("/readyz", address=address)
            self.assertEqual((code, body.strip()), (503, b"the key set of [auth] has not been read yet"))
        server.wait_for_log("the key set cannot be refreshed")
        self.assertEqual(self.figures(server)[0], 0)
        self.assertGreater(self.figures(server)[1], 0)
        for _ in range(3):
            with self.assertRaises(InvalidStatus) as refused:
                connect(server.url("/echo"), additional_headers={"Authorization": f"Bearer {token}"}, open_timeout=PATIENCE_S)
            response = refused.exception.response
            self.assertEqual((response.status_code, response.headers["Retry-After"]), (503, "2"))
            with connect(server.url("/connection/websocket"), open_timeout=PATIENCE_S) as client:
                client.send(json.dumps({"id": 1, "connect": {"token": token}}))
                error = json.loads(client.recv(PATIENCE_S))["error"]
                self.assertEqual((error["code"], error["temporary"]), (100, True), "SDKs return")
        provider.answer = {"keys": [jwk("EdDSA", KEYS["EdDSA"], "first")]}
        while server.get("/readyz")[0] == 503:
            pass
        self.assertEqual(status(server, token=token), 101)
        self.assertLess(abs(self.figures(server)[0] - time.time()), 60)
        # The first of these has the key set read, and is invalid. The others come within the same minute.
        unknown = [jwt.encode(claims(), KEYS["EdDSA"], "EdDSA", headers={"kid": f"{number}"}) for number in range(4)]
        self.assertEqual([status(server, token=token) for token in unknown], [401, 503, 503, 503])

    def figures(self, server):
        """When the key set was last read, and how often it could not be."""
        text = server.get("/metrics")[2].decode()
        names = ("echoring_key_set_last_success_timestamp_seconds", "echoring_key_set_failures_total")
        return [float(re.search(rf"^{name} (\S+)$", text, re.MULTILINE)[1]) for name in names]

    def test_a_key_set_is_a_file_too(self):
        keys = [jwk(algorithm, key, algorithm) for algorithm, key in KEYS.items()]
        server = self.server(f"--auth-jwks={self.file('jwks.json', json.dumps({'keys': keys}))}")
        for algorithm, key in KEYS.items():
            self.assertEqual(status(server, token=jwt.encode(claims(), key, algorithm)), 101)


class Passwords(WithFiles):
    def test_hashes_of_argon2_cffi_are_verified(self):
        kinds = {"id": argon2.Type.ID, "i": argon2.Type.I, "d": argon2.Type.D}
        users = ""
        for name, kind in kinds.items():
            hasher = argon2.PasswordHasher(time_cost=2, memory_cost=1024, parallelism=2, type=kind)
            users += f'[[users]]\nname = "{name}"\npassword = "{hasher.hash("correct horse")}"\n'
        server = self.server(f"--auth-basic={self.file('users.toml', users)}")
        basic = lambda name, password: {
            "Authorization": "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()
        }
        for name in kinds:
            self.assertEqual(status(server, headers=basic(name, "correct horse")), 101)
            self.assertEqual(status(server, headers=basic(name, "wrong")), 401)
        self.assertEqual(status(server, headers=basic("nobody", "correct horse")), 401)

    def test_who_guesses_keeps_out_nobody_else_and_is_banned(self):
        # A check takes so long that those who guess would fill the queue.
        hasher = argon2.PasswordHasher(time_cost=1, memory_cost=16 * 1024, parallelism=1)
        names = [f"user{number}" for number in range(6)]
        users = "".join(f'[[users]]\nname = "{name}"\npassword = "{hasher.hash(name)}"\n' for name in names)
        server = self.server(f"--auth-basic={self.file('users.toml', users)}", "--ban-after=30", "--trusted-proxy=127.0.0.1")
        basic = lambda name, password, address: {
            "Authorization": "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode(),
            "X-Forwarded-For": address,
        }
        guesses, done = [], threading.Event()

        def guess():
            while not done.is_set():
                try:
                    guesses.append(status(server, headers=basic(names[0], "wrong", "192.0.2.1")))
                except (ConnectionError, TimeoutError, EOFError, InvalidMessage):
                    guesses.append(0)
                if guesses[-1] == 503:
                    done.wait(0.2)

        guessers = [threading.Thread(target=guess) for _ in range(80)]
        for guesser in guessers:
            guesser.start()
        try:
            while 503 not in guesses:
                done.wait(0.01)
            for number, name in enumerate(names):
                self.assertEqual(status(server, headers=basic(name, name, f"192.0.2.{2 + number}")), 101)
            while 429 not in guesses:
                done.wait(0.01)
        finally:
            done.set()
            for guesser in guessers:
                guesser.join()
        self.assertLessEqual(set(guesses), {0, 401, 429, 503})
        figures = json.loads(server.get("/limits")[2])
        self.assertGreaterEqual(figures["limited"]["passwords"], 30)
        self.assertEqual(figures["bans"], 1)


if __name__ == "__main__":
    unittest.main()
