/* uWebSockets as a peer: it sends back what it gets, without compression unless it is built with zlib and told so; then
 * it keeps no window from message to message.
 *
 *     uws_echo [--port PORT] [--compress]     prints `listening ws://127.0.0.1:PORT ...` once it accepts connections
 */

#include "App.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <unistd.h>

static const unsigned int BACKPRESSURE_BYTES = 64 * 1024 * 1024;
static const unsigned int MESSAGE_BYTES = 16 * 1024 * 1024;

struct Nothing {};

int main(int count, char **words) {
    int port = 0;
    bool compress = false;
    for (int at = 1; at < count; at++) {
        if (!strcmp(words[at], "--port") && at + 1 < count) {
            port = atoi(words[++at]);
        } else if (!strcmp(words[at], "--compress")) {
            compress = true;
        } else {
            fprintf(stderr, "usage: uws_echo [--port PORT] [--compress]\n");
            return 2;
        }
    }
    uWS::App()
        .ws<Nothing>("/*", {
            .compression = compress ? uWS::CompressOptions(uWS::SHARED_COMPRESSOR | uWS::SHARED_DECOMPRESSOR) : uWS::DISABLED,
            .maxPayloadLength = MESSAGE_BYTES,
            .maxBackpressure = BACKPRESSURE_BYTES,
            .message = [compress](auto *socket, std::string_view payload, uWS::OpCode kind) {
                socket->send(payload, kind, compress);
            },
        })
        .listen("127.0.0.1", port, [](auto *listening) {
            if (!listening) {
                fprintf(stderr, "uws_echo: cannot listen\n");
                exit(3);
            }
            int chosen = us_socket_local_port(0, (struct us_socket_t *) listening);
            printf("listening ws://127.0.0.1:%d driver=epoll shards=1 pid=%d\n", chosen, getpid());
            fflush(stdout);
        })
        .run();
    return 1;
}
