/* uWebSockets as a peer of scripts/bench-broadcast, which builds it: its own publish, a topic for each path, without
 * compression. A subscriber's own messages do not come back to it.
 *
 *     uws_broadcast [PORT]        prints `listening ws://127.0.0.1:PORT ...` once it accepts connections
 */

#include "App.h"

#include <cstdio>
#include <cstdlib>
#include <string>
#include <unistd.h>

/* Generous, so that nobody is left behind in an overload: it would drop messages without a word. */
static const unsigned int BACKPRESSURE_BYTES = 64 * 1024 * 1024;
static const unsigned int MESSAGE_BYTES = 16 * 1024 * 1024;

struct Subscriber {
    std::string topic;
};

int main(int count, char **words) {
    int port = count > 1 ? atoi(words[1]) : 0;
    uWS::App::WebSocketBehavior<Subscriber> behavior;
    behavior.compression = uWS::DISABLED;
    behavior.maxPayloadLength = MESSAGE_BYTES;
    behavior.maxBackpressure = BACKPRESSURE_BYTES;
    behavior.closeOnBackpressureLimit = true;
    behavior.idleTimeout = 120;
    behavior.upgrade = [](auto *response, auto *request, auto *context) {
        response->template upgrade<Subscriber>(
            {std::string(request->getUrl())}, request->getHeader("sec-websocket-key"),
            request->getHeader("sec-websocket-protocol"), request->getHeader("sec-websocket-extensions"), context);
    };
    behavior.open = [](auto *socket) { socket->subscribe(socket->getUserData()->topic); };
    behavior.message = [](auto *socket, std::string_view message, uWS::OpCode kind) {
        socket->publish(socket->getUserData()->topic, message, kind, false);
    };
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
