"""Headless browsers: Chromium, driven by chromedriver over plain HTTP (W3C WebDriver), and Firefox, which understands WebDriver BiDi."""

import base64
import http.client
import json
import os
import re
import shutil
import subprocess
import tempfile
import threading

from harness import PATIENCE_S
from websockets.sync.client import connect

FLAGS = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

FIREFOX = shutil.which("firefox-esr")
FIREFOX_PREFERENCES = {
    "app.update.disabledForTesting": True,
    "datareporting.policy.dataSubmissionEnabled": False,
    "network.captive-portal-service.enabled": False,
    "network.connectivity-service.enabled": False,
    "toolkit.telemetry.enabled": False,
}


def available():
    return shutil.which("chromedriver") is not None and shutil.which("chromium") is not None


class Browser:
    """Runs Chromium with a new profile for the duration of the block.

    With `watched`, it notes what the network does (`network`), and trusts every certificate.
    """

    def __init__(self, watched=False):
        self.profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        self.driver = subprocess.Popen(
            ["chromedriver", "--port=0", "--allowed-ips="],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.session = None
        try:
            self.port = self._port()
            options = {"binary": shutil.which("chromium"), "args": [*FLAGS, f"--user-data-dir={self.profile.name}"]}
            logging = {"browser": "ALL", **({"performance": "ALL"} if watched else {})}
            chrome = {"browserName": "chrome", "goog:chromeOptions": options, "goog:loggingPrefs": logging}
            chrome["acceptInsecureCerts"] = watched
            capabilities = {"alwaysMatch": chrome}
            created = self._call("POST", "/session", {"capabilities": capabilities})
            self.session = f"/session/{created['sessionId']}"
            timeouts = {"script": PATIENCE_S * 1000, "pageLoad": PATIENCE_S * 1000}
            self._call("POST", f"{self.session}/timeouts", timeouts)
        except BaseException:
            self.close()
            raise

    def _port(self):
        for line in self.driver.stdout:
            match = re.search(r"started successfully on port (\d+)", line)
            if match:
                return int(match[1])
        raise AssertionError("chromedriver did not start")

    def _call(self, method, path, body=None):
        # One call starts the browser, which is slow on a cold machine.
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=4 * PATIENCE_S)
        try:
            data = None if body is None else json.dumps(body)
            connection.request(method, path, data, {"Content-Type": "application/json"})
            value = json.loads(connection.getresponse().read())["value"]
        finally:
            connection.close()
        if isinstance(value, dict) and "error" in value:
            raise AssertionError(f"{value['error']}: {value['message']}")
        return value

    def open(self, url):
        self._call("POST", f"{self.session}/url", {"url": url})
        # On a busy machine chromedriver returns before all of a long page is there.
        self.run(
            """
            if (document.readyState !== "complete") {
                await new Promise((resolve) => window.addEventListener("load", resolve));
            }
            """
        )

    def new_tab(self):
        handle = self._call("POST", f"{self.session}/window/new", {"type": "tab"})["handle"]
        self.switch(handle)
        return handle

    def tab(self):
        return self._call("GET", f"{self.session}/window")

    def switch(self, handle):
        self._call("POST", f"{self.session}/window", {"handle": handle})

    def run(self, script, *arguments):
        """Runs the body of an async function in the page. Returns its result."""
        body = {"script": f"return (async (...args) => {{ {script} }})(...arguments)", "args": list(arguments)}
        return self._call("POST", f"{self.session}/execute/sync", body)

    def until(self, condition):
        """Waits in the page until a JavaScript expression is true. Checks it after every change of the page."""
        return self.run(
            f"""
            const holds = () => {{ return {condition}; }};
            if (holds()) return true;
            return await new Promise((resolve) => {{
                const watch = new MutationObserver(() => {{ if (holds()) {{ watch.disconnect(); resolve(true); }} }});
                watch.observe(document, {{ subtree: true, childList: true, characterData: true, attributes: true }});
            }});
            """
        )

    def find(self, selector):
        element = self._call("POST", f"{self.session}/element", {"using": "css selector", "value": selector})
        return f"{self.session}/element/{next(iter(element.values()))}"

    def click(self, selector):
        self._call("POST", f"{self.find(selector)}/click", {})

    def type(self, selector, text):
        element = self.find(selector)
        self._call("POST", f"{element}/clear", {})
        self._call("POST", f"{element}/value", {"text": text})

    def text(self, selector):
        return self._call("GET", f"{self.find(selector)}/text")

    def hover(self, selector, across, down):
        """Moves the mouse over the first element, to these shares of its width and height."""
        left, top, width, height = self.run(
            """
            const element = document.querySelector(args[0]);
            element.scrollIntoView({ block: "center", behavior: "instant" });
            const box = element.getBoundingClientRect();
            return [box.left, box.top, box.width, box.height];
            """,
            selector,
        )
        moved = {"type": "mouseMoved", "x": left + across * width, "y": top + down * height}
        self._devtools("Input.dispatchMouseEvent", moved)

    def press(self, selector, text):
        """Types after the present text. A line feed is the Enter key."""
        self._call("POST", f"{self.find(selector)}/value", {"text": text})

    def close_tab(self):
        self._call("DELETE", f"{self.session}/window")

    def log(self):
        """The lines that the browser has written to its console since the last call."""
        return [entry["message"] for entry in self._call("POST", f"{self.session}/se/log", {"type": "browser"})]

    def network(self, event):
        """The parameters of the events of this name, such as Network.responseReceived, since the last call."""
        entries = self._call("POST", f"{self.session}/se/log", {"type": "performance"})
        events = [json.loads(entry["message"])["message"] for entry in entries]
        return [one["params"] for one in events if one["method"] == event]

    def look(self, width, height, scheme):
        """Sets the viewport in CSS pixels, and the preferred colour scheme, light or dark."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self._devtools("Emulation.setDeviceMetricsOverride", metrics)
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self._devtools("Emulation.setEmulatedMedia", {"features": features})

    def screenshot(self, path):
        with open(path, "wb") as file:
            file.write(base64.b64decode(self._call("GET", f"{self.session}/screenshot")))

    def _devtools(self, command, parameters):
        body = {"cmd": command, "params": parameters}
        return self._call("POST", f"{self.session}/goog/cdp/execute", body)

    def close(self):
        if self.session:
            try:
                self._call("DELETE", self.session)
            except (AssertionError, OSError):
                pass
        self.driver.terminate()
        self.driver.wait()
        self.driver.stdout.close()
        self.profile.cleanup()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


class Firefox:
    """Runs Firefox with a new profile until it is closed, and scripts in its first page. With `trusting`, it trusts every certificate."""

    def __init__(self, trusting=False):
        self.profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        # Firefox should connect to none of its maker's servers.
        with open(os.path.join(self.profile.name, "user.js"), "w") as file:
            file.write("\n".join(f"user_pref({json.dumps(name)}, {json.dumps(value)});" for name, value in FIREFOX_PREFERENCES.items()))
        self.process = subprocess.Popen(
            [FIREFOX, "--headless", "--no-remote", "--profile", self.profile.name, "--remote-debugging-port", "0"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )
        self.connection = None
        try:
            self.connection = connect(f"{self._address()}/session", max_size=None, proxy=None)
            self.calls = 0
            self._call("session.new", capabilities={"alwaysMatch": {"acceptInsecureCerts": trusting}})
            self.page = self._call("browsingContext.getTree")["contexts"][0]["context"]
        except BaseException:
            self.close()
            raise

    def _address(self):
        for line in self.process.stderr:
            if match := re.search(r"WebDriver BiDi listening on (ws://\S+)", line):
                # Firefox goes on writing, and would block if nobody read it.
                threading.Thread(target=self.process.stderr.read, daemon=True).start()
                return match[1]
        raise AssertionError("Firefox did not start")

    def _call(self, method, **parameters):
        self.calls += 1
        self.connection.send(json.dumps({"id": self.calls, "method": method, "params": parameters}))
        while True:
            answer = json.loads(self.connection.recv(4 * PATIENCE_S))
            if answer.get("id") == self.calls:
                if answer["type"] == "error":
                    raise AssertionError(f"{answer['error']}: {answer['message']}")
                return answer["result"]

    def open(self, url):
        self._call("browsingContext.navigate", context=self.page, url=url, wait="complete")

    def run(self, script, *arguments):
        """Runs the body of an async function in the page. Returns its result."""
        function = f"async (text) => JSON.stringify(await (async (...args) => {{ {script} }})(...JSON.parse(text))) ?? null"
        arguments = [{"type": "string", "value": json.dumps(arguments)}]
        target = {"context": self.page}
        called = {"functionDeclaration": function, "arguments": arguments, "target": target, "awaitPromise": True}
        answer = self._call("script.callFunction", **called)
        if answer["type"] == "exception":
            raise AssertionError(answer["exceptionDetails"]["text"])
        return json.loads(answer["result"].get("value", "null"))

    def close(self):
        if self.connection is not None:
            self.connection.close()
        self.process.kill()
        self.process.wait()
        self.profile.cleanup()
