"""What a server owes to peers that do not keep the rules: the status or the close code of the standard.

Raw sockets throughout: no client library would send these bytes.
"""

import unittest

from harness import Raw, Server, frame

TEXT, BINARY, CONTINUATION, CLOSE, PING, PONG = 1, 2, 0, 8, 9, 10


class BadInput(unittest.TestCase):
    denied = False

    @classmethod
    def setUpClass(cls):
        cls.server = Server("--handshake-timeout", "1s", denied=cls.denied)
        cls.addClassCleanup(cls.server.__exit__)

    def tearDown(self):
        """Whatever one peer did, the next is served."""
        with Raw(self.server).open() as bystander:
            bystander.send(frame(TEXT, b"still here"))
            self.assertEqual(bystander.read_frame(), (0x81, b"still here"))

    def status_of(self, request):
        with Raw(self.server) as peer:
            peer.send(request)
            return peer.read_head()[0]

    def upgrade_status(self, path="/echo", **fields):
        with Raw(self.server) as peer:
            return peer.upgrade(path, **fields)

    def close_code_of(self, *pieces, path="/echo"):
        with Raw(self.server).open(path) as peer:
            for piece in pieces:
                peer.send(piece)
            return peer.read_close()

    # ---- requests (RFC 6455, section 4.2; RFC 9112) ----

    def test_what_is_no_http_is_400(self):
        self.assertEqual(self.status_of(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n"), 400)
        self.assertEqual(self.status_of(b"GET\r\n\r\n"), 400)
        self.assertEqual(self.status_of(b"GET /echo HTTP/1.1\r\nno colon\r\n\r\n"), 400)
        self.assertEqual(self.status_of(b"GET /echo HTTP/1.1\r\nHost : a\r\n\r\n"), 400)

    def test_another_http_version_is_505(self):
        self.assertEqual(self.status_of(b"GET /echo HTTP/1.0\r\nHost: a\r\n\r\n"), 505)
        self.assertEqual(self.status_of(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), 505)

    def test_a_host_is_required_once(self):
        self.assertEqual(self.upgrade_status(Host=None)[0], 400)
        self.assertEqual(self.status_of(b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"), 400)

    def test_a_head_that_is_too_long_is_431(self):
        self.assertEqual(self.upgrade_status(X="x" * 16384)[0], 431)
        many = "".join(f"X-{i}: 1\r\n" for i in range(101))
        self.assertEqual(self.status_of(f"GET / HTTP/1.1\r\nHost: a\r\n{many}\r\n".encode()), 431)

    def test_an_upgrade_needs_all_its_fields(self):
        self.assertEqual(self.upgrade_status(Connection="keep-alive")[0], 400)
        self.assertEqual(self.upgrade_status(Upgrade="h2c")[0], 400)
        self.assertEqual(self.upgrade_status(Sec_WebSocket_Key=None)[0], 400)
        self.assertEqual(self.upgrade_status(Sec_WebSocket_Key="c2hvcnQ=")[0], 400)

    def test_an_upgrade_must_be_a_get(self):
        with Raw(self.server) as peer:
            peer.send(
                b"POST /echo HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n\r\n"
            )
            self.assertEqual(peer.read_head()[0], 405)

    def test_another_version_is_426_and_told_which_is_spoken(self):
        for version in ("12", "8", "0", None):
            status, headers = self.upgrade_status(Sec_WebSocket_Version=version)
            self.assertEqual(status, 426, version)
            self.assertEqual(headers["sec-websocket-version"], "13")

    def test_a_path_where_nothing_lives_is_404(self):
        self.assertEqual(self.upgrade_status("/nothing")[0], 404)
        self.assertEqual(self.status_of(b"GET /nothing HTTP/1.1\r\nHost: a\r\n\r\n"), 404)

    def test_a_dribbled_handshake_ends_at_its_deadline(self):
        with Raw(self.server) as peer:
            peer.send(b"GET /echo HTTP/1.1\r\nHost: a\r\nX")
            peer.read_end()

    def test_names_and_lists_of_fields_may_be_written_in_any_way(self):
        fields = {"Connection": "keep-alive, UPGRADE", "Upgrade": "WebSocket"}
        self.assertEqual(self.upgrade_status(**fields)[0], 101)

    def test_what_follows_the_head_in_the_same_packet_is_not_lost(self):
        with Raw(self.server) as peer:
            peer.send(
                b"GET /echo HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n\r\n"
                + frame(TEXT, b"early")
            )
            self.assertEqual(peer.read_head()[0], 101)
            self.assertEqual(peer.read_frame(), (0x81, b"early"))

    # ---- frames (RFC 6455, section 5) ----

    def test_an_unmasked_frame_is_1002(self):
        self.assertEqual(self.close_code_of(frame(TEXT, b"bare", mask=None)), 1002)

    def test_reserved_bits_and_opcodes_are_1002(self):
        for rsv in (0x40, 0x20, 0x10):
            self.assertEqual(self.close_code_of(frame(TEXT, b"x", rsv=rsv)), 1002)
        for opcode in (3, 7, 11, 15):
            self.assertEqual(self.close_code_of(frame(opcode, b"x")), 1002)

    def test_control_frames_are_short_and_whole(self):
        self.assertEqual(self.close_code_of(frame(PING, b"x" * 126)), 1002)
        self.assertEqual(self.close_code_of(frame(PING, b"x", fin=False)), 1002)

    def test_fragments_out_of_place_are_1002(self):
        self.assertEqual(self.close_code_of(frame(CONTINUATION, b"x")), 1002)
        self.assertEqual(self.close_code_of(frame(TEXT, b"a", fin=False), frame(TEXT, b"b")), 1002)

    def test_a_length_longer_than_it_needs_to_be_is_1002(self):
        long = b"\x82\xfe\x00\x05" + b"\0\0\0\0" + b"short"
        self.assertEqual(self.close_code_of(long), 1002)
        self.assertEqual(self.close_code_of(b"\x82\xff" + b"\x80" + b"\0" * 7 + b"\0\0\0\0"), 1002)

    def test_text_that_is_not_utf_8_is_1007(self):
        for wrong in (b"\xff", b"\xc0\xaf", b"\xed\xa0\x80", b"ok \xe2\x82", b"\xf4\x90\x80\x80"):
            self.assertEqual(self.close_code_of(frame(TEXT, wrong)), 1007, wrong)

    def test_bad_utf_8_in_a_fragment_fails_before_the_message_is_complete(self):
        self.assertEqual(self.close_code_of(frame(TEXT, b"fine \xe2\x82", fin=False), frame(0, b"\xff", fin=False)), 1007)

    def test_a_character_split_between_fragments_is_whole(self):
        with Raw(self.server).open() as peer:
            peer.send(frame(TEXT, b"\xe2\x82", fin=False) + frame(PING, b"now") + frame(CONTINUATION, b"\xac"))
            got = b""
            pong = None
            while True:
                first, payload = peer.read_frame()
                if first & 15 == PONG:
                    pong = payload
                    continue
                got += payload
                if first & 0x80:
                    break
            self.assertEqual((got, pong), ("€".encode(), b"now"))

    def test_a_message_over_the_limit_is_1009_from_its_header_alone(self):
        self.assertEqual(self.close_code_of(frame(BINARY, b"", length=65537)), 1009)
        self.assertEqual(self.close_code_of(frame(BINARY, b"", length=1 << 62)), 1009)

    def test_fragments_that_add_up_over_the_limit_are_1009(self):
        half = frame(BINARY, b"x" * 40000, fin=False)
        rest = frame(CONTINUATION, b"", length=25537)
        self.assertEqual(self.close_code_of(half + rest), 1009)

    def test_close_frames_are_checked_too(self):
        self.assertEqual(self.close_code_of(frame(CLOSE, b"\x03")), 1002)
        for code in (0, 999, 1004, 1005, 1006, 1015, 2999, 5000, 65535):
            self.assertEqual(self.close_code_of(frame(CLOSE, code.to_bytes(2, "big"))), 1002, code)
        self.assertEqual(self.close_code_of(frame(CLOSE, b"\x03\xe8\xff")), 1007)
        self.assertEqual(self.close_code_of(frame(CLOSE)), 1005)

    def test_broadcast_checks_its_publishers_as_well(self):
        self.assertEqual(self.close_code_of(frame(TEXT, b"\xff"), path="/broadcast/bad"), 1007)
        self.assertEqual(self.close_code_of(frame(BINARY, b"", length=65537), path="/broadcast/bad"), 1009)

    def test_a_frame_in_single_bytes_is_understood(self):
        with Raw(self.server).open() as peer:
            for byte in frame(TEXT, b"slowly"):
                peer.send(bytes([byte]))
            self.assertEqual(peer.read_frame(), (0x81, b"slowly"))

    # ---- origins (RFC 6455, section 10.2) ----

    def test_only_the_own_host_may_connect_from_a_page(self):
        self.assertEqual(self.upgrade_status(Host="a:1", Origin="http://a:1")[0], 101)
        self.assertEqual(self.upgrade_status(Host="a:1", Origin="http://b")[0], 403)
        self.assertEqual(self.upgrade_status(Host="a:1", Origin="null")[0], 403)
        self.assertTrue(self.server.wait_for_log("--allow-origin"))


class BadInputWithoutIoUring(BadInput):
    denied = True


class Origins(unittest.TestCase):
    def status(self, server, origin):
        with Raw(server) as peer:
            return peer.upgrade(Host="a", Origin=origin)[0]

    def test_listed_origins_may_connect_and_others_not(self):
        flags = ("--allow-origin", "https://app.example", "--allow-origin", "https://b.example:8443")
        with Server(*flags) as server:
            self.assertEqual(self.status(server, "https://app.example"), 101)
            self.assertEqual(self.status(server, "https://app.example:443"), 101)
            self.assertEqual(self.status(server, "https://b.example:8443"), 101)
            self.assertEqual(self.status(server, "http://app.example"), 403)
            self.assertEqual(self.status(server, "https://b.example"), 403)
            self.assertEqual(self.status(server, "https://app.example.evil"), 403)

    def test_a_star_lets_every_page_connect(self):
        with Server("--allow-origin", "*") as server:
            self.assertEqual(self.status(server, "https://anywhere.example"), 101)
