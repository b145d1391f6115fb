/* Boost.Beast as a peer: asynchronous, one thread, it sends back what it gets.
 *
 *     beast [--compress]     prints `listening ws://127.0.0.1:PORT ...` once it accepts connections
 */

#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/beast/core.hpp>
#include <boost/beast/websocket.hpp>

#include <cstdio>
#include <cstring>
#include <memory>
#include <unistd.h>

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace websocket = beast::websocket;
using asio::ip::tcp;

static const std::size_t MESSAGE_BYTES = 16 * 1024 * 1024;
/* What ten thousand who come at once need. */
static const int BACKLOG = 4096;

static bool compress = false;

class Session : public std::enable_shared_from_this<Session> {
  public:
    explicit Session(tcp::socket socket) : socket_(std::move(socket)) {}

    void start() {
        beast::get_lowest_layer(socket_).set_option(tcp::no_delay(true));
        websocket::permessage_deflate deflate;
        deflate.server_enable = compress;
        deflate.server_no_context_takeover = true;
        deflate.client_no_context_takeover = true;
        socket_.set_option(deflate);
        socket_.read_message_max(MESSAGE_BYTES);
        socket_.auto_fragment(false);
        socket_.async_accept([self = shared_from_this()](beast::error_code failed) {
            if (!failed) {
                self->read();
            }
        });
    }

  private:
    void read() {
        socket_.async_read(buffer_, [self = shared_from_this()](beast::error_code failed, std::size_t) {
            if (!failed) {
                self->write();
            }
        });
    }

    void write() {
        socket_.text(socket_.got_text());
        socket_.async_write(buffer_.data(), [self = shared_from_this()](beast::error_code failed, std::size_t) {
            if (!failed) {
                self->buffer_.consume(self->buffer_.size());
                self->read();
            }
        });
    }

    websocket::stream<tcp::socket> socket_;
    beast::flat_buffer buffer_;
};

static void accept(tcp::acceptor &acceptor) {
    acceptor.async_accept([&acceptor](beast::error_code failed, tcp::socket socket) {
        if (!failed) {
            std::make_shared<Session>(std::move(socket))->start();
        }
        accept(acceptor);
    });
}

int main(int count, char **words) {
    compress = count > 1 && !strcmp(words[1], "--compress");
    asio::io_context loop(1);
    tcp::acceptor acceptor(loop);
    acceptor.open(tcp::v4());
    acceptor.bind({asio::ip::address_v4::loopback(), 0});
    acceptor.listen(BACKLOG);
    printf("listening ws://127.0.0.1:%d driver=epoll shards=1 pid=%d\n", acceptor.local_endpoint().port(), getpid());
    fflush(stdout);
    accept(acceptor);
    loop.run();
}
