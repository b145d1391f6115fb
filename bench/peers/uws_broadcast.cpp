/* uWebSockets as a peer of scripts/bench-broadcast, which builds it: its own publish, a topic for each path, without
 * compression, or with a compressor for each connection. A subscriber's own messages do not come back to it.
 *
 *     uws_broadcast [--deferred] [--compress] [--port PORT]
 *
 * prints `listening ws://127.0.0.1:PORT ...` once it accepts connections.
 *
 * Programs publish in the handler that gets the message, and so does this. The publisher's socket then holds the loop's
 * only buffer for putting messages together, and a turn that brings a subscriber more than 32 messages sends them each
 * by itself. With --deferred messages are published behind the handler, where that does not happen: more than its
 * users get, and what it could do.
 */

#include "App.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <unistd.h>
#include <utility>
#include <vector>

/* Generous, so that nobody is left behind in an overload: it would drop messages without a word. */
static const unsigned int BACKPRESSURE_BYTES = 64 * 1024 * 1024;
static const unsigned int MESSAGE_BYTES = 16 * 1024 * 1024;

struct Subscriber {
    std::string topic;
};

typedef uWS::WebSocket<false, true, Subscriber> Socket;

struct Message {
    Socket *publisher;
    std::string payload;
    uWS::OpCode kind;
};

static std::vector<Message> deferred;

static bool compresses = false;

static void publish(Socket *socket, std::string_view payload, uWS::OpCode kind) {
    socket->publish(socket->getUserData()->topic, payload, kind, compresses);
}

static void publish_deferred() {
    for (Message &message : std::exchange(deferred, {})) {
        publish(message.publisher, message.payload, message.kind);
    }
}

static void defer(Socket *socket, std::string_view payload, uWS::OpCode kind) {
    if (deferred.empty()) {
        uWS::Loop::get()->defer(publish_deferred);
    }
    deferred.push_back({socket, std::string(payload), kind});
}

int main(int count, char **words) {
    int port = 0;
    bool later = false;
    for (int at = 1; at < count; at++) {
        if (!strcmp(words[at], "--deferred")) {
            later = true;
        } else if (!strcmp(words[at], "--compress")) {
            compresses = true;
        } else if (!strcmp(words[at], "--port") && at + 1 < count) {
            port = atoi(words[++at]);
        } else {
            fprintf(stderr, "usage: uws_broadcast [--deferred] [--compress] [--port PORT]\n");
            return 2;
        }
    }
    uWS::App::WebSocketBehavior<Subscriber> behavior;
    behavior.compression = compresses ? uWS::DEDICATED_COMPRESSOR : uWS::DISABLED;
    behavior.maxPayloadLength = MESSAGE_BYTES;
    behavior.maxBackpressure = BACKPRESSURE_BYTES;
    behavior.closeOnBackpressureLimit = true;
    behavior.idleTimeout = 120;
    behavior.upgrade = [](auto *response, auto *request, auto *context) {
        response->template upgrade<Subscriber>(
            {std::string(request->getUrl())}, request->getHeader("sec-websocket-key"),
            request->getHeader("sec-websocket-protocol"), request->getHeader("sec-websocket-extensions"), context);
    };
    behavior.open = [](Socket *socket) { socket->subscribe(socket->getUserData()->topic); };
    behavior.message = [later](Socket *socket, std::string_view payload, uWS::OpCode kind) {
        later ? defer(socket, payload, kind) : publish(socket, payload, kind);
    };
    /* What it published leaves before it does. */
    behavior.close = [](Socket *, int, std::string_view) { publish_deferred(); };
    uWS::App()
        .ws<Subscriber>("/*", std::move(behavior))
        .listen("127.0.0.1", port, [](us_listen_socket_t *socket) {
            if (!socket) {
                fprintf(stderr, "uws_broadcast: cannot listen\n");
                exit(3);
            }
            int port = us_socket_local_port(0, (us_socket_t *) socket);
            printf("listening ws://127.0.0.1:%d driver=epoll shards=1 pid=%d\n", port, getpid());
            fflush(stdout);
        })
        .run();
}
